//! What waits: pipelines of events that asked for something, and those that stand behind them.
//!
//! Pure bookkeeping. A [`Ticket`] is one pipeline of one event. It goes on when all of its answers
//! are there, and when no earlier event waits in the same lane of the same destination, so that
//! what has to be in order stays in order. Whoever has no lane waits for nobody.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    expr::EventBudget,
    model::{Event, EventSeq, Name, Plan, Skipped},
    pipeline::{
        ask::LookupAnswer,
        plan::{Ids, PipelinePlan, QuestionSlot, Spot, Turns},
    },
};

/// One pipeline of one event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket {
    pub event: EventSeq,
    pub pipeline: Name,
}

#[derive(Default)]
pub(super) struct Parked {
    events: BTreeMap<EventSeq, ParkedEvent>,
    lanes: HashMap<Spot, BTreeSet<Ticket>>,
    /// Those that may be able to go on.
    candidates: BTreeSet<Ticket>,
    tickets: usize,
    bytes: usize,
    /// Counts the calls of the store. Within one, a ticket may follow another of its lane.
    call: u64,
}

/// Whose turn it is.
pub(super) struct QueuePosition {
    pub ticket: Ticket,
    pub event: Arc<Event>,
    pub answers: Vec<(QuestionSlot, LookupAnswer)>,
    /// What the plans of the event so far made.
    pub deliveries: usize,
    /// What they left of its budget.
    pub budget: EventBudget,
}

struct ParkedEvent {
    event: Arc<Event>,
    /// As the last plan said it.
    skipped: Vec<Skipped>,
    /// What the plans so far made.
    deliveries: usize,
    /// Of the messages that they made.
    ids: Ids,
    /// What they left: one event has one budget, however many of its pipelines are planned apart.
    budget: EventBudget,
    /// Its first plan is on disk. Until then nothing more is sent: it would fail if the first one did.
    is_kept: bool,
    units: BTreeMap<Name, Unit>,
}

struct Unit {
    spots: Vec<Spot>,
    answers: Vec<(QuestionSlot, LookupAnswer)>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// So many answers are missing.
    Asks(usize),
    Knows,
    /// Its plan is on its way to the disk, in this call.
    Sent(u64),
}

impl Parked {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether something may be able to go on.
    pub fn has_candidates(&self) -> bool {
        !self.candidates.is_empty()
    }

    pub fn len(&self) -> usize {
        self.tickets
    }

    pub fn has_room(&self, tickets: usize, bytes: usize) -> bool {
        self.tickets < tickets && self.bytes < bytes
    }

    /// Whether an earlier event waits in one of these lanes.
    pub fn blocks(&self, event: EventSeq, spots: &[Spot]) -> bool {
        let is_behind = |spot: &Spot| {
            let first = self.lanes.get(spot).and_then(BTreeSet::first);
            first.is_some_and(|it| it.event < event)
        };
        !self.lanes.is_empty() && spots.iter().any(is_behind)
    }

    /// Sets a pipeline aside, which misses so many answers and may use these lanes.
    pub fn add(
        &mut self,
        event: &Arc<Event>,
        pipeline: &Name,
        spots: Vec<Spot>,
        answers: Vec<(QuestionSlot, LookupAnswer)>,
        missing: usize,
    ) -> Ticket {
        let ticket = Ticket { event: event.seq, pipeline: pipeline.clone() };
        for spot in &spots {
            self.lanes.entry(*spot).or_default().insert(ticket.clone());
        }
        let held = self.events.entry(event.seq).or_insert_with(|| {
            self.bytes += event.weight();
            ParkedEvent {
                event: event.clone(),
                skipped: Vec::new(),
                deliveries: 0,
                ids: Ids::default(),
                budget: EventBudget::default(),
                is_kept: false,
                units: BTreeMap::new(),
            }
        });
        let stage = if missing > 0 { Stage::Asks(missing) } else { Stage::Knows };
        held.units.insert(pipeline.clone(), Unit { spots, answers, stage });
        self.tickets += 1;
        if missing == 0 {
            self.candidates.insert(ticket.clone());
        }
        ticket
    }

    /// What the first plan of an event said, of which something waits.
    pub fn planned(&mut self, event: EventSeq, skipped: &[Skipped], deliveries: usize, ids: Ids) {
        if let Some(held) = self.events.get_mut(&event) {
            held.skipped = skipped.to_vec();
            held.deliveries = deliveries;
            held.ids = ids;
        }
    }

