//! Several messages in one request, over the real loop and store; and a line that waits for a day.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tidegate::{
    clock::Clock,
    destinations::{Outlets, profiles},
    dispatch::Options,
    model::{
        Batch, Class, DeliveryState, Destination, DestinationId, Ended, EntryKind, Lane, Message,
        Outcome, Owed, Place, Policy, Profile, Retry, RetryOn,
    },
};

use crate::{
    dispatch::{Bench, anywhere, destination, number_of, one_lane},
    harness::{
        outlet,
        sink::{Answer, Sink},
    },
    store::home,
};

/// The status for a request, by its number from 1 and the messages that it carries.
type Script = dyn Fn(usize, &[i64]) -> u16 + Send + Sync;

/// A destination that keeps what it is given and answers by a script.
struct Recorder {
    requests: Mutex<Vec<Vec<i64>>>,
    script: Box<Script>,
    group: fn(i64) -> u64,
    under_way: Mutex<(usize, usize)>,
}

impl Recorder {
    fn new(
        group: fn(i64) -> u64,
        script: impl Fn(usize, &[i64]) -> u16 + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (requests, under_way) = Default::default();
        Arc::new(Self { requests, script: Box::new(script), group, under_way })
    }

    fn requests(&self) -> Vec<Vec<i64>> {
        self.requests.lock().unwrap().clone()
    }

    fn sizes(&self) -> Vec<usize> {
        self.requests().iter().map(Vec::len).collect()
    }
}

fn number(message: &Message) -> i64 {
    let payload: serde_json::Value = serde_json::from_slice(message.payload().bytes()).unwrap();
    payload["n"].as_i64().unwrap()
}

struct Recorded(Arc<Recorder>);

impl Outlets for Recorded {
    fn get(&self, _: DestinationId) -> Option<Arc<dyn tidegate::destinations::DestinationClient>> {
        Some(Arc::new(Recorded(self.0.clone())))
    }
}

#[async_trait]
impl tidegate::destinations::DestinationClient for Recorded {
    fn kind(&self) -> &'static str {
        "recorder"
    }

    async fn send(&self, messages: &[Message], _: Timestamp) -> Outcome {
        let weight: usize = messages.iter().map(Message::weight).sum();
        {
            let mut under_way = self.0.under_way.lock().unwrap();
            under_way.0 += weight;
            under_way.1 = under_way.1.max(under_way.0);
        }
        // Whatever else is to go beside it has every chance to.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let numbers: Vec<i64> = messages.iter().map(number).collect();
        let count = {
            let mut requests = self.0.requests.lock().unwrap();
            requests.push(numbers.clone());
            requests.len()
        };
        let status = (self.0.script)(count, &numbers);
        self.0.under_way.lock().unwrap().0 -= weight;
        Outcome {
            class: if status < 300 { Class::Accepted } else { Class::Status },
            status: Some(status),
            reason: format!("{status}"),
            retry_after: None,
            duration: Duration::ZERO,
            response: None,
        }
    }

    fn group(&self, message: &Message) -> u64 {
        (self.0.group)(number(message))
    }
}

fn together(_: i64) -> u64 {
    0
}

fn batch(events: u32) -> Batch {
    let events = NonZeroU32::new(events).unwrap();
    Batch { events, linger: Duration::from_secs(5), ..Batch::default() }
}

fn batched(batch: Batch) -> Destination {
    let policy = Policy {
        batch: Some(batch),
        retry: Retry::Waits(vec![Duration::from_secs(10).into(); 3]),
        concurrency: NonZeroU32::MIN,
        ..Policy::default()
    };
    let id = home::destinations(1);
    Destination { id, policy, ..outlet::destination("http://127.0.0.1:9/") }
}

async fn bench(recorder: &Arc<Recorder>) -> Bench {
    let outlets = Arc::new(Recorded(recorder.clone()));
    Bench::with(TempDir::new().unwrap(), Options::default(), Some(outlets)).await
}

