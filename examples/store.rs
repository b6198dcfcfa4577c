//! Measures the embedded store alone: `cargo run --release --example store -- FOLDER [EVENTS]`.
//!
//! Each event is accepted with a key, planned for one destination, and settled as delivered, with
//! every commit synced. Then: acknowledgements one by one at a steady rate, and a start with a
//! million deliveries owed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tidegate::{
    clock::{Clock, SystemClock},
    hint::{self, Hint},
    model::{
        Class, DestinationId, Ended, Entry, EntryKind, Event, EventSeq, Lane, NewEvent, Outcome,
        Owed, PipelineId, Place, Plan, PlannedDelivery, ProjectId, RawJson, SourceId, TypeName,
    },
    store::{
        Next, OwedQuery, Settlement, Store,
        sqlite::{Options, SqliteStore},
    },
};

type Hints = hint::Receiver<Vec<Arc<Event>>, bool>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("which folder?")?);
    let events = arguments.next().map_or(Ok(2_000_000), |it| it.parse())?;
    let rate = std::env::var("RATE").ok().and_then(|it| it.parse().ok());
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        if let Some(rate) = rate {
            return latency(&folder, rate).await;
        }
        for callers in [1, 16, 256] {
            for batch in [1, 50] {
                let total = if batch == 1 { events / 20 * callers.min(20) / 20 } else { events };
                throughput(&folder, callers, batch, total).await?;
            }
        }
        for rate in [100, 1_000, 5_000, 20_000] {
            latency(&folder, rate).await?;
        }
        backlog(&folder, 1_000_000).await
    })
}

fn open(folder: &Path) -> Result<(Arc<SqliteStore>, Hints), Failure> {
    let weigh = |it: &Vec<Arc<Event>>| it.iter().map(|it| it.weight()).sum();
    let (sender, receiver) = hint::weighed_channel(10_000, 16 << 20, weigh);
    let mut seed = 1_u64;
    let random = Box::new(move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed
    });
    let store =
        SqliteStore::open(folder, Options::default(), Arc::new(SystemClock), random, sender)?;
    Ok((Arc::new(store), receiver))
}

fn fresh(folder: &Path) -> Result<(Arc<SqliteStore>, Hints), Failure> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    open(folder)
}

fn event(number: usize) -> NewEvent {
    const WORDS: [&str; 8] =
        ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"];
    let mut text = String::new();
    let mut state = number as u64 ^ 0x5555;
    while text.len() < 400 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        text.push_str(WORDS[(state >> 61) as usize]);
        text.push_str(&format!("-{:x} ", state >> 48));
    }
    let now = SystemClock.now();
    NewEvent {
        id: None,
        project: ProjectId::from_bits(1),
        source: SourceId::from_bits(2),
        event_type: TypeName::trusted("order.completed"),
        timestamp: Some(now),
        received_at: now,
        key: format!("order-{number:x}-{:x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .parse()
            .ok(),
        key_counts_for: None,
        metadata: RawJson::trusted(r#"{"ip":"127.0.0.1","user_agent":"bench/1"}"#),
        payload: RawJson::trusted(format!(r#"{{"order":{number},"text":"{text}"}}"#)),
    }
}

fn plan(event: &Arc<Event>) -> Plan {
    let delivery = PlannedDelivery {
        destination: DestinationId::from_bits(3),
        pipeline: PipelineId::from_bits(4),
        pipeline_version: 1,
        place: Place { lane: Lane::NONE, position: 0 },
        copy: None,
        dead: None,
    };
    Plan { deliveries: vec![delivery], ..Plan::of(event) }
}

fn delivered(owed: &Owed) -> Settlement {
    let outcome = Outcome {
        class: Class::Accepted,
        status: Some(200),
        reason: "200 OK".to_owned(),
        retry_after: None,
        duration: Duration::from_millis(3),
        response: None,
    };
    let entry = Entry {
        delivery: owed.seq,
        number: 1,
        at: SystemClock.now(),
        kind: EntryKind::Attempt { number: 1, outcome },
        ended: Some(Ended::Delivered),
    };
    Settlement { owed: *owed, entry, next: Next::Ended(Ended::Delivered) }
}

/// Plans and settles what is hinted, until so many are through.
async fn follow(
    store: Arc<SqliteStore>,
    mut hints: Hints,
    total: usize,
    settle: bool,
) -> Result<(), Failure> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Vec<Owed>>(64);
    let settler = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut done = 0;
            while done < total {
                let Some(mut owed) = receiver.recv().await else { break };
                while owed.len() < 2_000 {
                    match receiver.try_recv() {
                        Ok(more) => owed.extend(more),
                        Err(_) => break,
                    }
                }
                done += owed.len();
                store.settle(owed.iter().map(delivered).collect()).await?;
            }
            Ok::<_, Failure>(())
        })
    };
    let (mut planned, mut is_behind) = (0, false);
    while planned < total {
        let mut events = match is_behind {
            true => store.unplanned(EventSeq(0), 2_000).await?,
            false => match hints.receive().await {
                Some(Hint::Some(events)) => events,
                Some(Hint::Lost(_)) => Vec::new(),
                None => break,
            },
        };
        // What was read already is hinted once more, and what was lost shows as a gap.
        events.retain(|it| it.seq.0 > planned as u64);
        let is_next = events.first().is_some_and(|it| it.seq.0 == planned as u64 + 1);
        if is_behind && events.is_empty() {
            is_behind = false;
            continue;
        }
        if !is_next {
            is_behind = true;
            continue;
        }
        planned += events.len();
        let owed = store.plan(events.iter().map(plan).collect()).await?;
        if settle {
            sender.send(owed).await?;
        }
    }
    drop(sender);
    if settle { settler.await? } else { Ok(()) }
}

