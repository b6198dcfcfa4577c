//! The two pipelines of the Ingestlayer documents beside the same gateway without a step.
//!
//! Every event takes the whole way: each address and each user is in the directory, no filter stops
//! anything. What is measured is what a pipeline costs, not how much it leaves out.

use std::{fmt::Write as _, time::Duration};

use http::Method;

use super::{
    Bench,
    process::{Server, call_with, closed, load},
    resources,
    table::Target,
};
use crate::{Result, event, load::Options};

/// How events are posted: over how many connections, and how many in a request.
const POSTED: [(&str, usize, u64); 2] =
    [("64 connections", 64, 1), ("16 connections, batches of 100", 16, 100)];

/// Of the throughput without a step, at least.
const TARGET: Target = Target::AtLeast(0.6);

/// How many measured turns there are, for the progress line.
pub const TURNS: u32 = (POSTED.len() * PIPELINES.len()) as u32;

/// Those of the documents "Track user signups in Webhook" and "Track feature usage in Webhook".
const PIPELINES: [(&str, &str); 3] = [
    ("no step", "routes: [ { to: endpoint-0 } ]"),
    (
        "enrich.person + redact.pii",
        "steps: [ { enrich.person: { email: payload.user.email, into: person } } ], \
         routes: [ { to: endpoint-0, steps: [ { redact.pii: \
         { fields: [payload.user.email, metadata.ip], mode: mask } } ] } ]",
    ),
    (
        "filter.match + enrich.entity",
        "steps: [ { filter.match: 'payload.feature in [\"export\", \"api\", \"webhook\"]' }, \
         { enrich.entity: { table: users, key: payload.user.id, into: user, \
         follow: [account, account.plan, account.owner] } } ], routes: [ { to: endpoint-0 } ]",
    ),
];

/// Tables with what they refer to, for `enrich.entity`.
const LOOKUPS: &str = "lookups:\n  - { name: users, kind: table, references: { account: accounts } }\n  \
     - { name: accounts, kind: table, references: { plan: plans, owner: users } }\n  \
     - { name: plans, kind: table }\n";

/// What one turn came to.
struct Turn {
    delivered_per_second: f64,
    /// Processor time in microseconds for each delivery.
    cpu: f64,
}

pub async fn pipelines(bench: &mut Bench) -> Result<()> {
    for (how, connections, batch) in POSTED {
        let mut turns: [Vec<Turn>; PIPELINES.len()] = Default::default();
        // In turn, so that whatever else the machine does meets all of them.
        for _ in 0..bench.scale.rounds {
            for ((name, pipeline), turns) in PIPELINES.iter().zip(&mut turns) {
                bench.progress.step(&format!("{name}, {how}"));
                turns.push(turn(bench, pipeline, connections, batch).await?);
            }
        }
        let column = |turns: &[Turn], value: fn(&Turn) -> f64| -> Vec<f64> {
            turns.iter().map(value).collect()
        };
        let base = column(&turns[0], |it| it.delivered_per_second);
        for ((name, _), turns) in PIPELINES.iter().zip(&turns) {
            let delivered = column(turns, |it| it.delivered_per_second);
            let base = (*name != PIPELINES[0].0).then_some(&base[..]);
            let what = format!("delivered/s, {name}, {how}");
            bench.table.beside(&what, base, &delivered, TARGET);
            let what = format!("processor µs for an event, {name}, {how}");
            bench.table.beside(&what, None, &column(turns, |it| it.cpu), TARGET);
        }
    }
    let (people, accounts) = (event::PEOPLE, ACCOUNTS);
    bench.table.note(format!(
        "Pipelines: the directory has {people} people, as many users, and {accounts} accounts; the ratio is that to no step."
    ));
    Ok(())
}

async fn turn(bench: &mut Bench, pipeline: &str, connections: usize, batch: u64) -> Result<Turn> {
    let url = bench.sink.url("ok");
    let mut resources = resources::one_with(&url, bench.options.concurrency, pipeline);
    resources.push_str(LOOKUPS);
    let tidegate = bench.tidegate(&resources)?;
    let server = tidegate.start().await?;
    fill(&server).await?;
    let closed = |time: Duration| Options { batch, ..closed(server.address, connections, time) };
    bench.sink.reset().await?;
    let warm_up = load(&closed(Duration::from_secs(1))).await?;
    bench.sink.wait_for(warm_up.accepted).await?;

    bench.sink.reset().await?;
    let before = server.cpu();
    let report = load(&closed(bench.scale.load)).await?;
    let stats = bench.sink.wait_for(report.accepted).await?;
    let cpu = server.cpu().saturating_sub(before);
    bench.table.memory(server.memory());
    server.stop().await?;
    let seconds = stats.last_ns.saturating_sub(report.start_ns) as f64 / 1e9;
    Ok(Turn {
        delivered_per_second: stats.count as f64 / seconds,
        cpu: cpu.as_secs_f64() * 1e6 / stats.count as f64,
    })
}

const ACCOUNTS: u64 = 1000;

/// Gives the directory everyone whom an event may name.
async fn fill(server: &Server) -> Result<()> {
    let (mut people, mut users, mut accounts) = (String::new(), String::new(), String::new());
    for person in 0..event::PEOPLE {
        let (email, id) = (event::email(person), event::user(person));
        let _ = writeln!(
            people,
            r#"{{"email":"{email}","name":"Person {person}","role":"CTO","country":"DE"}}"#
        );
        let account = person % ACCOUNTS;
        let _ = writeln!(users, r#"{{"id":"{id}","email":"{email}","account":"a{account}"}}"#);
    }
    for account in 0..ACCOUNTS {
        let owner = event::user(account);
        let _ = writeln!(
            accounts,
            r#"{{"id":"a{account}","name":"Account {account}","plan":"scale","owner":"{owner}"}}"#
        );
    }
    let companies = r#"{"domain":"example.com","name":"Example Inc.","employees":250}"#.to_owned();
    let plans = r#"{"id":"scale","seats":50,"price":499}"#.to_owned();
    let tables = [
        ("people", people),
        ("companies", companies),
        ("users", users),
        ("accounts", accounts),
        ("plans", plans),
    ];
    for (table, rows) in tables {
        let path = format!("/api/v1/directory/{table}/import");
        let (status, answer) =
            call_with(server.address, Method::POST, &path, "application/x-ndjson", rows).await?;
        let text = String::from_utf8_lossy(&answer);
        if !status.is_success() || !text.contains("\"refused\":0") {
            return Err(format!("{table} was not taken: {status} {text}").into());
        }
    }
    Ok(())
}