#[tokio::test]
async fn a_batch_goes_when_it_is_full_and_the_rest_when_it_has_lingered() {
    let recorder = Recorder::new(together, |_, _| 200);
    let bench = bench(&recorder).await;
    bench.put(batched(batch(10))).await;

    bench.owe(25, anywhere).await;
    bench.idle().await;
    assert_eq!(recorder.sizes(), [10, 10]);
    bench.next().await;

    assert_eq!(recorder.sizes(), [10, 10, 5]);
    assert_eq!(recorder.requests().concat(), (0..25).collect::<Vec<_>>());
    let lingered = bench.clock().now().duration_since(home::now());
    assert_eq!((lingered.as_secs(), bench.owed().await), (5, 0));
}

#[tokio::test]
async fn messages_of_different_groups_never_share_a_request() {
    let recorder = Recorder::new(|n| n as u64 % 3, |_, _| 200);
    let bench = bench(&recorder).await;
    bench.put(batched(batch(9))).await;

    bench.owe(9, anywhere).await;
    bench.idle().await;

    assert_eq!(recorder.requests(), [[0, 3, 6], [1, 4, 7], [2, 5, 8]]);
    assert_eq!(bench.owed().await, 0);
}

#[tokio::test]
async fn in_a_line_what_stands_behind_a_failed_request_comes_back_without_an_attempt() {
    // The second request fails once.
    let recorder = Recorder::new(|n| n as u64 / 3, |count, _| if count == 2 { 500 } else { 200 });
    let bench = bench(&recorder).await;
    let mut fifo = batched(batch(10));
    fifo.policy.ordering = tidegate::model::Ordering::Fifo;
    bench.put(fifo).await;

    let owed = bench.owe(10, one_lane).await;
    bench.idle().await;
    assert_eq!(recorder.requests(), [[0, 1, 2], [3, 4, 5]]);
    bench.next().await;
    while bench.owed().await > 0 {
        bench.next().await;
    }

    assert_eq!(recorder.requests()[2..], [vec![3, 4, 5], vec![6, 7, 8], vec![9]]);
    let mut attempts = Vec::new();
    for it in &owed {
        attempts.push(record(&bench, it).await.attempts);
    }
    assert_eq!(attempts, [1, 1, 1, 2, 2, 2, 1, 1, 1, 1]);
}

