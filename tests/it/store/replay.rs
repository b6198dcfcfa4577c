//! New deliveries of old events.

use std::sync::Arc;

use jiff::SignedDuration;
use tidegate::{
    model::{Altered, DeliverySeq, EventSeq, Lane, Message, Owed, Place, RawJson, ReplayId},
    store::{OwedQuery, ReplayItem, ReplayProgress, ReplayStep, StoreError},
};

use super::home::{Home, destinations, ended, event, new_events, note, now, owe, plan_for};

const AT_ONCE: Place = Place { lane: Lane::NONE, position: 0 };

fn step(items: Vec<ReplayItem>) -> ReplayStep {
    let at = now() + SignedDuration::from_hours(1);
    ReplayStep { replay: ReplayId::from_bits(0x500), items, fresh_ids: false, at, cursor: None }
}

fn item(event: u64, to: u128) -> ReplayItem {
    ReplayItem { event: EventSeq(event), destination: destinations(to), place: AT_ONCE, like: None }
}

pub async fn a_replay_makes_new_deliveries_and_keeps_its_progress(home: &dyn Home) {
    let open = home.open().await;
    let owed = owe(&open, 3, &[1]).await;
    open.store.settle(owed.iter().map(|it| note(it, ended())).collect()).await.unwrap();

    let cursor = Some(DeliverySeq::new(EventSeq(3), 0));
    // The same event twice in a step, one that does not exist, and a second step.
    let items = vec![item(2, 1), item(2, 7), item(999, 1)];
    let first = open.store.replay(step(items)).await.unwrap();
    let nothing = open.store.replay_progress(ReplayId::from_bits(0x501)).await.unwrap();
    assert_eq!(nothing, ReplayProgress::default());
    let open = home.open_again_after_crash(open).await;
    let second = open
        .store
        .replay(ReplayStep { fresh_ids: true, cursor, ..step(vec![item(2, 1), item(3, 1)]) })
        .await
        .unwrap();

    let progress = open.store.replay_progress(ReplayId::from_bits(0x500)).await.unwrap();
    assert_eq!(progress, ReplayProgress { cursor, done: 4 });
    let places = |owed: &[Owed]| -> Vec<_> {
        owed.iter().map(|it| (it.seq.event().0, it.seq.ordinal())).collect()
    };
    assert_eq!(places(&first), [(2, 1), (2, 2)]);
    assert_eq!(places(&second), [(2, 3), (3, 1)]);
    assert_eq!(first[1].destination, destinations(7));
    assert_eq!(first[0].accepted_at, now() + SignedDuration::from_hours(1));
    let all: Vec<DeliverySeq> = first.iter().chain(&second).map(|it| it.seq).collect();
    let still = open.store.owed(OwedQuery::These(all.clone())).await.unwrap();
    assert_eq!(still, [first, second].concat());
    let messages = open.store.messages(&all).await.unwrap();
    let fresh: Vec<bool> = messages.iter().map(|it| it.fresh_id).collect();
    assert_eq!(fresh, [false, false, true, true]);
}

pub async fn a_replay_repeats_the_copy_of_a_delivery(home: &dyn Home) {
    let open = home.open().await;
    let events = new_events(&open.store.append(vec![event("1")]).await.unwrap());
    let mut plan = plan_for(&events[0], &[1]);
    plan.deliveries[0].copy = Some(Arc::new(Altered {
        metadata: Some(RawJson::trusted("{}")),
        part: Some(2),
        ..Altered::payload(RawJson::trusted("[\"redacted\"]"))
    }));
    let owed = open.store.plan(vec![plan]).await.unwrap();

    let like = ReplayItem { like: Some(owed[0].seq), ..item(1, 1) };
    let again = open.store.replay(step(vec![like, item(1, 1)])).await.unwrap();

    let seqs: Vec<DeliverySeq> = again.iter().map(|it| it.seq).collect();
    let messages = open.store.messages(&seqs).await.unwrap();
    let payloads: Vec<&str> = messages.iter().map(|it| it.payload().as_str()).collect();
    assert_eq!(payloads, ["[\"redacted\"]", "1"]);
    assert_eq!(messages[0].metadata().as_str(), "{}");
    let id = events[0].id;
    let ids: Vec<String> = messages.iter().map(Message::message_id).collect();
    assert_eq!(ids, [format!("{id}_2"), id.to_string()]);
}

pub async fn an_event_has_room_for_so_many_deliveries_and_no_more(home: &dyn Home) {
    let open = home.open().await;
    owe(&open, 2, &[1]).await;
    let most = usize::from(DeliverySeq::PER_EVENT);

    let too_many = (0..most).map(|_| item(1, 1)).collect();
    let refused = open.store.replay(step(too_many)).await;
    assert!(matches!(refused, Err(StoreError::TooManyDeliveries)));

    let just_enough = (1..most).map(|_| item(1, 1)).collect();
    let made = open.store.replay(step(just_enough)).await.unwrap();
    assert_eq!(made.last().unwrap().seq, DeliverySeq::new(EventSeq(1), 2047));
    let refused = open.store.replay(step(vec![item(1, 1)])).await;
    assert!(matches!(refused, Err(StoreError::TooManyDeliveries)));
    assert_eq!(open.store.replay(step(vec![item(2, 1)])).await.unwrap().len(), 1);
}
