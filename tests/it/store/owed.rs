//! What is owed, in what order, and until when.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tidegate::{
    model::{Altered, Class, DeliverySeq, Lane, Owed, Place, RawJson},
    store::{Backlog, OwedQuery},
};

use super::home::{
    Home, Open, attempt, destinations, ended, event, new_events, note, now, owe, plan_at, plan_for,
    retry,
};

async fn line(open: &Open, number: u128) -> Vec<Owed> {
    line_after(open, number, None, usize::MAX, usize::MAX).await
}

async fn line_after(
    open: &Open,
    number: u128,
    after: Option<&Owed>,
    per_lane: usize,
    limit: usize,
) -> Vec<Owed> {
    let after = after.map(|it| (it.place, it.seq));
    let query = OwedQuery::Line { destination: destinations(number), after, per_lane, limit };
    open.store.owed(query).await.unwrap()
}

async fn due(open: &Open, until: Timestamp, limit: usize) -> Vec<Owed> {
    let query = OwedQuery::Due { destination: destinations(1), until, limit };
    open.store.owed(query).await.unwrap()
}

pub async fn planned_deliveries_are_owed_until_they_end(home: &dyn Home) {
    let open = home.open().await;
    let owed = owe(&open, 3, &[1, 2]).await;
    assert_eq!(line(&open, 1).await, [owed[0], owed[2], owed[4]]);
    assert_eq!(line(&open, 2).await, [owed[1], owed[3], owed[5]]);

    let (failed, again) = retry(&owed[2], now());
    open.store.settle(vec![attempt(&owed[0], Class::Accepted, ended()), failed]).await.unwrap();

    assert_eq!(line(&open, 1).await, [again, owed[4]]);
    let wanted = OwedQuery::These(vec![owed[5].seq, owed[0].seq, owed[2].seq]);
    assert_eq!(open.store.owed(wanted).await.unwrap(), [owed[5], again]);
    assert_eq!(line(&open, 3).await, []);
}

pub async fn a_settlement_of_what_has_ended_is_ignored(home: &dyn Home) {
    let open = home.open().await;
    let owed = owe(&open, 2, &[1]).await;
    let cancelled = note(&owed[0], ended());
    let (late, _) = retry(&owed[0], now());

    // In one call, in another, and when it has left memory.
    open.store.settle(vec![cancelled, late.clone()]).await.unwrap();
    open.store.settle(vec![late.clone()]).await.unwrap();
    assert_eq!(line(&open, 1).await, [owed[1]]);
    open.store.settle(vec![late.clone()]).await.unwrap();
    assert_eq!(line(&open, 1).await, [owed[1]]);

    let open = home.open_again_after_crash(open).await;
    open.store.settle(vec![late]).await.unwrap();
    assert_eq!(line(&open, 1).await, [owed[1]]);
}

/// Deliveries in lanes, in the order of their events: (lane, position).
async fn in_lanes(open: &Open, places: &[(u64, i64)]) -> Vec<Owed> {
    let events = (0..places.len()).map(|_| event("1")).collect();
    let events = new_events(&open.store.append(events).await.unwrap());
    let plan =
        |(event, &(lane, position))| plan_at(event, &[(1, Place { lane: Lane(lane), position })]);
    open.store.plan(events.iter().zip(places).map(plan).collect()).await.unwrap()
}

pub async fn a_line_is_in_the_order_of_its_places(home: &dyn Home) {
    let open = home.open().await;
    let places = [(u64::MAX, 5), (7, 20), (1 << 63, -3), (0, 0), (7, 10), (0, 0), (7, 20), (7, -1)];
    let owed = in_lanes(&open, &places).await;

    let found = line(&open, 1).await;

    let mut expected = owed.clone();
    expected.sort_by_key(|it| (it.place, it.seq));
    assert_eq!(found, expected);
    assert_eq!(found[..2], [owed[3], owed[5]]);
}

pub async fn a_line_takes_only_so_many_of_each_lane(home: &dyn Home) {
    let open = home.open().await;
    let places =
        [(0, 0), (0, 0), (0, 0), (5, 1), (5, 2), (5, 3), (9, 1), (u64::MAX, 1), (u64::MAX, 2)];
    let owed = in_lanes(&open, &places).await;
    let at = |indices: &[usize]| indices.iter().map(|&it| owed[it]).collect::<Vec<_>>();

    assert_eq!(line_after(&open, 1, None, 1, 99).await, at(&[0, 1, 2, 3, 6, 7]));
    assert_eq!(line_after(&open, 1, None, 2, 99).await, at(&[0, 1, 2, 3, 4, 6, 7, 8]));
    assert_eq!(line_after(&open, 1, None, 1, 5).await, at(&[0, 1, 2, 3, 6]));
    assert_eq!(line_after(&open, 1, None, 1, 0).await, []);
}

pub async fn the_first_of_all_lanes_has_the_least_position(home: &dyn Home) {
    let open = home.open().await;
    let first = || async {
        let query = OwedQuery::First { destination: destinations(1) };
        open.store.owed(query).await.unwrap()
    };
    assert_eq!(first().await, []);
    let loose = in_lanes(&open, &[(0, 0), (0, 0)]).await;
    assert_eq!(first().await, []);
    let mut places = vec![(7, 20), (u64::MAX, 5), (7, -1), (1 << 63, -3), (1, 9)];
    places.extend((0..40).map(|n| (2, 10 + n)));
    let owed = in_lanes(&open, &places).await;
    assert_eq!(first().await, [owed[3]]);
    let all = [&owed[3], &loose[0], &owed[4]].map(|it| attempt(it, Class::Accepted, ended()));
    open.store.settle(all.to_vec()).await.unwrap();
    assert_eq!(first().await, [owed[2]]);
}