async fn record(bench: &Bench, owed: &Owed) -> tidegate::store::DeliveryRecord {
    let found = bench.open.store.messages(&[owed.seq]).await.unwrap();
    let event = found[0].event.clone();
    bench.open.store.delivery(event.project, owed.seq).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_batch_that_is_too_large_is_sent_in_halves_and_uses_no_attempt() {
    let recorder = Recorder::new(together, |_, numbers| if numbers.len() > 2 { 413 } else { 200 });
    let bench = bench(&recorder).await;
    bench.put(batched(Batch { linger: Duration::ZERO, ..batch(8) })).await;

    let owed = bench.owe(8, anywhere).await;
    bench.idle().await;

    let accepted: Vec<i64> =
        recorder.requests().into_iter().filter(|it| it.len() <= 2).flatten().collect();
    assert_eq!(recorder.sizes(), [8, 4, 2, 2, 2, 2]);
    assert_eq!((accepted.len(), bench.owed().await), (8, 0));
    let first = record(&bench, &owed[0]).await;
    assert_eq!((first.attempts, first.state), (1, DeliveryState::Delivered));
    let EntryKind::Note { reason } = &first.entries[0].kind else { panic!("{first:?}") };
    assert_eq!(reason, "413; 8 in one request are too many: in halves");
    let EntryKind::Attempt { outcome, .. } = &first.entries[2].kind else { panic!("{first:?}") };
    assert_eq!(outcome.reason, "200; one of 2 in its request");
}

#[tokio::test]
async fn one_refused_message_takes_no_others_of_its_batch_with_it() {
    let recorder = Recorder::new(together, |_, them| if them.contains(&5) { 422 } else { 200 });
    let bench = bench(&recorder).await;
    for retry_on in [RetryOn::ServerErrors, RetryOn::All] {
        let mut destination = batched(Batch { linger: Duration::ZERO, ..batch(8) });
        destination.policy.retry_on = retry_on;
        destination.version = if retry_on == RetryOn::All { 2 } else { 1 };
        bench.put(destination).await;
        let owed = bench.owe(8, anywhere).await;
        bench.idle().await;
        while bench.owed().await > 0 {
            bench.next().await;
        }

        // All but the one were delivered, whatever is retried; it used no more attempts than its own.
        for (place, owed) in owed.iter().enumerate() {
            let record = record(&bench, owed).await;
            let expected = if place == 5 { DeliveryState::Dead } else { DeliveryState::Delivered };
            assert_eq!(record.state, expected, "{place} {retry_on:?}");
            assert!(record.attempts <= if retry_on == RetryOn::All { 4 } else { 1 }, "{record:?}");
        }
    }
    assert_eq!(recorder.sizes()[..7], [8, 4, 4, 2, 2, 1, 1]);
}

#[tokio::test]
async fn a_lane_that_has_no_room_in_a_batch_has_the_next_turn() {
    // The two of one lane are refused together, while one of another lane waits for company.
    let recorder = Recorder::new(together, |_, them| if *them == [0, 1] { 422 } else { 200 });
    let bench = bench(&recorder).await;
    let mut destination = batched(batch(2));
    destination.policy.retry_on = RetryOn::ServerErrors;
    bench.put(destination).await;
    bench.owe(3, |n| Place { lane: Lane(1 + n as u64 / 2), position: 0 }).await;
    bench.idle().await;
    bench.clock().advance(SignedDuration::from_secs(60));
    bench.idle().await;
    let mut requests = recorder.requests();
    requests.sort();
    assert_eq!(requests, [vec![0], vec![0, 1], vec![1], vec![2]]);
    assert_eq!(bench.owed().await, 0);
}

#[tokio::test]
async fn a_request_carries_no_more_bytes_than_the_batch_allows() {
    let recorder = Recorder::new(together, |_, _| 200);
    let bench = bench(&recorder).await;
    // Payloads are `{"n":1}`.
    let bytes = NonZeroU32::new(3 * 7).unwrap();
    bench.put(batched(Batch { bytes, linger: Duration::ZERO, ..batch(10) })).await;

    bench.owe(10, anywhere).await;
    bench.idle().await;
    bench.clock().advance(SignedDuration::from_secs(1));
    bench.idle().await;

    assert!(recorder.sizes().iter().all(|it| *it <= 3), "{:?}", recorder.sizes());
    let mut all = recorder.requests().concat();
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    assert_eq!(bench.owed().await, 0);
}

#[tokio::test]
async fn a_failed_batch_is_tried_again_together_also_after_a_restart() {
    let recorder = Recorder::new(together, |count, _| if count == 1 { 500 } else { 200 });
    let first = bench(&recorder).await;
    let mut fifo = batched(batch(4));
    fifo.policy.ordering = tidegate::model::Ordering::Fifo;
    first.put(fifo).await;
    first.owe(4, one_lane).await;
    first.owe_silently(3, one_lane).await;
    first.idle().await;
    let folder = first.stop().await;

    let outlets: Arc<dyn Outlets> = Arc::new(Recorded(recorder.clone()));
    let second = Bench::with(folder, Options::default(), Some(outlets)).await;
    second.idle().await;
    assert_eq!(recorder.sizes(), [4], "they are not due yet");
    while second.owed().await > 0 {
        second.next().await;
    }

    assert_eq!(recorder.requests()[1], [0, 1, 2, 3]);
    assert_eq!(recorder.requests()[2..].concat(), [0, 1, 2], "in the order of the line");
}

#[tokio::test]
async fn a_destination_has_no_more_bytes_under_way_than_its_share() {
    let recorder = Recorder::new(together, |_, _| 200);
    let outlets: Arc<dyn Outlets> = Arc::new(Recorded(recorder.clone()));
    let options = Options { line_bytes: 100_000, ..Options::default() };
    let bench = Bench::with(TempDir::new().unwrap(), options, Some(outlets)).await;
    let mut heavy = batched(batch(1));
    heavy.policy.batch = None;
    heavy.policy.concurrency = NonZeroU32::new(8).unwrap();
    bench.put(heavy).await;

    let pad = "x".repeat(40_000);
    let payload = |n| format!(r#"{{"n":{n},"pad":"{pad}"}}"#);
    bench.owe_payloads((0..12).map(payload), anywhere).await;
    bench.idle().await;

    let (now, most) = *recorder.under_way.lock().unwrap();
    assert_eq!((recorder.requests().len(), now, bench.owed().await), (12, 0, 0));
    assert!((80_000..=100_000).contains(&most), "{most} bytes at once");
}

/// Admin's promise, line by line: strict order with retries in their place, a day of patience, replay
/// in order by itself, and an end that can be seen.
#[tokio::test]
async fn a_line_waits_a_day_for_its_endpoint_and_goes_on_by_itself_in_order() {
    let is_down = Arc::new(AtomicBool::new(true));
    let script = {
        let is_down = is_down.clone();
        move |_: &_| Answer::status(if is_down.load(SeqCst) { 503 } else { 200 })
    };
    let (bench, sink) = (Bench::new().await, Sink::with(script).await);
    let policy = profiles::values(Profile::Admin).policy;
    bench.put(Destination { policy, ..destination(&sink, &[]) }).await;
    let numbers = || sink.received().iter().map(number_of).collect::<Vec<_>>();
    let start = bench.clock().now();
    let hours = |count: i64| SignedDuration::from_hours(count);
    let at = |minutes: i64| move |_: usize| Place { lane: Lane(1), position: minutes };

    // Five events, a minute apart, and the endpoint is down.
    for (n, minutes) in [(0, 10), (1, 11), (2, 12), (3, 13), (4, 14)] {
        bench.owe_payloads([format!(r#"{{"n":{n}}}"#)], at(minutes)).await;
    }
    bench.idle().await;
    // Late ones: one from before what was already sent, and one from between the others.
    bench.owe_payloads([r#"{"n":-1}"#.to_owned()], at(9)).await;
    bench.owe_payloads([r#"{"n":-2}"#.to_owned()], at(12)).await;
    while bench.clock().now() < start + hours(3) {
        bench.next().await;
    }
    assert!(numbers().iter().all(|it| *it == 0), "only the head is tried");
    let tries = numbers().len();
    assert!((25..60).contains(&tries), "{tries} in three hours");

    // It is back: nobody does anything, and the line goes on within minutes.
    is_down.store(false, SeqCst);
    let back = bench.clock().now();
    while bench.owed().await > 0 {
        bench.next().await;
    }
    assert!(bench.clock().now() < back + SignedDuration::from_mins(13), "it took too long");
    assert_eq!(numbers()[tries..], [0, -1, 1, 2, -2, 3, 4]);

    // Down for more than a day: the head expires, and the next has its time.
    is_down.store(true, SeqCst);
    let down = bench.clock().now();
    let old = bench.owe_payloads([r#"{"n":10}"#.to_owned()], at(100)).await;
    bench.idle().await;
    while bench.clock().now() < down + hours(12) {
        bench.next().await;
    }
    bench.owe_payloads([r#"{"n":11}"#.to_owned()], at(101)).await;
    while bench.owed().await > 1 {
        bench.next().await;
    }
    let patience = bench.clock().now().duration_since(down);
    // The breaker may hold the line's last try back for its five minutes.
    let day = hours(24) - SignedDuration::from_mins(1)..hours(24) + SignedDuration::from_mins(6);
    assert!(day.contains(&patience), "{patience:#}");
    let record = record(&bench, &old[0]).await;
    assert_eq!(record.state, DeliveryState::Expired);
    assert_eq!(record.entries.last().unwrap().ended, Some(Ended::Expired));
    assert!(record.attempts > 100, "{}", record.attempts);
    assert!(numbers()[tries + 7..].is_sorted(), "11 was tried before 10 had ended");
    is_down.store(false, SeqCst);
    while bench.owed().await > 0 {
        bench.next().await;
    }
    assert_eq!(numbers().last(), Some(&11));
}
