//! Every question, with its answer worked out by going through everything.

use std::fmt::Debug;

use jiff::{SignedDuration, Timestamp};
use tidegate::{
    model::{
        Class, DeliveryState, DestinationId, EntryKind, Event, EventSeq, Pattern, ProjectId,
        Selection, SourceId,
    },
    store::{ActivityFilter, ActivityRecord, DeliveryRecord, EventFilter, EventRecord, Page},
};

use super::world::{Due, Lived, PROJECTS, REPLAY, Told, World};
use crate::store::home::{destinations, now, projects};

pub const ALL: Selection =
    Selection { destination: None, state: None, event_type: None, from: None, until: None };

/// Compares all that can be asked about one thing, and a good sample of the lists.
pub async fn check_everything<S: Lived>(world: &mut World<S>, seed: u64) {
    println!("seed {seed}, {} events, {} deliveries", world.events.len(), world.deliveries.len());
    check_single_things(world).await;
    for project in PROJECTS.map(projects).into_iter().chain([projects(99)]) {
        for _ in 0..12 {
            check_events(world, project).await;
            check_activity(world, project).await;
        }
        for state in STATES {
            for _ in 0..4 {
                check_deliveries(world, project, state).await;
            }
        }
    }
    let progress = world.store.replay_progress(REPLAY).await.unwrap();
    assert_eq!(progress.done, world.replayed);
}

const STATES: [Option<DeliveryState>; 7] = [
    None,
    Some(DeliveryState::Pending),
    Some(DeliveryState::Retrying),
    Some(DeliveryState::Delivered),
    Some(DeliveryState::Dead),
    Some(DeliveryState::Expired),
    Some(DeliveryState::Cancelled),
];

async fn check_single_things<S: Lived>(world: &World<S>) {
    for told in world.events.values() {
        let event = &told.event;
        let record = world.store.event(event.project, event.id).await.unwrap().unwrap();
        check_event(world, told, &record);
        if let Some(key) = &event.key {
            let by_key = world.store.event_by_key(event.project, key).await.unwrap();
            check_event(world, told, &by_key.unwrap());
        }
    }
    for (&seq, due) in &world.deliveries {
        let event = &world.events[&seq.event()].event;
        let record = world.store.delivery(event.project, seq).await.unwrap().unwrap();
        check_delivery(event, due, &record);
        assert_eq!(record.entries, due.entries);
        assert_eq!(record.copy, due.copy);
    }
}

fn check_event<S: Lived>(world: &World<S>, told: &Told, record: &EventRecord) {
    assert_eq!(record.event, told.event);
    assert_eq!(record.planned, told.plan.is_some());
    assert_eq!(record.skipped, told.plan.clone().unwrap_or_default());
    let expected = world.deliveries.values().filter(|it| it.owed.seq.event() == told.event.seq);
    let expected: Vec<&Due> = expected.collect();
    assert_eq!(record.deliveries.len(), expected.len());
    for (record, due) in record.deliveries.iter().zip(expected) {
        check_delivery(&told.event, due, record);
    }
}

fn check_delivery(event: &Event, due: &Due, record: &DeliveryRecord) {
    assert_eq!(record.seq, due.owed.seq);
    assert_eq!((record.event, &record.event_type), (event.id, &event.event_type));
    assert_eq!(record.received_at, event.received_at);
    assert_eq!(record.destination, due.owed.destination);
    assert_eq!(record.replay, due.replay);
    assert_eq!(record.pipeline.is_some(), due.replay.is_none());
    assert_eq!(record.state, due.state());
    assert_eq!(record.attempts, due.owed.standing.attempts);
}

impl<S: Lived> World<S> {
    fn some<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(from.len() as u64 + 1) as usize;
        from.get(at).cloned()
    }

    fn some_type(&mut self) -> Option<Pattern> {
        let patterns = ["user.*", "user.left", "user", "order.*", "nothing.here", "*"]
            .map(|it| Pattern::try_from(it.to_owned()).unwrap());
        self.some(&patterns)
    }

    fn some_range(&mut self) -> (Option<Timestamp>, Option<Timestamp>) {
        let span = self.events.len() as u64 + 10;
        let mut time = || {
            let minutes = self.below(span) as i64 - 5;
            self.below(3).eq(&0).then(|| now() + SignedDuration::from_mins(minutes))
        };
        (time(), time())
    }

    fn some_destination(&mut self, project: ProjectId) -> Option<DestinationId> {
        let number = PROJECTS.iter().find(|it| projects(**it) == project).copied().unwrap_or(9);
        self.some(&[destinations(number * 10), destinations(number * 10 + 1)])
    }

    fn limit(&mut self) -> usize {
        if self.below(4) == 0 { 1000 } else { 1 + self.below(30) as usize }
    }
}

fn is_within(time: Timestamp, from: Option<Timestamp>, until: Option<Timestamp>) -> bool {
    from.is_none_or(|it| it <= time) && until.is_none_or(|it| time < it)
}

fn is_of(event: &Event, pattern: &Option<Pattern>) -> bool {
    pattern.as_ref().is_none_or(|it| it.matches(&event.event_type))
}