    /// The expressions of an event of which something waits may do no more than this from now on.
    pub fn paid(&mut self, event: EventSeq, budget: EventBudget) {
        if let Some(held) = self.events.get_mut(&event) {
            held.budget = budget;
        }
    }

    /// The first plan of an event is on disk.
    pub fn first_kept(&mut self, event: EventSeq) {
        let Some(held) = self.events.get_mut(&event) else { return };
        held.is_kept = true;
        let pipelines = held.units.keys().cloned();
        self.candidates.extend(pipelines.map(|pipeline| Ticket { event, pipeline }));
    }

    pub fn answered(&mut self, ticket: Ticket, slot: QuestionSlot, answer: LookupAnswer) {
        let Some(unit) = self.unit(&ticket) else { return };
        unit.answers.push((slot, answer));
        let Stage::Asks(missing) = &mut unit.stage else { return };
        *missing = missing.saturating_sub(1);
        if *missing == 0 {
            unit.stage = Stage::Knows;
            self.candidates.insert(ticket);
        }
    }

    /// With the answers it has got, a pipeline asks for more.
    pub fn asks(
        &mut self,
        ticket: &Ticket,
        answers: Vec<(QuestionSlot, LookupAnswer)>,
        missing: usize,
    ) {
        if let Some(unit) = self.unit(ticket) {
            unit.answers = answers;
            unit.stage = Stage::Asks(missing);
        }
    }

    /// The lanes that each may use have changed, but for those whose plan is on its way.
    pub fn claim_again(&mut self, mut spots: impl FnMut(&Arc<Event>, &Name) -> Vec<Spot>) {
        self.lanes.clear();
        for (event, held) in &mut self.events {
            for (pipeline, unit) in &mut held.units {
                if !matches!(unit.stage, Stage::Sent(_)) {
                    unit.spots = spots(&held.event, pipeline);
                }
                let ticket = Ticket { event: *event, pipeline: pipeline.clone() };
                for spot in &unit.spots {
                    self.lanes.entry(*spot).or_default().insert(ticket.clone());
                }
                self.candidates.insert(ticket);
            }
        }
    }

    /// From here on, tickets share another call of the store.
    pub fn next_call(&mut self) {
        self.call += 1;
    }

    /// The next that can go on, with its answers, and how many deliveries its event has.
    /// Those of projects that have had their turn come when no other can go on: then a new round begins.
    pub fn next(&mut self, turns: &mut Turns) -> Option<QueuePosition> {
        while let Some(ticket) = self.next_candidate(turns) {
            let Some(held) = self.events.get(&ticket.event) else { continue };
            let Some(unit) = held.units.get(&ticket.pipeline) else { continue };
            if held.is_kept
                && unit.stage == Stage::Knows
                && unit.spots.iter().all(|it| self.is_free(it, &ticket))
            {
                let (event, answers) = (held.event.clone(), unit.answers.clone());
                let (deliveries, budget) = (held.deliveries, held.budget);
                return Some(QueuePosition { ticket, event, answers, deliveries, budget });
            }
            // It is looked at again when the one before it goes.
        }
        None
    }

    fn next_candidate(&mut self, turns: &mut Turns) -> Option<Ticket> {
        let is_over = |it: &Ticket| {
            self.events.get(&it.event).is_some_and(|held| turns.is_over(held.event.project))
        };
        let Some(next) = self.candidates.iter().find(|it| !is_over(it)).cloned() else {
            turns.next_round();
            return self.candidates.pop_first();
        };
        self.candidates.take(&next)
    }

    /// Whether no earlier event is before it in a lane, but for one that goes in the same call.
    fn is_free(&self, spot: &Spot, ticket: &Ticket) -> bool {
        let Some(lane) = self.lanes.get(spot) else { return true };
        let mut before = lane.range(..ticket).rev().skip_while(|it| it.event == ticket.event);
        let Some(last) = before.next() else { return true };
        // All pipelines of the event before it have to go. The events before that one have gone then,
        // since it had to wait for them itself.
        let is_sent = |it: &Ticket| {
            let unit = self.events.get(&it.event).and_then(|held| held.units.get(&it.pipeline));
            unit.is_none_or(|it| it.stage == Stage::Sent(self.call))
        };
        is_sent(last) && before.take_while(|it| it.event == last.event).all(is_sent)
    }

