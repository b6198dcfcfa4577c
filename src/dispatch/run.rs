//! The loop around the scheduler: it hears what happens, and carries out what is decided.
//!
//! Nothing here waits for the disk or an endpoint: attempts, settlements and reads are tasks that
//! report back. A settlement that the store does not take is offered again until it does; its
//! delivery rests meanwhile, and when too many rest, nothing new is attempted.

use std::{future::Future, pin::Pin, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Action, DispatcherStatus, Input, Options, Scheduler, Spilled,
    batches::BatchCommand,
    budget::Budget,
    executor::{Completion, Executor},
    handle::{Command, Handle},
    messages::Messages,
    meters::{Meters, watch_backlog},
    owned::{Owned, Shares},
};
use crate::{
    catalog::{Catalog, CatalogWriter},
    clock::{Clock, Watch},
    destinations::Outlets,
    hint::{self, Hint},
    model::{Destination, DestinationId, IdMap, Message, Owed},
    store::{Store, StoreError},
    tail::Tail,
};

/// What the loop is given.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub catalog_writer: Arc<CatalogWriter>,
    pub outlets: Arc<dyn Outlets>,
    /// What is owed since the start, in accept order.
    pub hints: hint::Receiver<Vec<(Owed, Message)>, Spilled>,
    pub tail: Tail,
    /// Where several nodes share the work. `None`: this one delivers to all destinations.
    pub shares: Option<Shares>,
    /// Becomes true when the loop is to end.
    pub stop: watch::Receiver<bool>,
    /// By how much the clock is behind what the store has seen.
    pub set_back: SignedDuration,
    pub options: Options,
}

/// Delivers until it is stopped.
pub struct Runner {
    pub(super) clock: Arc<dyn Clock>,
    watch: Watch,
    set_back: SignedDuration,
    store: Arc<dyn Store>,
    catalog: watch::Receiver<Arc<Catalog>>,
    hints: hint::Receiver<Vec<(Owed, Message)>, Spilled>,
    commands: mpsc::Receiver<Command>,
    stop: watch::Receiver<bool>,
    /// Never more than what is in flight, unsettled and being read.
    reports: mpsc::UnboundedReceiver<Completion>,
    pub(super) scheduler: Scheduler,
    pub(super) executor: Executor,
    actions: Vec<Action>,
    pub(super) destinations: IdMap<DestinationId, Arc<Destination>>,
    alarm: Option<Alarm>,
    status: Arc<watch::Sender<DispatcherStatus>>,
    idlers: Vec<oneshot::Sender<DispatcherStatus>>,
    hints_are_open: bool,
    pub(super) is_stopping: bool,
    pub(super) is_over: bool,
    pub(super) retry_store_after: std::time::Duration,
    pub(super) owned: Option<Owned>,
}

type Alarm = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Things of one kind that are taken in before the others have their turn.
const REPORTS_AT_ONCE: usize = 1_024;
const HINTS_AT_ONCE: usize = 16;

/// What woke the loop.
enum Wake {
    Report(Option<Completion>),
    Hint(Option<Hint<Vec<(Owed, Message)>, Spilled>>),
    Command(Option<Command>),
    Catalog,
    Shares,
    Time,
    Stop,
}

/// The loop, and the handle by which others speak to it.
pub fn runner(parts: Parts) -> (Runner, Handle) {
    const COMMANDS: usize = 256;
    let (command_sender, commands) = mpsc::channel(COMMANDS);
    let status = Arc::new(watch::Sender::new(DispatcherStatus::default()));
    let (report_sender, reports) = mpsc::unbounded_channel();
    let catalog = parts.catalog_writer.watch();
    let executor = Executor::new(
        parts.store.clone(),
        parts.clock.clone(),
        parts.catalog_writer,
        parts.outlets,
        parts.tail,
        report_sender,
        Messages::new(parts.options.message_bytes),
        Meters::new(),
        parts.options.retry_store_after,
        Budget::new(parts.options.line_bytes, parts.options.in_flight_bytes),
    );
    let outgoing = executor.outgoing();
    let runner = Runner {
        watch: Watch::new(parts.clock.as_ref()),
        set_back: parts.set_back,
        clock: parts.clock,
        store: parts.store,
        catalog,
        hints: parts.hints,
        commands,
        stop: parts.stop,
        reports,
        retry_store_after: parts.options.retry_store_after,
        scheduler: Scheduler::new(parts.options),
        executor,
        actions: Vec::new(),
        destinations: IdMap::default(),
        alarm: None,
        status: status.clone(),
        idlers: Vec::new(),
        hints_are_open: true,
        is_stopping: false,
        is_over: false,
        owned: parts.shares.map(Owned::new),
    };
    (runner, Handle { commands: command_sender, status, outgoing })
}

