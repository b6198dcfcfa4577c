//! Plans that come in parts, since a pipeline waited for an answer.

use tidegate::{
    model::{DeliveryState, EventSeq, Plan, Skipped},
    store::EventRecord,
};

use super::home::{Home, Open, ended, event, new_events, note, plan_for, projects};

fn reason(by: &str) -> Skipped {
    Skipped {
        pipeline: Some("leads".parse().unwrap()),
        pipeline_version: Some(3),
        route: None,
        by: by.to_owned(),
        reason: format!("because of {by}"),
    }
}

/// The plan with one more pipeline, which waits.
pub fn waits(plan: Plan) -> Plan {
    Plan { skipped: vec![reason(Skipped::WAITS)], ..plan }
}

/// What follows for an event whose plan waits.
pub fn rest(plan: Plan) -> Plan {
    Plan { is_rest: true, ..plan }
}

pub async fn waiting(open: &Open) -> Vec<u64> {
    let found = open.store.waiting(EventSeq(0), 100).await.unwrap();
    assert!(found.iter().all(|it| it.skipped == [reason(Skipped::WAITS)]));
    found.iter().map(|it| it.event.seq.0).collect()
}

async fn record(open: &Open, event: &tidegate::model::Event) -> EventRecord {
    open.store.event(projects(1), event.id).await.unwrap().unwrap()
}

pub async fn a_plan_that_waits_gets_its_rest_later_and_in_any_order(home: &dyn Home) {
    // Given four events, of which the first and the third wait for something
    let mut open = home.open().await;
    let offered = (0..4).map(|_| event("1")).collect();
    let events = new_events(&open.store.append(offered).await.unwrap());
    let first = vec![
        waits(plan_for(&events[0], &[1])),
        plan_for(&events[1], &[1]),
        waits(plan_for(&events[2], &[])),
    ];
    assert_eq!(open.store.plan(first.clone()).await.unwrap().len(), 2);
    assert_eq!(waiting(&open).await, [1, 3]);
    for _ in 0..2 {
        open = home.open_again_after_crash(open).await;
        assert_eq!(waiting(&open).await, [1, 3]);
        assert_eq!(open.store.waiting(EventSeq(1), 9).await.unwrap().len(), 1);
        assert_eq!(open.store.unplanned(EventSeq(0), 9).await.unwrap(), events[3..]);
    }
    // When the third is decided first, and then the fourth gets its plan
    let owed = open.store.plan(vec![rest(plan_for(&events[2], &[2]))]).await.unwrap();
    assert_eq!(owed[0].seq.ordinal(), 0);
    open.store.plan(vec![plan_for(&events[3], &[1])]).await.unwrap();
    open = home.open_again_after_crash(open).await;
    assert_eq!(waiting(&open).await, [1]);
    // Then the first gets its rest in two parts, behind what it had
    let part = rest(waits(plan_for(&events[0], &[2, 3])));
    let last = Plan { skipped: vec![reason("when")], ..rest(plan_for(&events[0], &[4])) };
    let owed = open.store.plan(vec![part, last.clone()]).await.unwrap();
    let ordinals: Vec<_> = owed.iter().map(|it| it.seq.ordinal()).collect();
    assert_eq!(ordinals, [1, 2, 3]);
    // And what is whole stays as it is, also after a crash
    for _ in 0..2 {
        assert_eq!(open.store.plan(vec![first[0].clone()]).await.unwrap(), []);
        assert_eq!(open.store.plan(vec![last.clone()]).await.unwrap(), []);
        assert!(waiting(&open).await.is_empty());
        assert!(open.store.unplanned(EventSeq(0), 9).await.unwrap().is_empty());
        let record = record(&open, &events[0]).await;
        assert_eq!((record.deliveries.len(), record.skipped), (4, vec![reason("when")]));
        open = home.open_again_after_crash(open).await;
    }
    assert_eq!(open.store.backlog().await.unwrap().iter().map(|it| it.owed).sum::<u64>(), 7);
}

pub async fn a_rest_that_is_refused_can_be_planned_again(home: &dyn Home) {
    let open = home.open().await;
    let offered = (0..3).map(|_| event("1")).collect();
    let events = new_events(&open.store.append(offered).await.unwrap());
    open.store.plan(vec![waits(plan_for(&events[0], &[1]))]).await.unwrap();
    // Given a call with the rest of the first that also leaves out the second, and one with the rest
    // of an event that has no plan at all
    let wrong = vec![rest(plan_for(&events[0], &[2])), plan_for(&events[2], &[1])];
    assert!(open.store.plan(wrong).await.is_err());
    assert!(open.store.plan(vec![rest(plan_for(&events[1], &[2]))]).await.is_err());
    // Then nothing of it was kept
    assert_eq!(waiting(&open).await, [1]);
    assert_eq!(open.store.unplanned(EventSeq(0), 9).await.unwrap(), events[1..]);
    // And a first plan that comes again is no rest
    let again = waits(plan_for(&events[0], &[1]));
    assert_eq!(open.store.plan(vec![again]).await.unwrap(), []);
    let right = vec![plan_for(&events[1], &[1]), rest(plan_for(&events[0], &[2]))];
    assert_eq!(open.store.plan(right).await.unwrap().len(), 2);
    assert!(waiting(&open).await.is_empty());
}

pub async fn a_delivery_can_be_dead_from_the_start(home: &dyn Home) {
    let mut open = home.open().await;
    let events = new_events(&open.store.append(vec![event("1")]).await.unwrap());
    let mut plan = plan_for(&events[0], &[1, 2]);
    plan.deliveries[1].dead = Some("nobody knows who it is".to_owned());
    let owed = open.store.plan(vec![plan]).await.unwrap();
    assert_eq!((owed.len(), owed[0].seq.ordinal()), (1, 0));
    open.store.settle(vec![note(&owed[0], ended())]).await.unwrap();
    for _ in 0..2 {
        let record = record(&open, &events[0]).await;
        let states: Vec<_> = record.deliveries.iter().map(|it| it.state).collect();
        assert_eq!(states, [DeliveryState::Delivered, DeliveryState::Dead]);
        let seq = record.deliveries[1].seq;
        let dead = open.store.delivery(projects(1), seq).await.unwrap().unwrap();
        let tidegate::model::EntryKind::Note { reason } = &dead.entries[0].kind else {
            panic!("it was attempted")
        };
        assert_eq!((dead.entries.len(), &**reason), (1, "nobody knows who it is"));
        assert!(open.store.backlog().await.unwrap().is_empty());
        open = home.open_again_after_crash(open).await;
    }
}
