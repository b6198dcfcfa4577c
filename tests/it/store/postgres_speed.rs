//! What an event costs on PostgreSQL. Not a test that can fail, but a measurement:
//! `cargo test --release --test it -- --ignored --nocapture what_an_event_costs`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tidegate::{
    model::Class,
    store::{
        Store as _,
        postgres::{Options, PostgresStore},
    },
};

use super::home::{attempt, ended, keyed, new_events, plan_for, postgres, postgres_with, projects};
use crate::harness::cluster::Cluster;

const EVENTS: usize = 60_000;
const BATCH: usize = 64;
const CALLERS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, which wants the machine for itself"]
async fn cost_of_an_event_on_a_database_with_fsync() {
    let cluster = Cluster::durable();
    let address = cluster.database();
    let options = Options { shards: 1, ..Options::default() };
    let (store, _accepts, _) = postgres_with(&address, options).await.unwrap();
    let name = address.to_string().rsplit('/').next().unwrap().to_owned();
    let number = |sql: &str| cluster.sql(&name, sql).parse::<f64>().unwrap();
    let wal = || number("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')");
    // Every transaction is a batch of statements of a known number, so those that count are these.
    let commits = || number("SELECT sum(xact_commit) FROM pg_stat_database");
    let (wal_before, commits_before) = (wal(), commits());

    let start = Instant::now();
    let callers = (0..CALLERS).map(|caller| tokio::spawn(append(store.clone(), caller)));
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let appended = start.elapsed();
    let (wal_appended, start) = (wal(), Instant::now());
    let (mut planning, mut settling) = (Duration::ZERO, Duration::ZERO);
    loop {
        let events = store.unplanned(tidegate::model::EventSeq(0), 1024).await.unwrap();
        if events.is_empty() {
            break;
        }
        let begin = Instant::now();
        let plans = events.iter().map(|it| plan_for(it, &[1])).collect();
        let owed = store.plan(plans).await.unwrap();
        planning += begin.elapsed();
        let begin = Instant::now();
        let ends = owed.iter().map(|it| attempt(it, Class::Accepted, ended())).collect();
        store.settle(ends).await.unwrap();
        settling += begin.elapsed();
    }
    let rest = start.elapsed();
    let per = |value: f64| value / EVENTS as f64;
    let rate = |time: Duration| EVENTS as f64 / time.as_secs_f64();
    eprintln!(
        "accepted/s {:.0}, planned/s {:.0}, settled/s {:.0}, one behind the other with reading/s {:.0}",
        rate(appended),
        rate(planning),
        rate(settling),
        rate(appended + rest)
    );
    eprintln!(
        "WAL bytes per event: {:.0} to accept, {:.0} with plan, delivery, attempt and end; \
         transactions per event {:.4}",
        per(wal_appended - wal_before),
        per(wal() - wal_before),
        per(commits() - commits_before)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, which wants the machine for itself"]
async fn how_long_it_takes_to_know_a_long_backlog() {
    let cluster = Cluster::durable();
    let address = cluster.database();
    let (store, _, _) = postgres(&address, 1).await.unwrap();
    let name = address.to_string().rsplit('/').next().unwrap().to_owned();
    let id = |number: &str| format!("lpad(to_hex({number}), 32, '0')::uuid");
    // A million in no order, half a million in 100,000 lanes, and a year of minutes
    let open = format!(
        "INSERT INTO open SELECT {}, (CASE WHEN n < 1000000 THEN 0 ELSE n % 100000 END) \
         # -9223372036854775808, n, n, n, NULL, {}, 0, 0 FROM generate_series(1, 1500000) n; \
         INSERT INTO minutes SELECT {}, m, 3, 1, 0, 0, 0, '{{0,0,0,0,0,0,0}}' \
         FROM generate_series(1, 525600) m; VACUUM open; VACUUM minutes",
        id("513 + n / 1000000"),
        id("257"),
        id("513 + m % 2")
    );
    for sql in open.split("; ") {
        cluster.sql(&name, sql);
    }
    for _ in 0..5 {
        let start = Instant::now();
        let backlog = store.backlog().await.unwrap();
        eprintln!("backlog in {:?}: {backlog:?}", start.elapsed());
    }
    let start = Instant::now();
    cluster.sql(&name, "SELECT destination, count(*), min(accepted_at) FROM open GROUP BY 1");
    eprintln!("counted one by one in {:?}", start.elapsed());
}

async fn append(store: Arc<PostgresStore>, caller: usize) {
    let payload = format!("{{\"text\":\"{}\"}}", "some words of a payload ".repeat(23));
    for batch in 0..EVENTS / BATCH / CALLERS {
        let new = |place| keyed(projects(1), &format!("{caller}-{batch}-{place}"), &payload);
        let events = (0..BATCH).map(new).collect();
        assert_eq!(new_events(&store.append(events).await.unwrap()).len(), BATCH);
    }
}
