//! Events that were sent outside of every order, and kept afterwards.

use tidegate::{
    model::{
        DeliveryId, DeliverySeq, DeliveryState, Ended, EventSeq, Lane, Place, ReplayId, Selection,
        SourceId,
    },
    store::{ActivityFilter, EventFilter, OwedQuery, Page, ReplayItem, ReplayStep},
};

use super::home::{Home, destinations, event, new_events, now, plan_for, projects, recording};

const PAGE: Page = Page { before: None, limit: 10 };

pub async fn recordings_keep_the_event_and_its_outcome(home: &dyn Home) {
    let open = home.open().await;
    let sent = recording(1, 1);
    let id = sent.event.id.unwrap();

    let kept = open.store.record(sent.clone()).await.unwrap();

    assert_eq!((kept.id, kept.source, kept.seq), (id, SourceId::SYSTEM, EventSeq(1)));
    let seq = DeliverySeq::new(kept.seq, 0);
    assert_eq!(open.store.owed(OwedQuery::These(vec![seq])).await.unwrap(), []);
    assert_eq!(open.store.backlog().await.unwrap(), []);
    let open = home.open_again_after_crash(open).await;
    assert_eq!(open.store.backlog().await.unwrap(), []);
    let record = open.store.event(projects(1), id).await.unwrap().unwrap();
    assert!(!record.planned, "no pipeline has seen it");
    assert_eq!(open.store.plan(vec![plan_for(&kept, &[])]).await.unwrap(), []);
    let record = open.store.event(projects(1), id).await.unwrap().unwrap();
    assert!(record.planned && record.deliveries.len() == 1);

    // Every list has it.
    let delivery = open.store.delivery_by_id(projects(1), DeliveryId::of(id, 0)).await.unwrap();
    let delivery = delivery.unwrap();
    assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Delivered, 1));
    assert_eq!((delivery.pipeline, delivery.replay), (None, None));
    let entry = &delivery.entries[0];
    assert_eq!((entry.ended, &entry.kind), (Some(Ended::Delivered), &sent.entries[0].kind));
    let filter = EventFilter { source: Some(SourceId::SYSTEM), ..EventFilter::default() };
    let events = open.store.events(projects(1), &filter, PAGE).await.unwrap();
    assert_eq!(events, [(*kept).clone()]);
    let all = Selection::default();
    assert_eq!(open.store.deliveries(projects(1), &all, PAGE).await.unwrap().len(), 1);
    assert_eq!(open.store.count(projects(1), &all).await.unwrap(), 1);
    let activity =
        open.store.activity(projects(1), &ActivityFilter::default(), PAGE).await.unwrap();
    assert_eq!(activity[0].entry.kind, sent.entries[0].kind);
    // What a destination is owed is counted, and it was not.
    let minutes = open.store.stats(destinations(1), now(), jiff::Timestamp::MAX).await.unwrap();
    assert_eq!(minutes, []);
}

pub async fn a_recording_says_nothing_about_the_plans_before_it(home: &dyn Home) {
    let open = home.open().await;
    let waiting = new_events(&open.store.append(vec![event("1"), event("2")]).await.unwrap());
    let kept = open.store.record(recording(1, 1)).await.unwrap();

    let open = home.open_again_after_crash(open).await;

    let unplanned = open.store.unplanned(EventSeq(0), 10).await.unwrap();
    assert_eq!(unplanned, [waiting, vec![kept]].concat());
}

pub async fn recordings_can_be_replayed(home: &dyn Home) {
    let open = home.open().await;
    let kept = open.store.record(recording(1, 1)).await.unwrap();
    open.store.plan(vec![plan_for(&kept, &[])]).await.unwrap();
    let item = ReplayItem {
        event: kept.seq,
        destination: destinations(1),
        place: Place { lane: Lane::NONE, position: 0 },
        like: Some(DeliverySeq::new(kept.seq, 0)),
        replanned: None,
    };
    let step = ReplayStep {
        replay: ReplayId::from_bits(0x500),
        items: vec![item],
        fresh_ids: false,
        at: now(),
        cursor: None,
    };

    let owed = open.store.replay(step).await.unwrap();

    assert_eq!(owed[0].seq, DeliverySeq::new(kept.seq, 1));
    assert_eq!(open.store.messages(&[owed[0].seq]).await.unwrap()[0].event, kept);
}