    /// The plan of the event with what this pipeline made.
    pub fn send(&mut self, ticket: &Ticket, made: PipelinePlan) -> Option<Plan> {
        let call = self.call;
        let held = self.events.get_mut(&ticket.event)?;
        let unit = held.units.get_mut(&ticket.pipeline)?;
        unit.stage = Stage::Sent(call);
        let spots = unit.spots.clone();
        held.skipped.retain(|it| !(it.waits() && it.pipeline.as_ref() == Some(&ticket.pipeline)));
        held.skipped.extend(made.skipped);
        held.deliveries += made.deliveries.len();
        let mut deliveries = made.deliveries;
        // Those that are owed have the first ordinals, by which they are distinguished.
        deliveries.sort_by_key(|it| it.dead.is_some());
        held.ids.tell_apart(&held.event, &mut deliveries);
        let (event, skipped) = (held.event.clone(), held.skipped.clone());
        let (remembered, tallies) = (made.remembered, Vec::from_iter(made.tally));
        let plan = Plan { event, deliveries, skipped, is_rest: true, remembered, tallies };
        self.wake_behind(&spots, ticket);
        Some(plan)
    }

    /// Its plan is on disk.
    pub fn kept(&mut self, ticket: &Ticket) {
        let Some(held) = self.events.get_mut(&ticket.event) else { return };
        let Some(unit) = held.units.remove(&ticket.pipeline) else { return };
        self.tickets -= 1;
        if held.units.is_empty() {
            self.bytes -= held.event.weight();
            self.events.remove(&ticket.event);
        }
        self.wake_behind(&unit.spots, ticket);
        for spot in &unit.spots {
            if let Some(lane) = self.lanes.get_mut(spot) {
                lane.remove(ticket);
                if lane.is_empty() {
                    self.lanes.remove(spot);
                }
            }
        }
    }

    /// Forgets everything: the store knows what waits.
    pub fn clear(&mut self) {
        *self = Self { call: self.call, ..Self::default() };
    }

    /// Those of the next event in each lane may be able to go on.
    fn wake_behind(&mut self, spots: &[Spot], ticket: &Ticket) {
        for spot in spots {
            let Some(lane) = self.lanes.get(spot) else { continue };
            let mut behind = lane.range(ticket..).skip_while(|it| it.event == ticket.event);
            let Some(next) = behind.next() else { continue };
            self.candidates.insert(next.clone());
            self.candidates.extend(behind.take_while(|it| it.event == next.event).cloned());
        }
    }

