//! Decides what is attempted, and when: a pure state machine without clock, I/O or chance.
//!
//! What happens comes in as an [`Input`] with the time at which it happened, and what is to be done
//! goes out as [`Action`]s. The same inputs give the same actions, so a simulation can drive it
//! through years in a second.
//!
//! A delivery passes these gates in turn: its destination is active; the endpoint is not left alone
//! (breaker, `Retry-After`); it is at the head of its lane; the rate limit; the destination's
//! concurrency; the places left over all destinations. Waiting at a gate uses no attempt.
//!
//! Nothing is decided on what is not on disk: a lane moves on, and a retry starts, only when the
//! settlement before it was confirmed. After a crash the store therefore says what comes next, and
//! the only difference is that what was in flight is attempted once more.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use jiff::{SignedDuration, Timestamp};

use super::{
    Options,
    fairness::Rounds,
    input::{Action, Input},
    queue::{DestinationQueue, Gate, StepContext, Totals},
    status::LineStatus,
};
use crate::model::{DestinationId, IdMap, Owed, ProjectId};

pub struct Scheduler {
    options: Options,
    seats: Vec<Seat>,
    numbers: IdMap<DestinationId, usize>,
    rounds: Rounds,
    totals: Totals,
    alarms: BinaryHeap<Reverse<(Timestamp, usize)>>,
    /// Those whose state may have changed in this step.
    touched: Vec<usize>,
    readers: VecDeque<usize>,
    /// Deleted destinations whose deliveries are being cancelled.
    removing: Vec<usize>,
    told_wake: Option<Timestamp>,
    stopping: Stopping,
    is_paused: bool,
}