impl Runner {
    /// Runs until it is stopped and everything in flight has ended and is on disk, or until
    /// the store is closed. What is not delivered by then is owed at the next start.
    pub async fn run(mut self) {
        if !self.set_back.is_zero() {
            self.step(self.clock.now(), Input::SetBack(self.set_back));
        }
        self.learn_catalog();
        // Where work comes in shares, the store is asked when they come.
        if self.owned.is_none() && !self.learn_backlog().await {
            return;
        }
        let gauges =
            tokio::spawn(watch_backlog(self.store.clone(), self.clock.clone(), self.ownership()));
        while !self.is_over {
            let wake = self.wake().await;
            if let Some(by) = self.watch.set_back(self.clock.as_ref()) {
                tracing::warn!(seconds = by.as_secs(), "the machine's clock was set back");
                self.step(self.clock.now(), Input::SetBack(by));
            }
            let now = self.clock.now();
            self.learn_catalog_if_changed();
            match wake {
                Wake::Report(Some(report)) => self.report(report, now),
                Wake::Hint(Some(hint)) => self.hint(hint, now),
                Wake::Hint(None) => self.hints_are_open = false,
                Wake::Command(Some(command)) => self.command(command, now),
                Wake::Time => {
                    self.alarm = None;
                    self.step(now, Input::Tick);
                    // A clock that stepped back rings again.
                    if self.alarm.is_none() {
                        self.set_alarm(self.scheduler.next_due());
                    }
                }
                Wake::Stop => {
                    self.is_stopping = true;
                    self.step(now, Input::Stop);
                    self.executor.stop();
                    self.give_back(now);
                }
                // The wait itself has marked the change as seen.
                Wake::Catalog => self.learn_catalog(),
                Wake::Shares => self.shares_changed(now),
                Wake::Report(None) | Wake::Command(None) => (),
            }
            self.take_what_is_there(now);
            self.give_back(now);
            self.end_what_is_quiet();
            self.executor.flush();
            self.tell();
        }
        self.end_shares();
        gauges.abort();
        tracing::debug!("the dispatcher has ended");
    }

