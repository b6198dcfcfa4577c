//! New deliveries of old events.

use std::sync::Arc;

use jiff::SignedDuration;
use tidegate::{
    model::{
        Altered, DeliverySeq, DeliveryState, Ended, EntryKind, EventSeq, Lane, Message, Owed,
        PipelineId, Place, PlannedDelivery, RawJson, ReplayId, Selection,
    },
    store::{
        Next, OwedQuery, Page, ReplayItem, ReplayProgress, ReplayStep, Settlement, StoreError,
    },
};

use super::home::{
    Home, Open, destinations, ended, event, new_events, note, now, owe, plan_for, projects,
};

const AT_ONCE: Place = Place { lane: Lane::NONE, position: 0 };

fn step(items: Vec<ReplayItem>) -> ReplayStep {
    let at = now() + SignedDuration::from_hours(1);
    ReplayStep { replay: ReplayId::from_bits(0x500), items, fresh_ids: false, at, cursor: None }
}

fn item(event: u64, to: u128) -> ReplayItem {
    ReplayItem {
        event: EventSeq(event),
        destination: destinations(to),
        place: AT_ONCE,
        like: None,
        replanned: None,
    }
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

/// An end without an attempt.
fn gone(owed: &Owed, how: Ended) -> Settlement {
    let mut settlement = note(owed, Next::Ended(how));
    settlement.entry.ended = Some(how);
    settlement
}

/// The places of the dead letters of a state, as the list and the count know them.
async fn dead_letters(open: &Open, state: DeliveryState) -> Vec<DeliverySeq> {
    let selection = Selection { state: Some(state), ..Selection::default() };
    let page = Page { before: None, limit: 100 };
    let found = open.store.deliveries(projects(1), &selection, page).await.unwrap();
    let count = open.store.count(projects(1), &selection).await.unwrap();
    assert_eq!(count, found.len() as u64);
    found.iter().map(|it| it.seq).collect()
}

pub async fn a_dead_letter_that_is_replayed_is_none_any_more(home: &dyn Home) {
    // Given a dead letter and an expired one,
    let open = home.open().await;
    let owed = owe(&open, 2, &[1]).await;
    let ends = vec![gone(&owed[0], Ended::Dead), gone(&owed[1], Ended::Expired)];
    open.store.settle(ends).await.unwrap();
    assert_eq!(dead_letters(&open, DeliveryState::Dead).await, [owed[0].seq]);
    assert_eq!(dead_letters(&open, DeliveryState::Expired).await, [owed[1].seq]);

    // when they are replayed, twice over,
    let again = |it: &Owed| ReplayItem { like: Some(it.seq), ..item(it.seq.event().0, 1) };
    let items = vec![again(&owed[0]), again(&owed[1]), again(&owed[0])];
    let made = open.store.replay(step(items.clone())).await.unwrap();
    let twice = open.store.replay(step(items)).await.unwrap();

    // then there is one new delivery of each, and they are dead letters no more, also after a crash,
    assert_eq!((made.len(), twice.len()), (2, 0));
    let open = home.open_again_after_crash(open).await;
    for state in [DeliveryState::Dead, DeliveryState::Expired] {
        assert_eq!(dead_letters(&open, state).await, []);
    }
    for (old, new, state) in
        [(&owed[0], &made[0], DeliveryState::Dead), (&owed[1], &made[1], DeliveryState::Expired)]
    {
        let record = open.store.delivery(projects(1), old.seq).await.unwrap().unwrap();
        assert_eq!((record.state, record.replayed_as), (state, Some(new.seq.ordinal())));
        let last = record.entries.last().unwrap();
        assert!(
            matches!(&last.kind, EntryKind::Replayed { by: 1, reason } if reason.contains("dlv_"))
        );
        assert_eq!(last.ended, None);
        let all = open.store.event(projects(1), record.event).await.unwrap().unwrap();
        assert_eq!(all.deliveries[0].replayed_as, Some(1));
    }
    // and where the new one dies, it is the dead letter.
    open.store.settle(vec![gone(&made[0], Ended::Dead)]).await.unwrap();
    assert_eq!(dead_letters(&open, DeliveryState::Dead).await, [made[0].seq]);
}

pub async fn dead_letters_of_other_copies_stay(home: &dyn Home) {
    // Given an event with two deliveries to one destination that carry different things,
    let open = home.open().await;
    let events = new_events(&open.store.append(vec![event("1")]).await.unwrap());
    let mut plan = plan_for(&events[0], &[1, 1]);
    plan.deliveries[0].copy = Some(Arc::new(Altered::payload(RawJson::trusted("2"))));
    let owed = open.store.plan(vec![plan]).await.unwrap();
    let ends = owed.iter().map(|it| gone(it, Ended::Dead)).collect();
    open.store.settle(ends).await.unwrap();

    // when one is replayed, the other stays a dead letter.
    let like = ReplayItem { like: Some(owed[1].seq), ..item(1, 1) };
    open.store.replay(step(vec![like])).await.unwrap();
    assert_eq!(dead_letters(&open, DeliveryState::Dead).await, [owed[0].seq]);
}

pub async fn a_replay_carries_what_was_planned_anew(home: &dyn Home) {
    let open = home.open().await;
    let owed = owe(&open, 1, &[1]).await;
    open.store.settle(vec![gone(&owed[0], Ended::Dead)]).await.unwrap();
    let planned = PlannedDelivery {
        destination: destinations(1),
        pipeline: PipelineId::from_bits(9),
        pipeline_version: 7,
        place: AT_ONCE,
        copy: Some(Arc::new(Altered::payload(RawJson::trusted("\"anew\"")))),
        dead: None,
    };
    let anew = ReplayItem { like: Some(owed[0].seq), replanned: Some(planned), ..item(1, 1) };
    let made = open.store.replay(step(vec![anew])).await.unwrap();

    let messages = open.store.messages(&[made[0].seq]).await.unwrap();
    assert_eq!(messages[0].payload().as_str(), "\"anew\"");
    let record = open.store.delivery(projects(1), made[0].seq).await.unwrap().unwrap();
    assert_eq!((record.pipeline, record.pipeline_version), (Some(PipelineId::from_bits(9)), 7));
    assert_eq!(dead_letters(&open, DeliveryState::Dead).await, []);
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