async fn throughput(
    folder: &Path,
    callers: usize,
    batch: usize,
    total: usize,
) -> Result<(), Failure> {
    let (store, hints) = fresh(folder)?;
    let each = total / callers / batch * batch;
    let total = each * callers;
    let (cpu, begun) = (Usage::now(), Instant::now());
    let follower = tokio::spawn(follow(store.clone(), hints, total, true));
    let writers = (0..callers).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            for start in (0..each).step_by(batch) {
                let offered = (start..start + batch).map(|it| event(caller * each + it)).collect();
                store.append(offered).await?;
            }
            Ok::<_, Failure>(())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await??;
    }
    let accepted = begun.elapsed();
    follower.await??;
    let all = begun.elapsed();
    let cpu = Usage::now().since(&cpu);
    store.close().await;
    println!(
        "{callers:>3} callers × {batch:>2}: {:>7.0} accepted/s, {:>7.0} through/s ({total}); CPU µs/event: {:.1} all, {:.1} writer, {:.1} owed, {:.1} upkeep; RSS {} MB; disk {} B/event, written {} B/event",
        total as f64 / accepted.as_secs_f64(),
        total as f64 / all.as_secs_f64(),
        cpu.all / total as f64,
        cpu.writer / total as f64,
        cpu.owed / total as f64,
        cpu.upkeep / total as f64,
        memory(),
        size(folder) / total as u64,
        cpu.written as u64 / total as u64,
    );
    Ok(())
}

async fn latency(folder: &Path, rate: usize) -> Result<(), Failure> {
    let (store, hints) = fresh(folder)?;
    let total = (rate * 5).min(60_000);
    let follower = tokio::spawn(follow(store.clone(), hints, total, true));
    let begun = Instant::now();
    let mut calls = Vec::with_capacity(total);
    for number in 0..total {
        let due = begun + Duration::from_secs_f64(number as f64 / rate as f64);
        while Instant::now() < due {
            if due - Instant::now() > Duration::from_millis(2) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
        let store = store.clone();
        calls.push(tokio::spawn(async move {
            store.append(vec![event(number)]).await.map(|_| due.elapsed())
        }));
    }
    let mut times = Vec::with_capacity(total);
    for call in calls {
        times.push(call.await??);
    }
    follower.await??;
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{rate:>5}/s one by one: acknowledged p50 {:.2?}, p99 {:.2?}, p99.9 {:.2?}, longest {:.2?}; the disk's sync alone {:.2?}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        sync_alone(folder)?,
    );
    store.close().await;
    Ok(())
}

