//! A million deliveries that wait for a dead endpoint: what they cost the events that come after
//! them, the disk, and the next start.

use std::time::Duration;

use super::{
    Bench, Tidegate,
    process::{Server, closed, free_address, load},
    resources,
    table::{Target, median},
};
use crate::{Result, load::Options};

const CONNECTIONS: usize = 16;

pub async fn backlog(bench: &mut Bench) -> Result<()> {
    // A port where nobody listens: each attempt fails at once, and the breaker opens.
    let dead = format!("http://{}/dead", free_address()?);
    let resources = resources::to_all(&[dead], bench.options.concurrency);
    let full = bench.tidegate(&resources)?;
    let empty_data = full.disk()?;
    let mut loaded = full.start().await?;
    fill(bench, &loaded).await?;

    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..bench.scale.rounds {
        bench.progress.step("accepted/s with nothing pending");
        let empty = bench.tidegate(&resources)?;
        let server = empty.start().await?;
        without.push(accepted_per_second(bench, &server).await?);
        bench.table.memory(server.memory());
        server.kill().await?;
        bench.progress.step("accepted/s with the backlog");
        with.push(accepted_per_second(bench, &loaded).await?);
    }
    bench.table.memory(loaded.memory());
    let pending = bench.scale.pending;
    let count = thousands(pending);
    bench.table.value("accepted/s with nothing pending", None, Some(median(&without)), "", None);
    let ratio = median(&with) / median(&without) * 100.0;
    let what = format!("accepted/s with {count} pending");
    bench.table.value(&what, None, Some(median(&with)), "", None);
    let target = Some(Target::AtLeast(90.0));
    bench.table.value("… of that with nothing pending", None, Some(ratio), "%", target);
    let memory = loaded.memory();
    bench.table.value(&format!("memory with {count} pending"), None, Some(memory.now), "MiB", None);

    bench.progress.step("start with the backlog, after a stop and after a kill");
    loaded.stop().await?;
    loaded = restart(bench, &full, "after a stop", &count).await?;
    loaded.kill().await?;
    loaded = restart(bench, &full, "after kill -9", &count).await?;
    loaded.stop().await?;
    bench.table.note(format!(
        "The data of the backlog took {} MiB in the end.",
        full.disk()?.saturating_sub(empty_data) >> 20
    ));
    disk(bench).await
}

/// Posts in batches until the backlog stands.
async fn fill(bench: &mut Bench, server: &Server) -> Result<()> {
    let pending = bench.scale.pending;
    bench.progress.step(&format!("making a backlog of {}", thousands(pending)));
    let options = Options {
        batch: 500,
        count: pending,
        ..closed(server.address, 4, Duration::from_secs(600))
    };
    let report = load(&options).await?;
    if report.accepted < pending {
        return Err(format!("{} of {pending} were accepted: {report:?}", report.accepted).into());
    }
    bench.table.value(
        "accepted/s in batches of 500",
        None,
        Some(report.accepted_per_second),
        "",
        None,
    );
    Ok(())
}

async fn accepted_per_second(bench: &Bench, server: &Server) -> Result<f64> {
    load(&closed(server.address, CONNECTIONS, Duration::from_secs(1))).await?;
    let report = load(&closed(server.address, CONNECTIONS, bench.scale.load)).await?;
    Ok(report.accepted_per_second)
}

async fn restart(
    bench: &mut Bench,
    tidegate: &Tidegate,
    after: &str,
    count: &str,
) -> Result<Server> {
    let server = tidegate.start().await?;
    let seconds = server.startup.as_secs_f64();
    let target = Some(Target::AtMost(1.0));
    bench.table.value(
        &format!("start with {count} pending, {after}"),
        None,
        Some(seconds),
        "s",
        target,
    );
    bench.table.memory(server.memory());
    Ok(server)
}

/// Bytes of disk for an event that was delivered, over enough events that what every store has
/// does not count.
async fn disk(bench: &mut Bench) -> Result<()> {
    let events = bench.scale.pending / 2;
    bench.progress.step(&format!("disk of {} events, all delivered", thousands(events)));
    let url = bench.sink.url("ok");
    let tidegate = bench.tidegate(&resources::to_all(&[url], bench.options.concurrency))?;
    let server = tidegate.start().await?;
    let before = tidegate.disk()?;
    bench.sink.reset().await?;
    let options = Options {
        batch: 100,
        count: events,
        ..closed(server.address, 4, Duration::from_secs(600))
    };
    let report = load(&options).await?;
    let stats = bench.sink.wait_for(report.accepted).await?;
    bench.table.memory(server.memory());
    server.stop().await?;
    let each = tidegate.disk()?.saturating_sub(before) as f64 / report.accepted as f64;
    bench.table.value("disk for an event, delivered", None, Some(each), "bytes", None);
    let seconds = stats.last_ns.saturating_sub(report.start_ns) as f64 / 1e9;
    let rate = stats.count as f64 / seconds;
    bench.table.value("delivered/s, posted in batches of 100", None, Some(rate), "", None);
    Ok(())
}

fn thousands(count: u64) -> String {
    match count {
        millions if millions % 1_000_000 == 0 => format!("{} M", millions / 1_000_000),
        thousands => format!("{} k", thousands / 1000),
    }
}
