//! One, two and three nodes on a PostgreSQL, beside the embedded store: how many events they accept and
//! deliver, and what each event costs the gateways, the database and its disk.
//!
//! Everything runs on one machine here, so that more nodes have no more processors; what is measured is
//! what they cost one another, and the constants of the capacity model in docs/scaling.md.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};

use super::{
    Bench,
    database::{Database, Done},
    process::{Server, call, call_with, closed, load},
    resources,
};
use crate::{
    Result,
    load::{Options, Report},
};

/// So that several nodes have something to share: each project is of one shard, and so is each
/// destination.
const PROJECTS: u64 = 24;

/// What is measured: the embedded store (0 nodes), and so many nodes on one PostgreSQL.
const SETUPS: [(usize, &str); 4] =
    [(0, "embedded store"), (1, "1 node"), (2, "2 nodes"), (3, "3 nodes")];

/// How events are posted: over how many connections, and how many in a request.
const POSTED: [(&str, usize, u64); 2] = [("one by one", 96, 1), ("in batches of 100", 12, 100)];

/// How many measured turns there are, for the progress line.
pub const TURNS: u32 = (POSTED.len() * SETUPS.len()) as u32;

/// What one turn came to.
struct Turn {
    accepted_per_second: f64,
    delivered_per_second: f64,
    ack_p99: f64,
    /// Of all gateways, in microseconds for each event.
    gateway_cpu: f64,
    /// Of an event, `None` without a database.
    database: Option<Each>,
    disk: f64,
}

/// For one event, delivered.
struct Each {
    cpu: f64,
    statements: f64,
    transactions: f64,
    wal_bytes: f64,
}

pub async fn nodes(bench: &mut Bench) -> Result<()> {
    let database = Database::start(&bench.options.data)?;
    for (how, connections, batch) in POSTED {
        let mut turns: [Vec<Turn>; SETUPS.len()] = Default::default();
        // In turn, so that whatever else the machine does meets all of them.
        for _ in 0..bench.scale.rounds {
            let most = bench.options.nodes;
            let setups = SETUPS.iter().zip(&mut turns).filter(|((nodes, _), _)| *nodes <= most);
            for ((nodes, name), turns) in setups {
                bench.progress.step(&format!("{name}, events {how}"));
                let turn = match nodes {
                    0 => embedded(bench, connections, batch).await?,
                    nodes => on_postgres(bench, &database, *nodes, connections, batch).await?,
                };
                turns.push(turn);
            }
        }
        rows(bench, how, &turns);
    }
    bench.table.note(format!(
        "Nodes: {PROJECTS} projects with a destination each, nodes, database, load and sink on the same processors; \
         everything is delivered before the next turn."
    ));
    Ok(())
}

fn rows(bench: &mut Bench, how: &str, turns: &[Vec<Turn>; SETUPS.len()]) {
    type Value = fn(&Turn) -> Option<f64>;
    let values: [(&str, Value); 9] = [
        ("accepted/s", |it| Some(it.accepted_per_second)),
        ("delivered/s", |it| Some(it.delivered_per_second)),
        ("ack p99 in ms", |it| Some(it.ack_p99)),
        ("processor µs of gateways for an event", |it| Some(it.gateway_cpu)),
        ("processor µs of the database for an event", |it| Some(it.database.as_ref()?.cpu)),
        ("SQL statements for an event", |it| Some(it.database.as_ref()?.statements)),
        ("transactions for an event", |it| Some(it.database.as_ref()?.transactions)),
        ("WAL bytes for an event", |it| Some(it.database.as_ref()?.wal_bytes)),
        ("disk bytes for an event", |it| Some(it.disk)),
    ];
    let names = SETUPS.map(|(_, name)| name);
    let rows = values.map(|(what, value)| {
        let columns = turns.iter().map(|turns| turns.iter().filter_map(value).collect()).collect();
        (what, columns)
    });
    bench.table.setups(&format!("events {how}"), &names, &rows);
}

async fn embedded(bench: &mut Bench, connections: usize, batch: u64) -> Result<Turn> {
    let (first, rest) = files(bench);
    let tidegate = bench.tidegate(&first)?;
    let servers = vec![tidegate.start().await?];
    apply(&servers, &rest).await?;
    warm_up(bench, &servers, connections, batch).await?;
    let before = tidegate.disk()?;
    let (mut turn, events) = measure(bench, &servers, connections, batch).await?;
    bench.table.memory(servers[0].memory());
    for server in servers {
        server.stop().await?;
    }
    turn.disk = tidegate.disk()?.saturating_sub(before) as f64 / events;
    Ok(turn)
}

async fn on_postgres(
    bench: &mut Bench,
    database: &Database,
    nodes: usize,
    connections: usize,
    batch: u64,
) -> Result<Turn> {
    /// Statistics reach the others a second late.
    const STATISTICS: Duration = Duration::from_millis(1500);
    const NAME: &str = "bench";
    let url = database.create(NAME)?;
    let (first, rest) = files(bench);
    let tidegates = (0..nodes).map(|node| Ok(bench.tidegate(&first)?.of_many(node, &url)));
    let tidegates = tidegates.collect::<Result<Vec<_>>>()?;
    let mut servers = Vec::new();
    for tidegate in &tidegates {
        servers.push(tidegate.start().await?);
    }
    apply(&servers, &rest).await?;
    shared_out(&servers).await?;
    warm_up(bench, &servers, connections, batch).await?;
    tokio::time::sleep(STATISTICS).await;
    let before = database.done(NAME)?;
    let (mut turn, events) = measure(bench, &servers, connections, batch).await?;
    let cpu = database.done(NAME)?.cpu;
    tokio::time::sleep(STATISTICS).await;
    let done = Done { cpu, ..database.done(NAME)? }.since(before);
    if bench.options.statements {
        eprintln!("{nodes} nodes, batches of {batch}:\n{}\n", database.statements(NAME)?);
    }
    for server in servers {
        bench.table.memory(server.memory());
        server.stop().await?;
    }
    database.remove(NAME)?;
    turn.disk = done.disk_bytes / events;
    turn.database = Some(Each {
        cpu: done.cpu.as_secs_f64() * 1e6 / events,
        statements: done.statements / events,
        transactions: done.transactions / events,
        wal_bytes: done.wal_bytes / events,
    });
    Ok(turn)
}

