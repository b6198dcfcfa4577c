//! What it costs on the way in to count sources and keys, and to learn what types of events look like:
//! `cargo bench -p tidegate-bench --bench counting`. Learning looks into the first hundred payloads of a type,
//! and then into every 256th, which is in the numbers of types that are known.

use std::{hint::black_box, sync::Arc, thread, time::Instant};

use criterion::{Criterion, Throughput};
use jiff::Timestamp;
use tidegate::{
    gate::Admitted,
    ingest::traffic::{Caller, Traffic},
    model::{Event, EventId, EventSeq, KeyId, ProjectId, RawJson, SourceId},
    schema::Learned,
    store::Appended,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Events of one turn.
const EVENTS: u64 = 256;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().sample_size(30).configure_from_args();
    let mut group = criterion.benchmark_group("counting");
    group.throughput(Throughput::Elements(EVENTS));
    for (name, types) in [("learn, one type", 1), ("learn, 100 types in turn", 100)] {
        let (learned, events) = (Learned::default(), events(types, 0)?);
        group.bench_function(name, |bencher| bencher.iter(|| see(&learned, &events)));
    }

    // Types without end, as somebody makes them who puts an id into the name.
    let (learned, others) = (Learned::default(), events(EVENTS, 1_000_000)?);
    for first in (0..1024).step_by(EVENTS as usize) {
        see(&learned, &events(EVENTS, first)?);
    }
    group.bench_function("learn, types beyond the bound", |bencher| {
        bencher.iter(|| see(&learned, &others));
    });

    // Two threads at once, each with as many.
    let (learned, both) = (Learned::default(), events(1, 0)?);
    group.bench_function("learn, one type by two threads", |bencher| {
        bencher.iter_custom(|turns| {
            let begun = Instant::now();
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| (0..turns.div_ceil(2)).for_each(|_| see(&learned, &both)));
                }
            });
            begun.elapsed()
        });
    });

    // Every payload is looked into: what a type costs while it is new.
    let fresh = events(1, 0)?;
    group.bench_function("learn, the first payloads of a type", |bencher| {
        bencher.iter(|| {
            for some in fresh.chunks(64) {
                see(&Learned::default(), some);
            }
        });
    });

    let admitted: Vec<_> =
        events(1, 0)?.into_iter().map(|it| Admitted::Accepted(Appended::New(it))).collect();
    let (traffic, source) = (Traffic::default(), SourceId::from_bits(1));
    let by = |number: u128| Caller::Key(Some(KeyId::from_bits(number)));
    (0..200).for_each(|it| traffic.taken(source, by(it), &admitted[..1], Timestamp::UNIX_EPOCH));
    for (name, at_once) in [("count, one event a request", 1), ("count, 64 events a request", 64)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for (number, some) in (0..200).cycle().zip(admitted.chunks(at_once)) {
                    traffic.taken(source, by(number), black_box(some), Timestamp::UNIX_EPOCH);
                }
            });
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

fn see(learned: &Learned, events: &[Arc<Event>]) {
    events.iter().for_each(|it| learned.see(black_box(it)));
}

/// Of so many types in turn, the first of which has this number.
fn events(types: u64, first: u64) -> Result<Vec<Arc<Event>>> {
    let event = |number: u64| -> Result<Arc<Event>> {
        Ok(Arc::new(Event {
            seq: EventSeq(number),
            id: EventId::new(Timestamp::UNIX_EPOCH, 1, number),
            project: ProjectId::from_bits(1),
            source: SourceId::from_bits(1),
            event_type: format!("user.did_{}", first + number % types).parse()?,
            timestamp: Timestamp::UNIX_EPOCH,
            received_at: Timestamp::UNIX_EPOCH,
            key: None,
            metadata: RawJson::parse(r#"{"source":"app","ip":"203.0.113.7"}"#)?,
            payload: RawJson::parse(PAYLOAD)?,
        }))
    };
    (0..EVENTS).map(event).collect()
}

/// 640 bytes, as in `steps.rs`.
const PAYLOAD: &str = r#"{"user_id":"u77","email":"user77@acme.com","plan":"scale","feature":"export","amount":129.50,"currency":"EUR","created_at":"2026-11-21T08:00:00.123456Z","ip":"203.0.113.7","session":"550e8400-e29b-41d4-a716-446655440000","items":[{"sku":"A-100","quantity":2,"price":49.75},{"sku":"B-200","quantity":1,"price":30.00}],"browser":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36","note":"The customer asked for an export of all of the projects of the last quarter, and for a copy of the invoice.","url":"https://app.acme.com/projects/77/exports?format=csv"}"#;