    fn unit(&mut self, ticket: &Ticket) -> Option<&mut Unit> {
        self.events.get_mut(&ticket.event)?.units.get_mut(&ticket.pipeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{DestinationId, Lane, ProjectId},
        pipeline::{ask::LookupStatus, plan::TURN},
    };

    fn spot(lane: u64) -> Spot {
        (DestinationId::from_bits(9), Lane(lane))
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn add(parked: &mut Parked, seq: u64, pipeline: &str, lanes: &[u64], missing: usize) -> Ticket {
        let spots = lanes.iter().map(|it| spot(*it)).collect();
        let ticket =
            parked.add(&Arc::new(Event::at(seq)), &name(pipeline), spots, Vec::new(), missing);
        parked.first_kept(EventSeq(seq));
        ticket
    }

    /// What can go now, which is sent in one call.
    fn go(parked: &mut Parked) -> Vec<(u64, String)> {
        parked.next_call();
        let mut gone = Vec::new();
        while let Some(QueuePosition { ticket, .. }) = parked.next(&mut Turns::default()) {
            parked.send(&ticket, PipelinePlan::default()).unwrap();
            gone.push((ticket.event.0, ticket.pipeline.to_string()));
        }
        gone
    }

    fn answer(parked: &mut Parked, ticket: &Ticket) {
        let answer = LookupAnswer::of(LookupStatus::NotFound);
        parked.answered(ticket.clone(), QuestionSlot::default(), answer);
    }

    #[test]
    fn plans_without_a_lane_wait_only_for_their_own_lookups() {
        let mut parked = Parked::default();
        let first = add(&mut parked, 1, "a", &[], 1);
        let second = add(&mut parked, 2, "a", &[], 2);
        answer(&mut parked, &second);
        assert_eq!(go(&mut parked), []);
        answer(&mut parked, &second);
        assert_eq!(go(&mut parked), [(2, "a".to_owned())]);
        answer(&mut parked, &first);
        assert_eq!(go(&mut parked), [(1, "a".to_owned())]);
        parked.kept(&first);
        parked.kept(&second);
        assert!(parked.is_empty() && (parked.tickets, parked.bytes) == (0, 0));
    }

    #[test]
    fn projects_that_had_their_turn_go_behind_others() {
        let (dear, other) = (ProjectId::from_bits(1), ProjectId::from_bits(2));
        let (mut parked, mut turns) = (Parked::default(), Turns::default());
        for (seq, project) in [(1, dear), (2, dear), (3, dear), (4, other), (5, other)] {
            let event = Event { project, ..Event::at(seq) };
            parked.add(&Arc::new(event), &name("a"), Vec::new(), Vec::new(), 0);
            parked.first_kept(EventSeq(seq));
        }
        let gone = std::iter::from_fn(|| {
            let QueuePosition { ticket, event, .. } = parked.next(&mut turns)?;
            // One part of the first project takes a whole turn, one of the other takes half of it.
            turns.note(event.project, if event.project == dear { TURN } else { TURN / 2 });
            Some(ticket.event.0)
        });
        assert_eq!(gone.collect::<Vec<_>>(), [1, 4, 5, 2, 3]);
    }

    #[test]
    fn nothing_more_of_an_event_goes_before_its_first_plan_is_kept() {
        let mut parked = Parked::default();
        parked.add(&Arc::new(Event::at(1)), &name("a"), Vec::new(), Vec::new(), 0);
        assert_eq!(go(&mut parked), []);
        parked.first_kept(EventSeq(1));
        assert_eq!(go(&mut parked), [(1, "a".to_owned())]);
    }

    #[test]
    fn in_a_lane_later_events_go_behind_earlier_ones_and_in_the_same_call() {
        let mut parked = Parked::default();
        let first = add(&mut parked, 1, "a", &[7, 8], 1);
        assert!(parked.blocks(EventSeq(2), &[spot(7)]) && parked.blocks(EventSeq(2), &[spot(8)]));
        assert!(!parked.blocks(EventSeq(2), &[spot(9)]) && !parked.blocks(EventSeq(1), &[spot(7)]));
        for (seq, lanes) in [(2, &[7][..]), (3, &[8]), (4, &[7, 8]), (5, &[9])] {
            add(&mut parked, seq, "b", lanes, 0);
        }
        assert_eq!(go(&mut parked), [(5, "b".to_owned())]);
        answer(&mut parked, &first);
        let seqs: Vec<u64> = go(&mut parked).into_iter().map(|it| it.0).collect();
        assert_eq!(seqs, [1, 2, 3, 4]);
    }

    #[test]
    fn lanes_that_changed_are_claimed_again() {
        let mut parked = Parked::default();
        let first = add(&mut parked, 1, "a", &[7], 1);
        let (sent, next) = (add(&mut parked, 2, "a", &[5], 0), EventSeq(9));
        assert_eq!(go(&mut parked), [(2, "a".to_owned())]);
        add(&mut parked, 3, "a", &[7], 0);
        let mut asked = Vec::new();
        parked.claim_again(|event, _| {
            asked.push(event.seq.0);
            vec![spot(20 + event.seq.0 / 3)]
        });
        assert_eq!(asked, [1, 3]);
        assert!(!parked.blocks(next, &[spot(7)]) && parked.blocks(next, &[spot(20)]));
        assert!(parked.blocks(next, &[spot(5)]));
        // It stood behind the first before.
        assert_eq!(go(&mut parked), [(3, "a".to_owned())]);
        answer(&mut parked, &first);
        assert_eq!(go(&mut parked), [(1, "a".to_owned())]);
        parked.kept(&sent);
        assert!(!parked.blocks(next, &[spot(5)]));
    }

    #[test]
    fn in_a_lane_nobody_goes_while_an_earlier_one_is_on_its_way() {
        let mut parked = Parked::default();
        let first = add(&mut parked, 1, "a", &[7], 0);
        assert_eq!(go(&mut parked).len(), 1);
        add(&mut parked, 2, "a", &[7], 0);
        assert_eq!(go(&mut parked), []);
        parked.kept(&first);
        assert_eq!(go(&mut parked), [(2, "a".to_owned())]);
    }

    #[test]
    fn all_pipelines_of_an_event_go_before_the_next_event_of_a_lane() {
        let mut parked = Parked::default();
        let b = add(&mut parked, 1, "b", &[7], 1);
        add(&mut parked, 1, "a", &[7], 0);
        add(&mut parked, 1, "c", &[7], 0);
        add(&mut parked, 2, "a", &[7], 0);
        assert_eq!(go(&mut parked).len(), 2);
        answer(&mut parked, &b);
        assert_eq!(go(&mut parked), [(1, "b".to_owned())]);
        for pipeline in ["a", "b", "c"] {
            parked.kept(&Ticket { event: EventSeq(1), pipeline: name(pipeline) });
        }
        assert_eq!(go(&mut parked), [(2, "a".to_owned())]);
    }
}