/// The resources that a node is started with, and those of the other projects.
fn files(bench: &Bench) -> (String, Vec<String>) {
    let url = bench.sink.url("ok");
    // As many requests under way as in the other parts, over all projects.
    let concurrency = (bench.options.concurrency * 2).div_ceil(PROJECTS as usize);
    let of = |project: &u64| {
        let name = crate::load::project("bench", *project, PROJECTS);
        resources::to_all(std::slice::from_ref(&url), concurrency)
            .replace("project: bench\n", &format!("project: {name}\n"))
    };
    (of(&0), (1..PROJECTS).map(|it| of(&it)).collect())
}

/// Makes the projects, and waits until every node knows them.
async fn apply(servers: &[Server], files: &[String]) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(20);
    let first = servers.first().ok_or("there is no node")?.address;
    for file in files {
        let path = "/api/v1/apply";
        let answer = call_with(first, Method::POST, path, "application/yaml", file.clone()).await?;
        if answer.0 != StatusCode::OK {
            return Err(format!("not applied: {}", String::from_utf8_lossy(&answer.1)).into());
        }
    }
    for server in servers {
        let begun = std::time::Instant::now();
        while projects(server).await? < PROJECTS as usize {
            if begun.elapsed() > PATIENCE {
                return Err("a node does not get to know the projects".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// How many projects a node knows.
async fn projects(server: &Server) -> Result<usize> {
    let path = "/api/v1/projects?limit=100";
    let (_, body) = call(server.address, Method::GET, path).await?;
    let list: serde_json::Value = serde_json::from_slice(&body)?;
    Ok(list["data"].as_array().map_or(0, Vec::len))
}

async fn warm_up(bench: &Bench, servers: &[Server], connections: usize, batch: u64) -> Result<()> {
    bench.sink.reset().await?;
    let report = post(servers, connections, batch, Duration::from_secs(1)).await?;
    bench.sink.wait_for(report.accepted).await?;
    bench.sink.reset().await
}

/// Returns how many events it was, too.
async fn measure(
    bench: &Bench,
    servers: &[Server],
    connections: usize,
    batch: u64,
) -> Result<(Turn, f64)> {
    let cpu = || servers.iter().map(Server::cpu).sum::<Duration>();
    let before = cpu();
    let report = post(servers, connections, batch, bench.scale.load).await?;
    let stats = bench.sink.wait_for(report.accepted).await?;
    let cpu = cpu().saturating_sub(before);
    let seconds = stats.last_ns.saturating_sub(report.start_ns) as f64 / 1e9;
    let events = report.accepted as f64;
    let turn = Turn {
        accepted_per_second: report.accepted_per_second,
        delivered_per_second: stats.count as f64 / seconds,
        ack_p99: report.ack.p99,
        gateway_cpu: cpu.as_secs_f64() * 1e6 / events,
        database: None,
        disk: 0.0,
    };
    Ok((turn, events))
}

/// A load generator for each node, all at once, with their part of the connections.
async fn post(
    servers: &[Server],
    connections: usize,
    batch: u64,
    time: Duration,
) -> Result<Report> {
    let mut running = tokio::task::JoinSet::new();
    for server in servers {
        let connections = connections.div_ceil(servers.len());
        let options = Arc::new(Options {
            batch,
            projects: PROJECTS,
            ..closed(server.address, connections, time)
        });
        running.spawn(async move { load(&options).await });
    }
    let mut all: Option<Report> = None;
    while let Some(report) = running.join_next().await {
        let report = report??;
        all = Some(match all {
            None => report,
            Some(all) => Report {
                sent: all.sent + report.sent,
                accepted: all.accepted + report.accepted,
                accepted_per_second: all.accepted_per_second + report.accepted_per_second,
                errors: all.errors + report.errors,
                start_ns: all.start_ns.min(report.start_ns),
                end_ns: all.end_ns.max(report.end_ns),
                // Of the slower one: a sender does not choose its node.
                ack: if all.ack.p99 > report.ack.p99 { all.ack } else { report.ack },
                statuses: all.statuses,
            },
        });
    }
    all.ok_or_else(|| "there is no node".into())
}

/// Waits until each node has its part of the work, and nothing moves any more.
async fn shared_out(servers: &[Server]) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let begun = std::time::Instant::now();
    let first = servers.first().ok_or("there is no node")?;
    loop {
        let (_, body) = call(first.address, Method::GET, "/api/v1/cluster").await?;
        let cluster: serde_json::Value = serde_json::from_slice(&body)?;
        let nodes = cluster["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        let held = |duty: &str| -> Vec<usize> {
            nodes.iter().map(|it| it["shares"][duty].as_array().map_or(0, Vec::len)).collect()
        };
        let is_even = |duty: &str| {
            let held = held(duty);
            let (least, most) = (held.iter().min(), held.iter().max());
            least.zip(most).is_some_and(|(least, most)| *least > 0 && most - least <= 1)
        };
        let is_complete = nodes.len() == servers.len() && cluster["unheld"] == 0;
        if is_complete && is_even("pipeline") && is_even("dispatch") {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("the work is not shared out: {cluster}").into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