    async fn wake(&mut self) -> Wake {
        let time = async {
            match &mut self.alarm {
                Some(alarm) => alarm.await,
                None => std::future::pending().await,
            }
        };
        let shares = async {
            match &mut self.owned {
                Some(owned) => owned.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // An error means that nobody can stop us any more: then the process ends.
            _ = self.stop.wait_for(|it| *it), if !self.is_stopping => Wake::Stop,
            () = shares => Wake::Shares,
            report = self.reports.recv() => Wake::Report(report),
            hint = self.hints.receive(), if self.hints_are_open => Wake::Hint(hint),
            Some(command) = self.commands.recv() => Wake::Command(Some(command)),
            Ok(()) = self.catalog.changed() => Wake::Catalog,
            () = time => Wake::Time,
        }
    }

    /// Whatever waits already is taken in together, so that its settlements share a call.
    fn take_what_is_there(&mut self, now: Timestamp) {
        for _ in 0..REPORTS_AT_ONCE {
            let Ok(report) = self.reports.try_recv() else { break };
            self.report(report, now);
        }
        for _ in 0..HINTS_AT_ONCE {
            let Some(hint) = self.hints.try_receive() else { break };
            self.hint(hint, now);
        }
    }

    fn report(&mut self, report: Completion, now: Timestamp) {
        match report {
            Completion::Attempted { destination, delivery, outcome, message } => {
                self.executor.attempted(destination, message);
                self.step(now, Input::Finished { destination, delivery, outcome });
            }
            Completion::Withheld { owed, message } => {
                let (destination, delivery) = (owed.destination, owed.seq);
                self.executor.attempted(destination, Some(message));
                // What is cancelled while it is under way ends so when it comes back.
                self.step(now, Input::Cancel(vec![owed]));
                self.step(now, Input::Returned { destination, delivery });
            }
            Completion::WithheldTogether { batch, owed } => {
                self.withheld_together(batch, owed, now)
            }
            Completion::PartEnded { destination, batch, outcome, messages } => {
                let deliveries = messages.iter().map(|it| it.seq).collect();
                self.executor.attempted_together(messages);
                self.step(now, Input::PartEnded { destination, batch, deliveries, outcome });
                self.executor.attempted_together(Vec::new());
            }
            Completion::Cut { destination, batch, left, missing } => {
                self.step(now, Input::Cut { destination, batch, left, missing });
            }
            Completion::BatchOver { destination, batch, messages } => {
                self.executor.batch_over(destination, batch, messages);
                self.step(now, Input::BrokenOff { destination, batch });
            }
            Completion::Settled(settled) => {
                self.executor.settled();
                self.step(now, Input::Settled(settled));
            }
            Completion::Refused { settled, refused } => {
                self.executor.settled();
                self.step(now, Input::Settled(settled));
                self.step(now, Input::Refused(refused));
            }
            Completion::Learned(learned) => self.learned(learned, now),
            Completion::Refreshed(lost) => self.refreshed(lost, now),
            Completion::Refilled { destination, rows } => {
                self.step(now, Input::Refilled { destination, rows });
            }
            Completion::Loaded { wanted, messages } => {
                self.executor.loaded(wanted, messages);
                self.give_back(now);
            }
            Completion::Disabled => self.executor.disabled(),
            Completion::Closed => self.is_over = true,
            Completion::Nudge => (),
        }
    }

    fn withheld_together(&mut self, batch: u32, owed: Vec<Owed>, now: Timestamp) {
        let Some(destination) = owed.first().map(|it| it.destination) else { return };
        let left = owed.iter().map(|it| it.seq).collect();
        self.step(now, Input::Cancel(owed));
        self.step(now, Input::Cut { destination, batch, left, missing: Vec::new() });
    }

    fn hint(&mut self, hint: Hint<Vec<(Owed, Message)>, Spilled>, now: Timestamp) {
        match hint {
            Hint::Some(planned) => {
                let mut owed = Vec::with_capacity(planned.len());
                for (it, message) in planned {
                    owed.push(it);
                    self.executor.keep(message);
                }
                // The pipeline may have planned by a newer catalogue than we have seen.
                self.learn_catalog_if_changed();
                self.sort_planned(owed, now);
            }
            Hint::Lost(lost) => {
                self.learn_catalog_if_changed();
                metrics::counter!("tidegate_dispatch_hints_lost_total").increment(1);
                self.miss(lost, now);
            }
        }
    }

    fn command(&mut self, command: Command, now: Timestamp) {
        match command {
            Command::Cancel(owed) => self.cancel(owed, now),
            Command::Spilled(lost) => self.miss(lost, now),
            Command::Heard(lost) => self.hear(lost, now),
            Command::Anew => self.replanned(now),
            Command::Poke(destination) => self.poke(destination, now),
            Command::Line(destination, answer) => {
                let _ = answer.send(self.scheduler.status(destination, now));
            }
            Command::Idle(answer) => {
                self.idlers.push(answer);
                // The clock may have moved without having woken us yet.
                self.step(now, Input::Tick);
            }
        }
    }

    pub(super) fn step(&mut self, now: Timestamp, input: Input) {
        if self.owned.is_some() {
            self.scheduler.pause(self.executor.is_unsure());
        }
        self.scheduler.step(now, input, &mut self.actions);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Wake(at) => self.set_alarm(at),
                Action::Drained => self.is_over = true,
                Action::Attempt(owed) => self.executor.attempt(owed),
                Action::Batch { destination, number, deliveries, bytes } => {
                    self.executor.attempt_batch(destination, number, deliveries, bytes);
                }
                Action::GoOn { destination, number } => {
                    self.executor.order(destination, number, BatchCommand::GoOn);
                }
                Action::Leave { destination, number } => {
                    self.executor.order(destination, number, BatchCommand::Leave);
                }
                Action::Settle(settlement) => self.executor.settle(settlement),
                Action::Refill(query) => self.executor.read(query),
                Action::Disable { destination, version, reason } => {
                    self.executor.disable(destination, version, reason);
                }
            }
        }
        self.actions = actions;
    }

    fn set_alarm(&mut self, at: Option<Timestamp>) {
        let clock = self.clock.clone();
        self.alarm = at.map(|at| Box::pin(async move { clock.sleep_until(at).await }) as Alarm);
    }

    /// Tells the scheduler of what the hands could not attempt.
    pub(super) fn give_back(&mut self, now: Timestamp) {
        // What takes their place may come back too.
        loop {
            let inputs = self.executor.given_back();
            if inputs.is_empty() {
                return;
            }
            for input in inputs {
                self.step(now, input);
            }
        }
    }

    pub(super) fn learn_catalog_if_changed(&mut self) {
        if self.catalog.has_changed().unwrap_or(false) {
            self.learn_catalog();
        }
    }

    /// Tells the scheduler what is new, changed or gone since it last saw the catalogue.
    pub(super) fn learn_catalog(&mut self) {
        let catalog = self.catalog.borrow_and_update().clone();
        let now = self.clock.now();
        let is_gone = |id: &&DestinationId| !catalog.destinations.contains_key(id);
        for id in self.destinations.keys().filter(is_gone).copied().collect::<Vec<_>>() {
            self.destinations.remove(&id);
            self.step(now, Input::Removed(id));
        }
        for (id, destination) in &catalog.destinations {
            let known = self.destinations.get(id);
            if known.is_none_or(|it| !Arc::ptr_eq(it, destination)) && self.owns(*id) {
                self.destinations.insert(*id, destination.clone());
                self.step(now, Input::Settings(destination.clone()));
            }
        }
    }

    /// Asks the store to whom it owes something from before the start. `false`: it is closed.
    async fn learn_backlog(&mut self) -> bool {
        loop {
            match self.store.backlog().await {
                Ok(backlog) => {
                    let destinations = backlog.iter().map(|it| it.destination).collect();
                    let now = self.clock.now();
                    self.learn_catalog_if_changed();
                    self.step(now, Input::Backlog(destinations));
                    return true;
                }
                Err(StoreError::Closed) => return false,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot read what is owed"
                    );
                }
            }
            let until = super::later(self.clock.now(), self.retry_store_after);
            tokio::select! {
                () = self.clock.sleep_until(until) => (),
                _ = self.stop.wait_for(|it| *it) => return false,
            }
        }
    }

    /// Publishes the status, and answers those who wait for quiet.
    fn tell(&mut self) {
        let totals = self.scheduler.totals();
        let status = DispatcherStatus {
            in_flight: totals.in_flight,
            held: totals.held,
            unsettled: totals.unsettled,
            is_idle: self.scheduler.is_idle() && self.executor.are_idle(),
            next_due: self.scheduler.next_due(),
            backlog_known: true,
            is_drained: self.is_over,
        };
        self.executor.meters().in_flight.set(status.in_flight as f64);
        self.executor.meters().held.set(status.held as f64);
        // Who begins to watch meanwhile sees what stands here afterwards.
        self.status.send_if_modified(|it| {
            let is_new = *it != status;
            *it = status;
            is_new && self.status.receiver_count() > 0
        });
        if status.is_idle && !self.idlers.is_empty() && self.hints_are_empty() {
            for idler in self.idlers.drain(..) {
                let _ = idler.send(status);
            }
        }
    }

    /// Whether every hint was taken in. One that was not is taken in here, and then they were not.
    fn hints_are_empty(&mut self) -> bool {
        match self.hints.try_receive() {
            Some(hint) => {
                self.hint(hint, self.clock.now());
                self.executor.flush();
                // Wakes the loop, which looks again.
                self.executor.nudge();
                false
            }
            None => true,
        }
    }
}