pub async fn a_line_goes_on_behind_any_place(home: &dyn Home) {
    let open = home.open().await;
    let places: Vec<(u64, i64)> =
        (0..60).map(|n| ([0, 3, 1 << 63, u64::MAX][n % 4], n as i64 / 7 - 2)).collect();
    in_lanes(&open, &places).await;
    let whole = line(&open, 1).await;

    for size in [1, 7, 60] {
        let mut pages: Vec<Owed> = Vec::new();
        loop {
            let page = line_after(&open, 1, pages.last(), usize::MAX, size).await;
            assert!(page.len() <= size);
            if page.is_empty() {
                break;
            }
            pages.extend(page);
        }
        assert_eq!(pages, whole);
    }
}

pub async fn failed_deliveries_become_due_on_time(home: &dyn Home) {
    let open = home.open().await;
    let owed = owe(&open, 4, &[1]).await;
    let at = |seconds| now() + SignedDuration::from_secs(seconds);
    let (late, late_owed) = retry(&owed[0], at(60));
    let (soon, soon_owed) = retry(&owed[1], at(10));
    let (gone, gone_owed) = retry(&owed[2], at(5));
    open.store.settle(vec![late, soon, gone]).await.unwrap();
    open.store.settle(vec![note(&gone_owed, ended())]).await.unwrap();

    assert_eq!(due(&open, at(9), 10).await, []);
    assert_eq!(due(&open, at(10), 10).await, [soon_owed]);
    assert_eq!(due(&open, at(100), 10).await, [soon_owed, late_owed]);
    assert_eq!(due(&open, at(100), 1).await, [soon_owed]);

    // Another failure moves it.
    let (again, again_owed) = retry(&soon_owed, at(90));
    open.store.settle(vec![again]).await.unwrap();
    let open = home.open_again_after_crash(open).await;
    assert_eq!(due(&open, at(100), 10).await, [late_owed, again_owed]);
    assert_eq!(again_owed.standing.attempts, 2);
}

pub async fn the_backlog_counts_by_destination(home: &dyn Home) {
    let open = home.open().await;
    assert_eq!(open.store.backlog().await.unwrap(), []);
    let owed = owe(&open, 5, &[1, 2]).await;
    let ends = owed.iter().filter(|it| it.destination == destinations(2)).take(3);
    let ends = ends.map(|it| attempt(it, Class::Accepted, ended())).collect();
    open.store.settle(ends).await.unwrap();

    let mut backlog = open.store.backlog().await.unwrap();

    backlog.sort_by_key(|it| it.owed);
    let of = |number, owed: u64, first: &Owed| Backlog {
        destination: destinations(number),
        owed,
        oldest: first.accepted_at,
    };
    assert_eq!(backlog, [of(2, 2, &owed[7]), of(1, 5, &owed[0])]);
}

pub async fn backlog_survives_a_crash(home: &dyn Home) {
    let mut open = home.open().await;
    let mut expected: Vec<Owed> = Vec::new();
    // Ends, failures and new ones, some of them read in between, which moves them out of memory.
    for round in 0..6 {
        expected.extend(owe(&open, 20, &[1]).await);
        let ends: Vec<Owed> = expected.iter().step_by(3).copied().collect();
        expected.retain(|it| !ends.contains(it));
        open.store.settle(ends.iter().map(|it| note(it, ended())).collect()).await.unwrap();
        for owed in expected.iter_mut().step_by(5) {
            let (failed, again) = retry(owed, now());
            open.store.settle(vec![failed]).await.unwrap();
            *owed = again;
        }
        if round % 2 == 0 {
            assert_eq!(line(&open, 1).await, expected);
        }
        open = home.open_again_after_crash(open).await;
    }
    assert_eq!(line(&open, 1).await, expected);
}

pub async fn backlog_survives_a_clean_stop(home: &dyn Home) {
    let open = home.open().await;
    let owed = owe(&open, 50, &[1]).await;
    open.store.settle(owed[..20].iter().map(|it| note(it, ended())).collect()).await.unwrap();

    open.store.close().await;

    let open = home.open_again_after_crash(open).await;
    assert_eq!(line(&open, 1).await, owed[20..]);
    assert_eq!(owe(&open, 1, &[1]).await[0].seq.event().0, 51);
}

pub async fn a_message_has_the_copy_of_its_destination(home: &dyn Home) {
    let open = home.open().await;
    let offered = (0..130).map(|n| event(&format!(r#"{{"n": {n}}}"#))).collect();
    let events = new_events(&open.store.append(offered).await.unwrap());
    let plans = events.iter().map(|event| {
        let mut plan = plan_for(event, &[1, 2]);
        plan.deliveries[1].copy =
            Some(Arc::new(Altered::payload(RawJson::trusted(format!("[{}.50]", event.seq.0)))));
        plan
    });
    let owed = open.store.plan(plans.collect()).await.unwrap();

    let open = home.open_again_after_crash(open).await;
    let mut wanted: Vec<DeliverySeq> = owed.iter().map(|it| it.seq).rev().collect();
    wanted.insert(3, DeliverySeq::new(tidegate::model::EventSeq(9_999), 0));
    let messages = open.store.messages(&wanted).await.unwrap();

    assert_eq!(messages.len(), 260);
    for (message, owed) in messages.iter().zip(owed.iter().rev()) {
        let event = &events[owed.seq.event().0 as usize - 1];
        assert_eq!((message.seq, &message.event, message.fresh_id), (owed.seq, event, false));
        match owed.seq.ordinal() {
            0 => assert_eq!(message.payload(), &event.payload),
            _ => assert_eq!(message.payload().as_str(), format!("[{}.50]", event.seq.0)),
        }
    }
}
