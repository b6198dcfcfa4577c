//! How many events are accepted and delivered in a second.

use std::time::Duration;

use super::{
    Bench, Turn,
    process::{Memory, closed, load},
    table::Target,
};
use crate::Result;

/// What one round came to.
struct Round {
    accepted_per_second: f64,
    /// From the first post until the last arrival.
    delivered_per_second: f64,
    ack_p99: f64,
    /// Processor time in microseconds for each delivery.
    cpu: f64,
    memory: Memory,
}

/// At 1, 16 and 64 connections.
pub async fn throughput(bench: &mut Bench) -> Result<()> {
    for connections in [1, 16, 64] {
        let rounds = rounds(bench, connections, &["ok".to_owned()]).await?;
        let of = |turn, value: fn(&Round) -> f64| column(&rounds, turn, value);
        let pair = |value| (of(Turn::Relay, value), of(Turn::Tidegate, value));
        let senders = match connections {
            1 => "1 connection".to_owned(),
            more => format!("{more} connections"),
        };
        let target = (connections > 1).then_some(Target::AtLeast(0.6));

        let (relay, tidegate) = pair(|it| it.accepted_per_second);
        bench.table.compare(&format!("accepted/s, {senders}"), &relay, &tidegate, None);
        let (relay, tidegate) = pair(|it| it.delivered_per_second);
        let what = format!("delivered/s, {senders}");
        bench.table.compare(&what, &relay, &tidegate, target);
        let (relay, tidegate) = pair(|it| it.ack_p99);
        let what = format!("ack p99 in ms, {senders}");
        bench.table.compare(&what, &relay, &tidegate, None);
        let (relay, tidegate) = pair(|it| it.cpu);
        let what = format!("processor µs for an event, {senders}");
        bench.table.compare(&what, &relay, &tidegate, None);
        let (relay, tidegate) = pair(|it| it.memory.peak);
        let what = format!("peak memory in MiB, {senders}");
        bench.table.compare(&what, &relay, &tidegate, None);
    }
    Ok(())
}

/// Each event to ten endpoints.
pub async fn fan_out(bench: &mut Bench) -> Result<()> {
    let paths: Vec<_> = (0..10).map(|n| format!("ok/{n}")).collect();
    let rounds = rounds(bench, 16, &paths).await?;
    let relay = column(&rounds, Turn::Relay, |it| it.delivered_per_second);
    let tidegate = column(&rounds, Turn::Tidegate, |it| it.delivered_per_second);
    let target = Some(Target::AtLeast(0.7));
    bench.table.compare("requests/s out, each event to 10 endpoints", &relay, &tidegate, target);
    Ok(())
}

async fn rounds(
    bench: &mut Bench,
    connections: usize,
    paths: &[String],
) -> Result<Vec<(Turn, Round)>> {
    let mut rounds = Vec::new();
    for turn in bench.turns() {
        let to = paths.len();
        bench.progress.step(&format!("{turn:?}, {connections} connections, {to} endpoints"));
        let round = round(bench, turn, connections, paths).await?;
        if turn == Turn::Tidegate {
            bench.table.memory(round.memory);
        }
        rounds.push((turn, round));
    }
    Ok(rounds)
}

async fn round(bench: &Bench, turn: Turn, connections: usize, paths: &[String]) -> Result<Round> {
    let server = bench.start(turn, paths).await?;
    bench.sink.reset().await?;
    let copies = paths.len() as u64;
    let warm_up = load(&closed(server.address, connections, Duration::from_secs(1))).await?;
    bench.sink.wait_for(warm_up.accepted * copies).await?;

    bench.sink.reset().await?;
    let before = server.cpu();
    let report = load(&closed(server.address, connections, bench.scale.load)).await?;
    let stats = bench.sink.wait_for(report.accepted * copies).await?;
    let cpu = server.cpu().saturating_sub(before);
    let memory = server.memory();
    server.stop().await?;
    let refused = report.sent - report.accepted;
    if refused * 100 > report.sent {
        return Err(format!("more than 1 % was refused: {report:?}").into());
    }
    let seconds = stats.last_ns.saturating_sub(report.start_ns) as f64 / 1e9;
    Ok(Round {
        accepted_per_second: report.accepted_per_second,
        delivered_per_second: stats.count as f64 / seconds,
        ack_p99: report.ack.p99,
        cpu: cpu.as_secs_f64() * 1e6 / stats.count as f64,
        memory,
    })
}

fn column(rounds: &[(Turn, Round)], turn: Turn, value: fn(&Round) -> f64) -> Vec<f64> {
    rounds.iter().filter(|(whose, _)| *whose == turn).map(|(_, round)| value(round)).collect()
}
