//! The dispatcher with a real store, real sockets, and a clock that the test moves.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use tempfile::TempDir;
use tidegate::{
    catalog::{CatalogWriter, Edit, Resource},
    clock::{Clock, ManualClock},
    destinations::{Directory, Outlets},
    dispatch::{DispatcherStatus, Handle, Options, Parts, Spilled, runner},
    hint,
    model::{
        Destination, DestinationId, DestinationState, Lane, Message, NewEvent, Owed, Place, Policy,
        Retry,
    },
    store::StoreError,
    tail::Tail,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    harness::{
        PATIENCE,
        outlet::{self, Lab},
        sink::{Answer, Sink},
    },
    store::home::{self, Open},
};

type Hints = hint::Sender<Vec<(Owed, Message)>, Spilled>;

/// A running dispatcher and what it stands on.
pub struct Bench {
    folder: TempDir,
    pub open: Open,
    pub catalog_writer: Arc<CatalogWriter>,
    hints: Hints,
    pub handle: Handle,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Bench {
    pub async fn new() -> Self {
        Self::at(TempDir::new().unwrap()).await
    }

    async fn at(folder: TempDir) -> Self {
        let options =
            Options { retry_store_after: Duration::from_millis(10), ..Options::default() };
        Self::with(folder, options, None).await
    }

    /// With destinations of the test's own, if there are some.
    pub async fn with(
        folder: TempDir,
        options: Options,
        outlets: Option<Arc<dyn Outlets>>,
    ) -> Self {
        let open = home::open_sqlite(folder.path(), home::small()).unwrap();
        let catalog_writer = Arc::new(CatalogWriter::open(open.store.clone()).await.unwrap());
        let lab = Lab::new();
        let directory = Directory::new(catalog_writer.watch(), lab.vault, lab.egress);
        let (hints, receiver) = hint::channel(4);
        let (stop, stopped) = watch::channel(false);
        let (runner, handle) = runner(Parts {
            store: open.store.clone(),
            clock: open.clock.clone(),
            catalog_writer: catalog_writer.clone(),
            outlets: outlets.unwrap_or_else(|| Arc::new(directory)),
            hints: receiver,
            tail: Tail::default(),
            shares: None,
            stop: stopped,
            set_back: jiff::SignedDuration::ZERO,
            options,
        });
        let task = tokio::spawn(runner.run());
        Self { folder, open, catalog_writer, hints, handle, stop, task }
    }

    pub fn clock(&self) -> &ManualClock {
        &self.open.clock
    }

    pub async fn put(&self, destination: Destination) {
        let edit = Edit::Put(Resource::Destination(destination));
        self.catalog_writer.edit(|_| Ok::<_, StoreError>((vec![edit], ()))).await.unwrap();
    }

    /// Accepts events, plans them and hands them to the dispatcher, as the pipeline does.
    pub async fn owe(&self, count: usize, place: impl Fn(usize) -> Place) -> Vec<Owed> {
        let owed = self.owe_silently(count, place).await;
        let seqs: Vec<_> = owed.iter().map(|it| it.seq).collect();
        let messages = self.open.store.messages(&seqs).await.unwrap();
        self.hints.send(owed.iter().copied().zip(messages).collect());
        owed
    }

    /// As [`Self::owe`], of these payloads, accepted now.
    pub async fn owe_payloads(
        &self,
        payloads: impl IntoIterator<Item = String>,
        place: impl Fn(usize) -> Place,
    ) -> Vec<Owed> {
        let (store, now) = (&self.open.store, self.clock().now());
        let event = |it: String| NewEvent { received_at: now, ..home::event(&it) };
        let events = payloads.into_iter().map(event).collect();
        let events = home::new_events(&store.append(events).await.unwrap());
        let plan = |(n, it)| home::plan_at(it, &[(1, place(n))]);
        let owed = store.plan(events.iter().enumerate().map(plan).collect()).await.unwrap();
        let seqs: Vec<_> = owed.iter().map(|it| it.seq).collect();
        let messages = store.messages(&seqs).await.unwrap();
        self.hints.send(owed.iter().copied().zip(messages).collect());
        owed
    }

    pub async fn owe_silently(&self, count: usize, place: impl Fn(usize) -> Place) -> Vec<Owed> {
        let store = &self.open.store;
        let events = (0..count).map(|n| home::event(&format!(r#"{{"n":{n}}}"#))).collect();
        let events = home::new_events(&store.append(events).await.unwrap());
        let plan = |(n, it)| home::plan_at(it, &[(1, place(n))]);
        store.plan(events.iter().enumerate().map(plan).collect()).await.unwrap()
    }

    pub async fn idle(&self) -> DispatcherStatus {
        tokio::time::timeout(PATIENCE, self.handle.idle()).await.expect("it never becomes idle")
    }

    /// Moves the clock to when something is due, and waits until it is done.
    pub async fn next(&self) -> DispatcherStatus {
        let due = self.idle().await.next_due.expect("nothing will be due");
        self.clock().set(due.max(self.clock().now()));
        self.idle().await
    }

    pub async fn owed(&self) -> u64 {
        self.open.store.backlog().await.unwrap().iter().map(|it| it.owed).sum()
    }

    pub async fn stop(self) -> TempDir {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.task).await.expect("it never ends").unwrap();
        self.open.store.close().await;
        self.folder
    }
}

pub fn anywhere(_: usize) -> Place {
    Place { lane: Lane::NONE, position: 0 }
}

pub fn one_lane(_: usize) -> Place {
    Place { lane: Lane(1), position: 0 }
}

pub fn destination(sink: &Sink, retry: &[u64]) -> Destination {
    let waits = retry.iter().map(|it| Duration::from_secs(*it).into()).collect();
    Destination {
        id: home::destinations(1),
        policy: Policy { retry: Retry::Waits(waits), ..Policy::default() },
        ..outlet::destination(&sink.url("/"))
    }
}

fn id() -> DestinationId {
    home::destinations(1)
}

#[tokio::test]
async fn hinted_deliveries_are_delivered_and_settled() {
    let (bench, sink) = (Bench::new().await, Sink::new().await);
    bench.put(destination(&sink, &[])).await;

    bench.owe(100, anywhere).await;

    let status = bench.idle().await;
    assert_eq!((sink.received().len(), bench.owed().await), (100, 0));
    assert_eq!((status.held, status.in_flight, status.next_due), (0, 0, None));
}

#[tokio::test]
async fn failed_deliveries_retry_when_due_with_the_same_id() {
    let (bench, sink) = (Bench::new().await, Sink::answering(&[500, 503, 200]).await);
    bench.put(destination(&sink, &[10, 3_600])).await;

    bench.owe(1, anywhere).await;
    assert_eq!((bench.idle().await.is_idle, sink.received().len()), (true, 1));
    bench.clock().advance(SignedDuration::from_secs(5));
    bench.idle().await;
    assert_eq!(sink.received().len(), 1, "it is not due yet");
    bench.next().await;
    // The long wait is spent in the store.
    assert_eq!((bench.next().await.held, sink.received().len()), (0, 3));

    let ids: Vec<String> =
        sink.received().iter().map(|it| it.header("webhook-id").to_owned()).collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2] && ids[0].starts_with("evt_"));
    assert_eq!(bench.owed().await, 0);
}

#[tokio::test]
async fn hints_that_are_dropped_cost_a_read_and_nothing_else() {
    let (bench, sink) = (Bench::new().await, Sink::new().await);
    bench.put(destination(&sink, &[])).await;
    bench.idle().await;

    // The queue takes four, and nobody takes them out before we wait.
    let mut batches = Vec::new();
    for _ in 0..20 {
        let owed = bench.owe_silently(5, anywhere).await;
        let seqs: Vec<_> = owed.iter().map(|it| it.seq).collect();
        let messages = bench.open.store.messages(&seqs).await.unwrap();
        batches.push(owed.into_iter().zip(messages).collect::<Vec<_>>());
    }
    batches.into_iter().for_each(|it| bench.hints.send(it));

    bench.idle().await;
    assert_eq!((sink.received().len(), bench.owed().await), (100, 0));
}

#[tokio::test]
async fn a_lane_is_delivered_in_its_order_around_a_failure() {
    let script = |it: &crate::harness::sink::Received| match it.number {
        2 => Answer::status(500),
        _ => Answer::status(200),
    };
    let (bench, sink) = (Bench::new().await, Sink::with(script).await);
    bench.put(destination(&sink, &[60])).await;

    bench.owe(5, one_lane).await;
    bench.idle().await;
    assert_eq!(sink.received().len(), 3);
    bench.next().await;

    let order: Vec<i64> = sink.received().iter().map(number_of).collect();
    assert_eq!(order, [0, 1, 2, 2, 3, 4]);
}

/// The number in the payload of a test event.
pub fn number_of(received: &crate::harness::sink::Received) -> i64 {
    received.json()["data"]["n"].as_i64().unwrap()
}

#[tokio::test]
async fn a_restart_goes_on_where_the_store_stands() {
    let (bench, sink) = (Bench::new().await, Sink::answering(&[500, 200]).await);
    bench.put(destination(&sink, &[3_600])).await;
    bench.owe(1, anywhere).await;
    bench.idle().await;
    // Planned, and the process ends before the hint comes in.
    bench.owe_silently(10, anywhere).await;
    let folder = bench.stop().await;

    let bench = Bench::at(folder).await;
    let status = bench.idle().await;
    assert_eq!((sink.received().len(), status.backlog_known), (11, true));
    bench.next().await;
    assert_eq!((sink.received().len(), bench.owed().await), (12, 0));
}

#[tokio::test]
async fn a_stop_ends_what_is_in_flight_and_starts_nothing() {
    let (bench, sink) = (Bench::new().await, Sink::holding(|_| Answer::status(200)).await);
    let mut destination = destination(&sink, &[]);
    destination.policy.concurrency = std::num::NonZeroU32::new(3).unwrap();
    bench.put(destination).await;
    bench.owe(10, anywhere).await;
    sink.received_at_least(3).await;

    bench.stop.send_replace(true);
    let mut status = bench.handle.watch();
    sink.release(100);
    status.wait_for(|it| it.is_drained).await.unwrap();

    assert_eq!(sink.received().len(), 3);
    assert_eq!(bench.owed().await, 7, "what was in flight is on disk");
}

#[tokio::test]
async fn a_paused_destination_holds_and_a_resumed_one_delivers() {
    let (bench, sink) = (Bench::new().await, Sink::new().await);
    let active = destination(&sink, &[]);
    let since = bench.clock().now();
    let paused =
        Destination { version: 2, state: DestinationState::Paused { since }, ..active.clone() };
    bench.put(active.clone()).await;
    bench.put(paused).await;

    bench.owe(10, anywhere).await;
    assert_eq!((bench.idle().await.held, sink.received().len()), (0, 0));
    bench.put(Destination { version: 3, ..active }).await;

    bench.idle().await;
    sink.received_at_least(10).await;
    bench.idle().await;
    assert_eq!(bench.owed().await, 0);
}

#[tokio::test]
async fn a_destination_that_is_gone_is_disabled_and_holds_what_it_is_owed() {
    let (bench, sink) = (Bench::new().await, Sink::answering(&[410]).await);
    bench.put(destination(&sink, &[10])).await;

    bench.owe(1, anywhere).await;
    bench.idle().await;

    let state = bench.catalog_writer.current().destinations[&id()].state.clone();
    let DestinationState::Disabled { reason, .. } = state else { panic!("still {state:?}") };
    assert!(reason.contains("410"), "{reason}");
    assert_eq!((sink.received().len(), bench.owed().await), (1, 1));
}

#[tokio::test]
async fn deliveries_of_a_deleted_destination_are_cancelled() {
    let (bench, sink) = (Bench::new().await, Sink::answering(&[500]).await);
    bench.put(destination(&sink, &[3_600])).await;
    bench.owe(5, anywhere).await;
    bench.owe_silently(5, anywhere).await;
    bench.idle().await;

    let edit = Edit::DeleteDestination(id());
    bench.catalog_writer.edit(|_| Ok::<_, StoreError>((vec![edit], ()))).await.unwrap();
    bench.idle().await;

    assert_eq!(bench.owed().await, 0);
}

#[tokio::test]
async fn a_cancelled_delivery_is_not_attempted_again() {
    let (bench, sink) = (Bench::new().await, Sink::answering(&[500]).await);
    bench.put(destination(&sink, &[10])).await;
    let owed = bench.owe(1, anywhere).await;
    bench.idle().await;

    bench.handle.cancel(owed).await;

    assert_eq!(bench.idle().await.held, 0);
    bench.clock().advance(SignedDuration::from_hours(1));
    bench.idle().await;
    assert_eq!((sink.received().len(), bench.owed().await), (1, 0));
}
