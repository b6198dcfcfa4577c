//! From ingest to delivered at low load, beside what the disk alone takes for an fsync.

use std::{
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Bench, Turn,
    process::{closed, load},
    table::Target,
};
use crate::{
    Result,
    event::SIZE,
    histogram::{Histogram, Latency},
    load::Options,
};

const EVENTS_PER_SECOND: f64 = 100.0;
/// How long the disk alone is measured.
pub const PROBE: Duration = Duration::from_secs(5);

pub async fn latency(bench: &mut Bench) -> Result<()> {
    bench.progress.step("fsync of the disk alone");
    std::fs::create_dir_all(&bench.options.data)?;
    let data = bench.options.data.clone();
    let disk = tokio::task::spawn_blocking(move || probe(&data)).await??;

    let mut relay = Latency::default();
    let mut tidegate = None;
    for turn in &bench.turns()[..if bench.options.relay_only { 1 } else { 2 }] {
        bench.progress.step(&format!("{turn:?}, latency at {EVENTS_PER_SECOND} events/s"));
        let server = bench.start(*turn, &["ok".to_owned()]).await?;
        bench.sink.reset().await?;
        let calm = |seconds: f64| Options {
            rate: Some(EVENTS_PER_SECOND),
            seconds,
            ..closed(server.address, 16, Duration::ZERO)
        };
        let warm_up = load(&calm(1.0)).await?;
        bench.sink.wait_for(warm_up.accepted).await?;
        bench.sink.reset().await?;
        let report = load(&calm(bench.scale.latency.as_secs_f64())).await?;
        let stats = bench.sink.wait_for(report.accepted).await?;
        match turn {
            Turn::Relay => relay = stats.latency,
            Turn::Tidegate => {
                bench.table.memory(server.memory());
                tidegate = Some(stats.latency);
            }
        }
        server.stop().await?;
    }
    let table = &mut bench.table;
    table.value("fsync of the disk alone, p50", None, Some(disk.p50), "ms", None);
    table.value("fsync of the disk alone, p99", None, Some(disk.p99), "ms", None);
    let limit = |fsync: f64, beyond: f64| Some(Target::AtMost(fsync + beyond));
    let of = |value: fn(&Latency) -> f64| (Some(value(&relay)), tidegate.as_ref().map(value));
    let what = |which: &str| format!("ingest→delivered at 100 events/s, {which}");
    let (theirs, ours) = of(|it| it.p50);
    table.value(&what("p50"), theirs, ours, "ms", limit(disk.p50, 2.0));
    let (theirs, ours) = of(|it| it.p99);
    table.value(&what("p99"), theirs, ours, "ms", limit(disk.p99, 5.0));
    let (theirs, ours) = of(|it| it.p999);
    table.value(&what("p99.9"), theirs, ours, "ms", None);
    Ok(())
}

/// Appends an event's worth of bytes and syncs it, as often as the events will come.
fn probe(folder: &Path) -> Result<Latency> {
    let path = folder.join(format!("fsync-{}", std::process::id()));
    let mut file = std::fs::File::create(&path)?;
    let mut histogram = Histogram::new();
    let start = Instant::now();
    let mut n = 0;
    while start.elapsed() < PROBE {
        n += 1;
        let due = start + Duration::from_secs_f64(f64::from(n) / EVENTS_PER_SECOND);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let begin = Instant::now();
        file.write_all(&[b'.'; SIZE])?;
        file.sync_data()?;
        histogram.record(begin.elapsed());
    }
    drop(file);
    std::fs::remove_file(&path)?;
    Ok(histogram.summary())
}
