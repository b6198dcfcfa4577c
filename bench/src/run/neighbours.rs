//! A bad endpoint beside 99 healthy ones: what it costs them.

use std::time::Duration;

use super::{
    Bench,
    process::{closed, free_address, load},
    resources,
    table::{Target, median},
};
use crate::{Result, histogram::Latency, load::Options};

/// How the bad endpoint is bad. Between any two of them all endpoints are healthy once.
pub const MODES: [&str; 4] = ["hang", "drip", "flood", "dead"];

const ENDPOINTS: u64 = 100;
/// Events a second over all endpoints, well below what the machine can do: it is the bad endpoint
/// that is measured, not the queue.
const EVENTS_PER_SECOND: f64 = 1000.0;

pub async fn neighbours(bench: &mut Bench) -> Result<()> {
    let (mut healthy, mut beside) = (Vec::new(), MODES.map(|_| Vec::new()));
    for _ in 0..bench.scale.rounds {
        for (mode, beside) in MODES.iter().zip(&mut beside) {
            bench.progress.step("100 healthy endpoints");
            healthy.push(round(bench, None).await?.p99);
            bench.progress.step(&format!("99 healthy endpoints beside one of mode {mode}"));
            beside.push(round(bench, Some(mode)).await?.p99);
        }
    }
    let base = median(&healthy);
    bench.table.note(format!("Neighbours: p99 of the healthy runs was {healthy:?} ms."));
    bench.table.value("p99 with 100 healthy endpoints", None, Some(base), "ms", None);
    for (mode, p99) in MODES.iter().zip(&beside) {
        bench.table.note(format!("Neighbours: beside mode {mode} it was {p99:?} ms."));
        let what = format!("p99 of 99 healthy endpoints beside one of mode {mode}");
        let target = Some(Target::AtMost(base * 1.2));
        bench.table.value(&what, None, Some(median(p99)), "ms", target);
    }
    Ok(())
}

/// The latency at the healthy endpoints. In every round endpoint 0 is left out of it.
async fn round(bench: &mut Bench, mode: Option<&str>) -> Result<Latency> {
    let bad = match mode {
        None => bench.sink.url("fine/0"),
        Some("dead") => format!("http://{}/dead", free_address()?),
        Some(mode) => bench.sink.url(&format!("{mode}/0")),
    };
    let healthy = (1..ENDPOINTS).map(|n| bench.sink.url(&format!("ok/{n}")));
    let urls: Vec<_> = std::iter::once(bad).chain(healthy).collect();
    let tidegate = bench.tidegate(&resources::by_type(&urls, bench.options.concurrency))?;
    let server = tidegate.start().await?;
    let calm = |time: Duration| Options {
        rate: Some(EVENTS_PER_SECOND),
        seconds: time.as_secs_f64(),
        types: ENDPOINTS,
        ..closed(server.address, 16, Duration::ZERO)
    };
    bench.sink.reset().await?;
    let warm_up = load(&calm(Duration::from_secs(1))).await?;
    bench.sink.wait_for(of_healthy(warm_up.accepted)).await?;
    bench.sink.reset().await?;
    let report = load(&calm(bench.scale.neighbours)).await?;
    let stats = bench.sink.wait_for(of_healthy(report.accepted)).await?;
    bench.table.memory(server.memory());
    server.kill().await?;
    Ok(stats.latency)
}

/// How many of these events went to healthy endpoints. The types come in turn, from 0.
fn of_healthy(accepted: u64) -> u64 {
    accepted - accepted.div_ceil(ENDPOINTS)
}