/// What one write and sync of 4 KiB takes, at the median.
fn sync_alone(folder: &Path) -> Result<Duration, Failure> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(folder.join("probe"))?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let begun = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_all()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[100])
}

async fn backlog(folder: &Path, total: usize) -> Result<(), Failure> {
    let (store, hints) = fresh(folder)?;
    let begun = Instant::now();
    let follower = tokio::spawn(follow(store.clone(), hints, total, false));
    for start in (0..total).step_by(1_000) {
        store.append((start..start + 1_000).map(event).collect()).await?;
    }
    follower.await??;
    println!(
        "{total} owed, {:.0}/s; RSS {} MB",
        total as f64 / begun.elapsed().as_secs_f64(),
        memory()
    );
    drop(store);
    for how in ["after a crash", "again"] {
        let begun = Instant::now();
        let (store, _hints) = open(folder)?;
        println!("opened {how} in {:.2?}; RSS {} MB", begun.elapsed(), memory());
        let begun = Instant::now();
        let backlog = store.backlog().await?;
        println!("backlog of {} counted in {:.2?}", backlog[0].owed, begun.elapsed());
        let begun = Instant::now();
        let destination = DestinationId::from_bits(3);
        let query = OwedQuery::Line { destination, after: None, per_lane: 1, limit: 1_000 };
        let owed = store.owed(query).await?;
        let line = begun.elapsed();
        let begun = Instant::now();
        let seqs: Vec<_> = owed.iter().map(|it| it.seq).collect();
        let messages = store.messages(&seqs).await?;
        println!(
            "line of {} in {line:.2?}, their messages in {:.2?}",
            messages.len(),
            begun.elapsed()
        );
        let begun = Instant::now();
        store.settle(owed.iter().map(delivered).collect()).await?;
        println!("{} old ones settled in {:.2?}", owed.len(), begun.elapsed());
        assert!(store.unplanned(EventSeq(0), 1).await?.is_empty());
        store.close().await;
    }
    std::fs::remove_file(folder.join("owed.db"))?;
    let begun = Instant::now();
    let (store, _hints) = open(folder)?;
    println!("owed.db made anew in {:.2?}; RSS {} MB", begun.elapsed(), memory());
    store.close().await;
    Ok(())
}

/// CPU time in microseconds, of the process and of the store's threads.
#[derive(Default)]
struct Usage {
    all: f64,
    writer: f64,
    owed: f64,
    upkeep: f64,
    written: f64,
}

impl Usage {
    fn now() -> Self {
        let mut usage = Self { all: ticks("/proc/self/stat"), ..Self::default() };
        for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let path = task.path();
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            let spent = ticks(&path.join("stat").to_string_lossy());
            match name.trim() {
                "store-writer" => usage.writer += spent,
                "store-owed" => usage.owed += spent,
                "store-upkeep" => usage.upkeep += spent,
                _ => (),
            }
        }
        let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let written = io.lines().find_map(|it| it.strip_prefix("write_bytes: "));
        usage.written = written.and_then(|it| it.parse().ok()).unwrap_or(0.0);
        usage
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            all: self.all - before.all,
            writer: self.writer - before.writer,
            owed: self.owed - before.owed,
            upkeep: self.upkeep - before.upkeep,
            written: self.written - before.written,
        }
    }
}

fn ticks(path: &str) -> f64 {
    let stat = std::fs::read_to_string(path).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|it| it.parse::<f64>().ok()).unwrap_or(0.0);
    (field(11) + field(12)) * 10_000.0
}

fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

fn size(folder: &Path) -> u64 {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|it| it.file_name() != "reserve")
        .map(|it| {
            if it.path().is_dir() {
                size(&it.path())
            } else {
                it.metadata().map_or(0, |it| it.len())
            }
        })
        .sum()
}