async fn check_events<S: Lived>(world: &mut World<S>, project: ProjectId) {
    let (from, until) = world.some_range();
    let sources = [SourceId::from_bits(0x300), SourceId::from_bits(0x301)];
    let filter =
        EventFilter { event_type: world.some_type(), source: world.some(&sources), from, until };
    let limit = world.limit();
    let expected: Vec<Event> = world
        .events
        .values()
        .rev()
        .map(|it| &*it.event)
        .filter(|it| it.project == project && is_of(it, &filter.event_type))
        .filter(|it| filter.source.is_none_or(|source| it.source == source))
        .filter(|it| is_within(it.received_at, from, until))
        .cloned()
        .collect();

    let mut found: Vec<Event> = Vec::new();
    loop {
        let page = Page { before: found.last().map(|it| (it.seq.0, 0)), limit };
        let events = world.store.events(project, &filter, page).await.unwrap();
        let is_last = events.len() < limit;
        found.extend(events);
        if is_last {
            break;
        }
    }
    same(&found, &expected, |it| it.seq, &filter);
    assert_eq!(found, expected);

    let count = world.store.count_events(project, &filter).await.unwrap();
    assert_eq!(count, expected.len() as u64, "{filter:?}");
    let mut found: Vec<Event> = Vec::new();
    loop {
        let after = found.last().map_or(EventSeq(0), |it| it.seq);
        let events = world.store.events_behind(project, &filter, after, limit).await.unwrap();
        if events.is_empty() {
            break;
        }
        found.extend(events);
    }
    found.reverse();
    same(&found, &expected, |it| it.seq, &filter);
}

async fn check_deliveries<S: Lived>(
    world: &mut World<S>,
    project: ProjectId,
    state: Option<DeliveryState>,
) {
    let (from, until) = world.some_range();
    let selection = Selection {
        destination: world.some_destination(project),
        state,
        event_type: world.some_type(),
        from,
        until,
    };
    let limit = world.limit();
    let expected: Vec<(&Event, &Due)> = world
        .deliveries
        .values()
        .rev()
        .map(|it| (&*world.events[&it.owed.seq.event()].event, it))
        .filter(|(event, _)| event.project == project && is_of(event, &selection.event_type))
        .filter(|(event, _)| is_within(event.received_at, from, until))
        .filter(|(_, it)| selection.destination.is_none_or(|id| it.owed.destination == id))
        .filter(|(_, it)| state.is_none_or(|state| it.state() == state))
        .collect();

    let mut found: Vec<DeliveryRecord> = Vec::new();
    loop {
        let page = Page { before: found.last().map(|it| (it.seq.bits(), 0)), limit };
        let deliveries = world.store.deliveries(project, &selection, page).await.unwrap();
        let is_last = deliveries.len() < limit;
        found.extend(deliveries);
        if is_last {
            break;
        }
    }
    let expected_seqs: Vec<_> = expected.iter().map(|it| it.1.owed.seq).collect();
    let found_seqs: Vec<_> = found.iter().map(|it| it.seq).collect();
    same(&found_seqs, &expected_seqs, |it| *it, &selection);
    for (record, (event, due)) in found.iter().zip(&expected) {
        check_delivery(event, due, record);
        assert!(record.entries.is_empty() && record.copy.is_none());
        if record.state == DeliveryState::Retrying {
            assert_eq!(state.and(record.due), state.and(due.owed.standing.due));
        }
    }
    let count = world.store.count(project, &selection).await.unwrap();
    assert_eq!(count, expected.len() as u64, "{selection:?}");
}

async fn check_activity<S: Lived>(world: &mut World<S>, project: ProjectId) {
    let (from, until) = world.some_range();
    let filter = ActivityFilter {
        event_type: world.some_type(),
        destination: world.some_destination(project),
        class: world.some(&[Class::Accepted, Class::Status, Class::Timeout, Class::Gone]),
        failed_only: world.below(3) == 0,
        from,
        until,
    };
    let limit = world.limit();
    let class = |kind: &EntryKind| match kind {
        EntryKind::Attempt { outcome, .. } => Some(outcome.class),
        EntryKind::Note { .. } | EntryKind::Replayed { .. } => None,
    };
    let mut expected = Vec::new();
    for due in world.deliveries.values().rev() {
        let event = &world.events[&due.owed.seq.event()].event;
        if event.project != project || !is_of(event, &filter.event_type) {
            continue;
        }
        if filter.destination.is_some_and(|it| it != due.owed.destination) {
            continue;
        }
        let meant = due
            .entries
            .iter()
            .rev()
            .filter(|it| filter.class.is_none_or(|wanted| class(&it.kind) == Some(wanted)))
            .filter(|it| {
                !filter.failed_only || class(&it.kind).is_some_and(|it| it != Class::Accepted)
            })
            .filter(|it| is_within(it.at, from, until));
        expected.extend(meant.map(|it| (event.id, due.owed.destination, it.clone())));
    }

    let mut found: Vec<ActivityRecord> = Vec::new();
    loop {
        let last = found.last().map(|it| (it.entry.delivery.bits(), it.entry.number));
        let page = Page { before: last, limit };
        let records = world.store.activity(project, &filter, page).await.unwrap();
        let is_last = records.len() < limit;
        found.extend(records);
        if is_last {
            break;
        }
    }
    let found: Vec<_> = found.into_iter().map(|it| (it.event, it.destination, it.entry)).collect();
    let place = |it: &(_, _, tidegate::model::Entry)| (it.2.delivery, it.2.number);
    same(&found, &expected, place, &filter);
    assert_eq!(found, expected);
}

/// Says briefly what is wrong.
fn same<T, K: Debug + PartialEq>(
    found: &[T],
    expected: &[T],
    key: impl Fn(&T) -> K,
    asked: &impl Debug,
) {
    let keys = |of: &[T]| of.iter().map(&key).collect::<Vec<K>>();
    assert_eq!(keys(found), keys(expected), "{asked:?}");
}
