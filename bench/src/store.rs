//! The embedded store alone: what accepting costs as keys grow in number, while a segment is sealed
//! and while old events are forgotten, and what lists cost.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tidegate::{
    clock::SystemClock,
    hint,
    model::{
        DestinationId, Ended, Entry, EntryKind, Lane, NewEvent, Owed, Pattern, PipelineId, Place,
        Plan, PlannedDelivery, ProjectId, RawJson, Selection, SourceId,
    },
    store::{
        Appended, EventFilter, Next, Page, Records as _, Settlement, Store as _,
        sqlite::Options as StoreOptions, sqlite::SqliteStore,
    },
};

use crate::{Result, event, histogram::Histogram};

#[derive(clap::Args)]
pub struct Options {
    /// Events, each with a key of its own and one delivery that ends at once.
    #[arg(long, default_value_t = 2_000_000)]
    events: u64,
    /// Events of a segment.
    #[arg(long, default_value_t = 500_000)]
    segment: u64,
    /// Where the data folder is made, and removed at the end.
    #[arg(long, default_value = "target/bench")]
    data: PathBuf,
}

/// Events in one call.
const BATCH: u64 = 100;
/// Of which every second event is.
const PROJECTS: u64 = 2;

pub async fn run(options: &Options) -> Result<()> {
    let folder = options.data.join(format!("store-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let done = measure(options, &folder).await;
    std::fs::remove_dir_all(&folder)?;
    done
}

async fn measure(options: &Options, folder: &std::path::Path) -> Result<()> {
    let (sender, mut accepted) = hint::channel(64);
    // Nobody here waits for hints; they only must not pile up.
    tokio::spawn(async move { while accepted.receive().await.is_some() {} });
    let mut seed = 7_u64;
    let random = Box::new(move || {
        seed = event::mix(seed);
        seed
    });
    let segments = StoreOptions { segment_events: options.segment, ..StoreOptions::default() };
    let store = SqliteStore::open(folder, segments, Arc::new(SystemClock), random, sender)?;
    let bench = Bench { store: Arc::new(store), events: event::Events::new(1, false, 1) };

    println!("| | events/s | p50 of a call | p99 | most |\n|---|---|---|---|---|");
    let part = (options.events / 10).max(BATCH);
    for number in 0..10 {
        let first = number * part;
        bench.append(&format!("from {first} on"), first..first + part).await?;
    }
    bench.repeat(options.events / 20).await?;
    let mut next = part * 10;
    for (project, percent) in [(0, 30), (0, 100), (1, 100)] {
        let store = bench.store.clone();
        let until = received(options.events * percent / 100);
        let pruning = tokio::spawn(async move {
            let begun = Instant::now();
            (store.prune(&[(project_id(project), until)]).await, begun.elapsed())
        });
        let what = format!("while {percent} % of project {project} are forgotten");
        bench.append(&what, next..next + part).await?;
        next += part;
        let (pruned, took) = pruning.await?;
        println!("| … which was this many, and took | {} | {took:.0?} | | |", pruned?);
    }
    bench.list().await?;
    bench.store.close().await;
    Ok(())
}

struct Bench {
    store: Arc<SqliteStore>,
    events: event::Events,
}

impl Bench {
    fn offer(&self, number: u64) -> Result<NewEvent> {
        Ok(NewEvent {
            id: None,
            project: project_id(number % PROJECTS),
            source: SourceId::from_bits(0x300),
            event_type: "bench.sent".parse()?,
            timestamp: None,
            received_at: received(number),
            key: Some(format!("order-{number}-placed").parse()?),
            key_counts_for: None,
            metadata: RawJson::parse(r#"{"ip":"127.0.0.1"}"#)?,
            payload: RawJson::parse(self.events.body(number, 0))?,
        })
    }

    /// Accepts, plans and settles these events, and says what accepting took.
    async fn append(&self, what: &str, numbers: std::ops::Range<u64>) -> Result<()> {
        let (mut calls, count) = (Histogram::new(), numbers.end - numbers.start);
        let begun = Instant::now();
        for first in numbers.step_by(BATCH as usize) {
            let offered = (first..first + BATCH).map(|it| self.offer(it));
            let offered = offered.collect::<Result<Vec<_>>>()?;
            let call = Instant::now();
            let appended = self.store.append(offered).await?;
            calls.record(call.elapsed());
            let new = appended.into_iter().filter_map(|it| match it {
                Appended::New(event) => Some(event),
                Appended::Duplicate { .. } => None,
            });
            let plans = new.map(|event| {
                let delivery = PlannedDelivery {
                    destination: DestinationId::from_bits(0x200),
                    pipeline: PipelineId::from_bits(0x400),
                    pipeline_version: 1,
                    place: Place { lane: Lane::NONE, position: 0 },
                    copy: None,
                    dead: None,
                };
                Plan { deliveries: vec![delivery], ..Plan::of(&event) }
            });
            let owed = self.store.plan(plans.collect()).await?;
            self.store.settle(owed.into_iter().map(ended).collect()).await?;
        }
        row(what, count, begun.elapsed(), &calls);
        Ok(())
    }

    /// Offers events again that are there.
    async fn repeat(&self, count: u64) -> Result<()> {
        let mut calls = Histogram::new();
        let begun = Instant::now();
        for first in (0..count).step_by(BATCH as usize) {
            let offered = (first..first + BATCH).map(|it| self.offer(it * 7 % (count * 20)));
            let offered = offered.collect::<Result<Vec<_>>>()?;
            let call = Instant::now();
            let appended = self.store.append(offered).await?;
            calls.record(call.elapsed());
            if appended.iter().any(|it| matches!(it, Appended::New(_))) {
                return Err("a key was forgotten".into());
            }
        }
        row("the same keys again", count, begun.elapsed(), &calls);
        Ok(())
    }

    async fn list(&self) -> Result<()> {
        println!(
            "\n| newest 50 | found | listed in | of so many | counted in |\n|---|---|---|---|---|"
        );
        for event_type in ["bench.sent", "bench.*", "nothing.here"] {
            let pattern = Some(Pattern::try_from(event_type.to_owned())?);
            let filter = EventFilter { event_type: pattern.clone(), ..EventFilter::default() };
            let page = Page { before: None, limit: 50 };
            let begun = Instant::now();
            let found = self.store.events(project_id(0), &filter, page).await?.len();
            let listed = begun.elapsed();
            let selection = Selection { event_type: pattern, ..Selection::default() };
            let count = self.store.count(project_id(0), &selection).await?;
            let counted = begun.elapsed() - listed;
            println!("| {event_type} | {found} | {listed:.1?} | {count:?} | {counted:.1?} |");
        }
        Ok(())
    }
}

fn row(what: &str, count: u64, time: Duration, calls: &Histogram) {
    let latency = calls.summary();
    println!(
        "| {what} | {:.0} | {:.2} ms | {:.2} ms | {:.2} ms |",
        count as f64 / time.as_secs_f64(),
        latency.p50,
        latency.p99,
        latency.max,
    );
}

fn project_id(number: u64) -> ProjectId {
    ProjectId::from_bits(0x100 + u128::from(number))
}

/// One each second.
fn received(number: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(number as i64)
}

fn ended(owed: Owed) -> Settlement {
    let entry = Entry {
        delivery: owed.seq,
        number: owed.standing.entries + 1,
        at: Timestamp::UNIX_EPOCH,
        kind: EntryKind::Note { reason: "measured".to_owned() },
        ended: Some(Ended::Delivered),
    };
    Settlement { owed, entry, next: Next::Ended(Ended::Delivered) }
}
