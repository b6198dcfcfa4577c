//! What steps remember and what is counted changes with the plans that say so: whole, and once.

use std::sync::Arc;

use jiff::SignedDuration;
use tidegate::{
    model::{
        AbsenceMemory, Counted, Edge, Event, Memory, Passed, PipelineId, Plan, Remembered, StepId,
        Tally,
    },
    store::Appended,
};

use super::home::{Home, event, keyed, new_events, now, plan_for, projects};

fn remembered(key: &str, since: Option<i64>) -> Remembered {
    let step = StepId { pipeline: PipelineId::from_bits(0x400), hash: u64::MAX - 1 };
    let memory = |since| Memory::Absence(AbsenceMemory { since, is_seen: true, missed: None });
    Remembered { step, key: key.as_bytes().into(), memory: since.map(memory) }
}

fn tally(version: u32, arrived: u64, left: u64) -> Tally {
    let edges = [Edge::default(), Edge { route: None, step: Some(0) }];
    let passed = Passed { arrived, filtered: arrived - left, errored: 0, left };
    let pipeline = PipelineId::from_bits(0x400);
    Tally { pipeline, version, edges: Arc::new(edges), passed: vec![passed, Passed::default()] }
}

fn plan(of: &Arc<Event>, remembered: Vec<Remembered>, tallies: Vec<Tally>) -> Plan {
    Plan { remembered, tallies, ..plan_for(of, &[1]) }
}

pub async fn memories_change_with_their_plan_and_survive_a_crash(home: &dyn Home) {
    let open = home.open().await;
    let offered = (0..3).map(|n| event(&n.to_string())).collect();
    let events = new_events(&open.store.append(offered).await.unwrap());
    let first = vec![remembered("a", Some(1)), remembered("b", Some(2))];
    open.store.plan(vec![plan(&events[0], first, vec![])]).await.unwrap();
    // A plan that comes again changes nothing, and of two changes of one key the later counts.
    let again = vec![remembered("a", Some(9))];
    let second = vec![remembered("b", Some(3)), remembered("b", Some(4)), remembered("c", Some(5))];
    let plans = vec![plan(&events[0], again, vec![]), plan(&events[1], second, vec![])];
    open.store.plan(plans).await.unwrap();
    let gone = vec![remembered("a", None)];
    open.store.plan(vec![plan(&events[2], gone, vec![])]).await.unwrap();
    open.store.remember(vec![remembered("c", None), remembered("d", Some(6))]).await.unwrap();

    let expected = vec![remembered("b", Some(4)), remembered("d", Some(6))];
    let sorted = async |open: &super::home::Open| {
        let mut found = open.store.memories().await.unwrap();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    };
    assert_eq!(sorted(&open).await, expected);
    let open = home.open_again_after_crash(open).await;
    assert_eq!(sorted(&open).await, expected);
}

pub async fn counts_of_a_minute_add_up_by_version_and_place(home: &dyn Home) {
    let open = home.open().await;
    let offered = (0..3).map(|n| event(&n.to_string())).collect();
    let events = new_events(&open.store.append(offered).await.unwrap());
    for (it, version) in events.iter().zip([1, 1, 2]) {
        let plans = vec![plan(it, vec![], vec![tally(version, 2, 1)])];
        open.store.plan(plans.clone()).await.unwrap();
        open.store.plan(plans).await.unwrap();
    }
    let counted = |version, times: u64| Counted {
        start: now(),
        version,
        edge: Edge::default(),
        passed: Passed { arrived: 2 * times, filtered: times, errored: 0, left: times },
    };
    let minute = SignedDuration::from_mins(1);
    let pipeline = PipelineId::from_bits(0x400);
    let counts = async |from, until| open.store.counts(pipeline, from, until).await.unwrap();
    assert_eq!(counts(now(), now() + minute).await, [counted(1, 2), counted(2, 1)]);
    assert_eq!(counts(now() + minute, now() + 2 * minute).await, []);
    assert_eq!(counts(now() - minute, now()).await, []);
    let other = PipelineId::from_bits(0x401);
    assert_eq!(open.store.counts(other, now(), now() + minute).await.unwrap(), []);
}

pub async fn a_key_that_counts_for_a_while_is_taken_again_after_it(home: &dyn Home) {
    let open = home.open().await;
    let offer = async |open: &super::home::Open, hours: i64| {
        open.clock.set(now() + SignedDuration::from_hours(hours));
        let received_at = now() + SignedDuration::from_hours(hours);
        let key_counts_for = Some(SignedDuration::from_hours(24));
        let event = tidegate::model::NewEvent {
            received_at,
            key_counts_for,
            ..keyed(projects(1), "again", "1")
        };
        match open.store.append(vec![event]).await.unwrap().remove(0) {
            Appended::New(event) => (true, event.id),
            Appended::Duplicate { id, .. } => (false, id),
        }
    };
    let (_, first) = offer(&open, 0).await;
    assert_eq!(offer(&open, 23).await, (false, first));
    let (is_new, second) = offer(&open, 25).await;
    assert!(is_new && second != first);
    assert_eq!(offer(&open, 48).await, (false, second));
    let open = home.open_again_after_crash(open).await;
    assert_eq!(offer(&open, 48).await, (false, second));
    // For whoever says nothing about time, it counts for ever.
    open.clock.set(now() + SignedDuration::from_hours(24 * 365));
    let event = keyed(projects(1), "again", "1");
    let answer = open.store.append(vec![event]).await.unwrap().remove(0);
    assert!(matches!(answer, Appended::Duplicate { id, .. } if id == second));
}