/// The place of one destination. It is not given to another when the destination is gone.
struct Seat {
    line: Option<Box<DestinationQueue>>,
    is_touched: bool,
    is_reader: bool,
    alarm: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stopping {
    No,
    Yes,
    Drained,
}

impl Scheduler {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            seats: Vec::new(),
            numbers: IdMap::default(),
            rounds: Rounds::default(),
            totals: Totals::default(),
            alarms: BinaryHeap::new(),
            touched: Vec::new(),
            readers: VecDeque::new(),
            removing: Vec::new(),
            told_wake: None,
            stopping: Stopping::No,
            is_paused: false,
        }
    }

    /// Takes in what happened `now`, and adds what is to be done.
    pub fn step(&mut self, now: Timestamp, input: Input, actions: &mut Vec<Action>) {
        self.take(now, input, actions);
        self.ring(now);
        self.look_at_touched(now, actions);
        if self.stopping == Stopping::No && !self.is_paused {
            self.start(now, actions);
            self.read(now, actions);
        } else if self.stopping == Stopping::Yes
            && self.totals.in_flight == 0
            && self.totals.unsettled == 0
        {
            self.stopping = Stopping::Drained;
            actions.push(Action::Drained);
        }
        let wake = self.alarms.peek().map(|Reverse((at, _))| *at);
        if wake != self.told_wake {
            self.told_wake = wake;
            actions.push(Action::Wake(wake));
        }
    }

    /// Nothing is to be started or read until this is taken back.
    pub fn pause(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Those of which anything is known.
    pub fn destinations(&self) -> impl Iterator<Item = DestinationId> {
        self.numbers.keys().copied()
    }

    /// Whether nothing for it is in flight, or on its way to the disk.
    pub fn is_quiet(&self, destination: DestinationId) -> bool {
        let number = self.numbers.get(&destination);
        let line = number.and_then(|it| self.seats[*it].line.as_ref());
        line.is_none_or(|it| it.is_quiet())
    }

    /// Whether nothing is under way and nothing can start before the next alarm.
    pub fn is_idle(&self) -> bool {
        let is_stopped = self.stopping != Stopping::No;
        self.totals.in_flight == 0
            && self.totals.unsettled == 0
            && self.totals.reads == 0
            && (is_stopped || self.rounds.is_empty() && self.readers.is_empty())
    }

    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// When the next alarm is.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.told_wake
    }

    pub fn status(&mut self, destination: DestinationId, now: Timestamp) -> Option<LineStatus> {
        let number = *self.numbers.get(&destination)?;
        self.seats[number].line.as_mut().map(|line| line.status(now))
    }

    fn take(&mut self, now: Timestamp, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Settings(destination) => {
                let number = self.seat(destination.id);
                self.rounds.enrol(number, destination.project);
                self.removing.retain(|it| *it != number);
                self.with(number, now, actions, |line, step| line.configure(destination, step));
            }
            Input::Removed(destination) => {
                if let Some(&number) = self.numbers.get(&destination) {
                    self.with(number, now, actions, DestinationQueue::remove);
                    self.removing.push(number);
                }
            }
            Input::Backlog(destinations) => {
                for destination in destinations {
                    let number = self.seat(destination);
                    self.with(number, now, actions, |line, _| line.mark_unread());
                }
            }
            Input::Planned(deliveries) => self.plan(deliveries, now, actions),
            Input::Spilled(lost) => {
                for (destination, missed) in lost.0 {
                    let number = self.seat(destination);
                    self.with(number, now, actions, |line, step| line.lost(&missed, step));
                }
            }
            ended @ (Input::Finished { .. }
            | Input::Returned { .. }
            | Input::Missing { .. }
            | Input::TooMuch { .. }
            | Input::PartEnded { .. }
            | Input::Cut { .. }
            | Input::BrokenOff { .. }) => self.take_end(now, ended, actions),
            Input::Settled(settled) => {
                for (destination, delivery) in settled {
                    if let Some(&number) = self.numbers.get(&destination) {
                        self.with(number, now, actions, |line, step| line.settled(delivery, step));
                    }
                }
                for index in 0..self.removing.len() {
                    self.touch(self.removing[index]);
                }
            }
            handed @ (Input::Refused(_) | Input::Left(_) | Input::Back(_)) => {
                self.take_handover(now, handed, actions);
            }
            Input::Refilled { destination, rows } => {
                self.with_known(destination, now, actions, |line, step| line.refilled(rows, step));
            }
            Input::Cancel(deliveries) => {
                for owed in deliveries {
                    let number = self.seat(owed.destination);
                    self.with(number, now, actions, |line, step| line.cancel(owed, step));
                }
            }
            Input::Poke(destination) => {
                self.with_known(destination, now, actions, |line, _| line.unpause());
            }
            Input::Tick => (),
            Input::SetBack(by) => self.set_back(by),
            Input::Stop => {
                self.stopping = Stopping::Yes;
                self.totals.is_stopping = true;
            }
        }
    }

    /// Waits are lengths: what was to be done in a minute is still to be done in a minute.
    fn set_back(&mut self, by: SignedDuration) {
        self.totals.set_back = self.totals.set_back.saturating_add(by);
        self.alarms.clear();
        for number in 0..self.seats.len() {
            let seat = &mut self.seats[number];
            seat.alarm = None;
            if let Some(line) = &mut seat.line {
                line.set_back(by);
                self.touch(number);
            }
        }
    }

    /// Destinations go to another node, or come back.
    fn take_handover(&mut self, now: Timestamp, input: Input, actions: &mut Vec<Action>) {
        if let Input::Refused(refused) = input {
            for (destination, delivery) in refused {
                self.with_known(destination, now, actions, |it, step| it.refused(delivery, step));
            }
        } else if let Input::Left(destinations) = input {
            for destination in destinations {
                self.with_known(destination, now, actions, DestinationQueue::leave);
            }
        } else if let Input::Back(destinations) = input {
            for destination in destinations {
                self.with_known(destination, now, actions, |line, _| line.come_back());
            }
        }
    }

    /// What became of an attempt.
    fn take_end(&mut self, now: Timestamp, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Finished { destination, delivery, outcome } => {
                self.end_attempt(destination, now, actions, |line, step| {
                    line.finished(delivery, outcome, step)
                })
            }
            Input::Returned { destination, delivery } => {
                self.end_attempt(destination, now, actions, |line, step| {
                    line.returned(delivery, step)
                })
            }
            Input::Missing { destination, delivery } => {
                self.end_attempt(destination, now, actions, |line, step| {
                    line.missing(delivery, step)
                })
            }
            Input::TooMuch { destination, delivery } => {
                self.end_attempt(destination, now, actions, |line, step| {
                    line.too_much(delivery, step)
                })
            }
            Input::PartEnded { destination, batch, deliveries, outcome } => {
                self.end_attempt(destination, now, actions, |line, step| {
                    line.part_ended(batch, &deliveries, outcome, step)
                })
            }
            Input::Cut { destination, batch, left, missing } => {
                self.end_attempt(destination, now, actions, |line, step| {
                    line.cut(batch, &left, &missing, step)
                })
            }
            Input::BrokenOff { destination, batch } => {
                self.end_attempt(destination, now, actions, |line, step| {
                    line.broken_off(batch, step)
                })
            }
            Input::Settings(_)
            | Input::Removed(_)
            | Input::Backlog(_)
            | Input::Planned(_)
            | Input::Spilled(_)
            | Input::Settled(_)
            | Input::Refused(_)
            | Input::Left(_)
            | Input::Back(_)
            | Input::Refilled { .. }
            | Input::Cancel(_)
            | Input::Poke(_)
            | Input::Tick
            | Input::SetBack(_)
            | Input::Stop => (),
        }
    }

    fn plan(&mut self, deliveries: Vec<Owed>, now: Timestamp, actions: &mut Vec<Action>) {
        let last = deliveries.iter().map(|owed| owed.seq.event()).max();
        for owed in deliveries {
            if !self.totals.early.has_ended(owed.seq) {
                let number = self.seat(owed.destination);
                self.with(number, now, actions, |line, step| line.plan(owed, step));
            }
        }
        if let Some(last) = last {
            self.totals.early.hinted(last);
        }
    }

    /// The number of a destination. One that was never heard of counts as deleted until it is.
    fn seat(&mut self, destination: DestinationId) -> usize {
        if let Some(&number) = self.numbers.get(&destination) {
            return number;
        }
        let number = self.seats.len();
        self.numbers.insert(destination, number);
        let line = Some(Box::new(DestinationQueue::new(destination)));
        self.seats.push(Seat { line, is_touched: false, is_reader: false, alarm: None });
        self.rounds.enrol(number, ProjectId::from_bits(0));
        self.removing.push(number);
        number
    }

    fn with<T>(
        &mut self,
        number: usize,
        now: Timestamp,
        actions: &mut Vec<Action>,
        act: impl FnOnce(&mut DestinationQueue, &mut StepContext<'_>) -> T,
    ) -> Option<T> {
        self.touch(number);
        let mut step =
            StepContext { now, options: &self.options, totals: &mut self.totals, actions };
        self.seats[number].line.as_mut().map(|line| act(line, &mut step))
    }

    fn with_known(
        &mut self,
        destination: DestinationId,
        now: Timestamp,
        actions: &mut Vec<Action>,
        act: impl FnOnce(&mut DestinationQueue, &mut StepContext<'_>),
    ) {
        if let Some(&number) = self.numbers.get(&destination) {
            self.with(number, now, actions, act);
        }
    }

    fn end_attempt(
        &mut self,
        destination: DestinationId,
        now: Timestamp,
        actions: &mut Vec<Action>,
        act: impl FnOnce(&mut DestinationQueue, &mut StepContext<'_>) -> bool,
    ) {
        if let Some(&number) = self.numbers.get(&destination)
            && self.with(number, now, actions, act) == Some(true)
        {
            self.rounds.finished(number);
        }
    }

    fn touch(&mut self, number: usize) {
        if !self.seats[number].is_touched {
            self.seats[number].is_touched = true;
            self.touched.push(number);
        }
    }

    /// Wakes those whose alarm is due.
    fn ring(&mut self, now: Timestamp) {
        while let Some(&Reverse((at, number))) = self.alarms.peek()
            && at <= now
        {
            self.alarms.pop();
            let seat = &mut self.seats[number];
            if seat.alarm == Some(at) {
                seat.alarm = None;
            }
            self.touch(number);
        }
    }

    /// Looks at a destination after something happened: may it start, must it read, when is it due?
    fn look(&mut self, number: usize, now: Timestamp, actions: &mut Vec<Action>) {
        let seat = &mut self.seats[number];
        let Some(line) = &mut seat.line else { return };
        if line.is_gone() {
            self.numbers.remove(&line.id);
            seat.line = None;
            self.removing.retain(|it| *it != number);
            return;
        }
        if line.is_away() {
            let totals = &mut self.totals;
            line.leave(&mut StepContext { now, options: &self.options, totals, actions });
        }
        line.wake(now);
        if matches!(line.gate(now), Gate::Open) {
            self.rounds.queue(number);
        }
        let step = StepContext { now, options: &self.options, totals: &mut self.totals, actions };
        if !seat.is_reader && line.wants_to_read(&step) {
            seat.is_reader = true;
            self.readers.push_back(number);
        }
        // The earliest alarm is enough: when it rings, the next is set. One that stands and is too
        // early rings in vain.
        if let Some(at) = line.alarm(now)
            && seat.alarm.is_none_or(|set| at < set)
        {
            seat.alarm = Some(at);
            self.alarms.push(Reverse((at, number)));
        }
    }

    fn start(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        while self.totals.in_flight < self.options.in_flight
            && self.totals.unsettled < self.options.unsettled_at_most
        {
            let free = self.options.in_flight - self.totals.in_flight;
            let Some(number) = self.rounds.next(free) else { break };
            let mut step =
                StepContext { now, options: &self.options, totals: &mut self.totals, actions };
            let started =
                self.seats[number].line.as_mut().is_some_and(|line| line.start(&mut step));
            if started {
                self.rounds.started(number);
            } else {
                self.rounds.passed(number);
            }
            self.touch(number);
        }
        self.look_at_touched(now, actions);
    }

    /// Nothing is touched by being looked at.
    fn look_at_touched(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let mut touched = std::mem::take(&mut self.touched);
        for number in touched.drain(..) {
            self.seats[number].is_touched = false;
            self.look(number, now, actions);
        }
        self.touched = touched;
    }

    fn read(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        while self.totals.reads < self.options.reads_at_once
            && let Some(number) = self.readers.pop_front()
        {
            let seat = &mut self.seats[number];
            seat.is_reader = false;
            let mut step =
                StepContext { now, options: &self.options, totals: &mut self.totals, actions };
            if let Some(query) = seat.line.as_mut().and_then(|line| line.read(&mut step)) {
                actions.push(Action::Refill(query));
            }
        }
    }
}
