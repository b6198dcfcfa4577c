//! What each step of a pipeline costs for an event: `cargo bench -p tidegate-bench`.
//!
//! Events are planned as the loop does it, 32 at a time, by a pipeline with one step. What `none`
//! takes is in every number. Enrichers ask a directory of 10,000 rows in a store of its own; all of
//! the loop but reading hints and handing plans to the store is measured.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput};
use jiff::Timestamp;
use tidegate::{
    catalog::{Catalog, Edit, Resource},
    clock::SystemClock,
    crypto::{SeededRandom, Vault},
    destinations::egress::{self, Egress, SystemResolver},
    enrich::{self, Enrichment},
    hint,
    model::{Author, Event, EventId, EventSeq, Name, ProjectId, RawJson},
    pipeline::{self, Compiled, Tools},
    resources::{self, File, Means},
    store::{Directory, Entity, Upsert, sqlite},
};
use tokio::sync::watch;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Events that are planned together, as many as the loop plans between two breaths.
const EVENTS: u64 = 32;
/// People, each of whom is a user with an account.
const PEOPLE: u64 = 10_000;

/// The steps of a pipeline, and its routes where these are not one without steps.
const STEPS: [(&str, &str, &str); 20] = [
    ("none", "", ONE),
    ("filter.match, equal", "filter.match: payload.plan == 'scale'", ONE),
    (
        "filter.match, in",
        "filter.match: 'payload.feature in [\"export\", \"api\", \"webhook\"]'",
        ONE,
    ),
    (
        "filter.match, five tests",
        "filter.match: 'payload.plan != \"free\" and payload.amount > 100 and payload.items[0].sku is startingwith(\"A\") and \"@\" in payload.email and type == \"user.signed_up\"'",
        ONE,
    ),
    (
        "map, four fields",
        "map: { email: \"{{ payload.email }}\", plan: \"{{ payload.plan }}\", amount: \"{{ payload.amount }}\", user: { id: \"{{ payload.user_id }}\" } }",
        ONE,
    ),
    ("map, a text", "map: { text: \"{{ payload.email }} uses {{ payload.feature|title }}\" }", ONE),
    (
        "redact.pii, two fields, mask",
        "redact.pii: { fields: [payload.email, metadata.ip], mode: mask }",
        ONE,
    ),
    (
        "redact.pii, two fields, drop",
        "redact.pii: { fields: [payload.email, metadata.ip], mode: drop }",
        ONE,
    ),
    (
        "redact.pii, two fields, hash",
        "redact.pii: { fields: [payload.email, metadata.ip], mode: hash }",
        ONE,
    ),
    ("redact.pii, detect ip, truncate", "redact.pii: { detect: [ip], mode: truncate }", ONE),
    ("redact.pii, detect all, mask", "redact.pii: { detect: all, mode: mask }", ONE),
    ("redact.pii, detect all, hash", "redact.pii: { detect: all, mode: hash }", ONE),
    ("enrich.person", "enrich.person: { email: payload.email }", ONE),
    ("enrich.entity", "enrich.entity: { table: users, key: payload.user_id }", ONE),
    (
        "enrich.entity, three hops",
        "enrich.entity: { table: users, key: payload.user_id, follow: [account, account.plan, account.owner] }",
        ONE,
    ),
    ("transform.js, returns null", "transform.js: \"export default (e) => null\"", ONE),
    ("transform.js, returns the event", "transform.js: \"export default (e) => e\"", ONE),
    (
        "transform.js, sets a field",
        "transform.js: \"export default (e) => { e.payload.seen = true; return e }\"",
        ONE,
    ),
    (
        "transform.js, makes three events",
        "transform.js: \"export default (e) => [1, 2, 3].map((part) => ({ type: 'a.part', payload: { part } }))\"",
        ONE,
    ),
    (
        "ten routes, of which half match",
        "",
        "[ { to: all, when: payload.amount > 1 }, { to: all, when: payload.amount > 2 }, { to: all, when: payload.amount > 3 }, { to: all, when: payload.amount > 4 }, { to: all, when: payload.amount > 5 }, { to: all, when: payload.amount < 1 }, { to: all, when: payload.amount < 2 }, { to: all, when: payload.amount < 3 }, { to: all, when: payload.amount < 4 }, { to: all, when: payload.amount < 5 } ]",
    ),
];

const ONE: &str = "[ { to: all } ]";

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let mut group = criterion.benchmark_group("step");
    group.throughput(Throughput::Elements(EVENTS));
    for (name, step, routes) in STEPS {
        let world = World::new(&runtime, step, routes)?;
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                black_box(pipeline::plan_all(&world.events, &world.compiled, &world.enrichment))
            });
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// A project with one pipeline, and events for it.
struct World {
    events: Vec<Arc<Event>>,
    compiled: Compiled,
    enrichment: Enrichment,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(runtime: &tokio::runtime::Runtime, step: &str, routes: &str) -> Result<Self> {
        let vault = Arc::new(Vault::ephemeral(Arc::new(SeededRandom::new(1))));
        let catalog = Arc::new(catalog(step, routes, &vault)?);
        let compiled = Compiled::of(&catalog, &Compiled::default(), &Tools::new(&vault));
        let folder = tempfile::tempdir()?;
        let clock = Arc::new(SystemClock);
        let mut number = 0_u64;
        let random = Box::new(move || {
            number += 1;
            number
        });
        let (accepted, _events) = hint::channel(1);
        let options = sqlite::Options { reserve_bytes: 1 << 16, ..sqlite::Options::default() };
        let store =
            sqlite::SqliteStore::open(folder.path(), options, clock.clone(), random, accepted)?;
        let store = Arc::new(store);
        let project = *catalog.projects.keys().next().ok_or("no project")?;
        runtime.block_on(fill(store.as_ref(), project))?;
        let (enrichment, _) = Enrichment::new(enrich::Parts {
            database: store,
            catalog: watch::Sender::new(catalog.clone()).subscribe(),
            vault,
            egress: Egress::new(egress::Options::default(), Arc::new(SystemResolver::default()))?,
            clock,
            options: enrich::Options::default(),
        })?;
        let source = *catalog.sources.keys().next().ok_or("no source")?;
        let event = |number: u64| -> Result<Arc<Event>> {
            Ok(Arc::new(Event {
                seq: EventSeq(number),
                id: EventId::new(Timestamp::UNIX_EPOCH, 1, number),
                project,
                source,
                event_type: "user.signed_up".parse()?,
                timestamp: Timestamp::UNIX_EPOCH,
                received_at: Timestamp::UNIX_EPOCH,
                key: None,
                metadata: RawJson::parse(
                    r#"{"source":"app","ip":"203.0.113.7","user_agent":"bench/1"}"#,
                )?,
                payload: RawJson::parse(payload(number * 97 % PEOPLE))?,
            }))
        };
        let events = (1..=EVENTS).map(event).collect::<Result<_>>()?;
        Ok(Self { events, compiled, enrichment, _folder: folder })
    }
}

/// 640 bytes with what detectors look twice at.
fn payload(person: u64) -> String {
    format!(
        r#"{{"user_id":"u{person}","email":"user{person}@acme.com","plan":"scale","feature":"export","amount":129.50,"currency":"EUR","created_at":"2026-11-21T08:00:00.123456Z","ip":"203.0.113.7","session":"550e8400-e29b-41d4-a716-446655440000","items":[{{"sku":"A-100","quantity":2,"price":49.75}},{{"sku":"B-200","quantity":1,"price":30.00}}],"browser":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36","note":"The customer asked for an export of all of the projects of the last quarter, and for a copy of the invoice.","url":"https://app.acme.com/projects/77/exports?format=csv"}}"#
    )
}

async fn fill(store: &dyn Directory, project: ProjectId) -> Result<()> {
    let mut tables: Vec<(&str, Vec<(String, String)>)> = vec![
        (
            "companies",
            vec![("acme.com".to_owned(), r#"{"name":"Acme Inc.","employees":250}"#.to_owned())],
        ),
        ("plans", vec![("scale".to_owned(), r#"{"seats":50,"price":499}"#.to_owned())]),
    ];
    let people = (0..PEOPLE).map(|it| {
        (
            format!("user{it}@acme.com"),
            format!(r#"{{"name":"Person {it}","role":"CTO","country":"DE"}}"#),
        )
    });
    tables.push(("people", people.collect()));
    let users = (0..PEOPLE).map(|it| {
        (format!("u{it}"), format!(r#"{{"email":"user{it}@acme.com","account":"a{}"}}"#, it % 100))
    });
    tables.push(("users", users.collect()));
    let accounts = (0..100).map(|it| {
        (format!("a{it}"), format!(r#"{{"name":"Account {it}","plan":"scale","owner":"u{it}"}}"#))
    });
    tables.push(("accounts", accounts.collect()));
    for (table, rows) in tables {
        let table: Name = table.parse()?;
        let entity = |(key, fields): (String, String)| -> Result<Entity> {
            Ok(Entity { key, fields: RawJson::parse(fields)?, updated_at: Timestamp::UNIX_EPOCH })
        };
        let rows = rows.into_iter().map(entity).collect::<Result<Vec<_>>>()?;
        store.put_entities(project, &table, rows, Upsert::Replace).await?;
    }
    Ok(())
}

fn catalog(step: &str, routes: &str, vault: &Vault) -> Result<Catalog> {
    let steps = if step.is_empty() { String::new() } else { format!("{{ {step} }}") };
    let text = format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\nlookups:\n  \
         - {{ name: users, kind: table, references: {{ account: accounts }} }}\n  \
         - {{ name: accounts, kind: table, references: {{ plan: plans, owner: users }} }}\n  \
         - {{ name: plans, kind: table }}\n\
         destinations: [{{ name: all, kind: webhook, url: \"https://all.acme.com/\" }}]\n\
         pipelines:\n  - name: main\n    steps: [ {steps} ]\n    routes: {routes}\n"
    );
    let (random, options) = (SeededRandom::new(2), resources::Options::default());
    let means =
        Means { vault, random: &random, now: Timestamp::UNIX_EPOCH, author: Author::File, options };
    let file = File::read("bench.yaml", &text, &|_| None)?;
    let mut catalog = Catalog::default();
    for edit in resources::plan(&file, &catalog, means, false)?.edits {
        let Edit::Put(resource) = edit else { continue };
        match resource {
            Resource::Project(it) => drop(catalog.projects.insert(it.id, Arc::new(it))),
            Resource::Source(it) => drop(catalog.sources.insert(it.id, Arc::new(it))),
            Resource::Destination(it) => drop(catalog.destinations.insert(it.id, Arc::new(it))),
            Resource::Pipeline(it) => drop(catalog.pipelines.insert(it.id, Arc::new(it))),
            Resource::Lookup(it) => drop(catalog.lookups.insert(it.id, Arc::new(it))),
            Resource::EventType(_) | Resource::PipelineVersion(_) | Resource::Key(_) => (),
            Resource::Replay(_) | Resource::Deletion(_) => (),
        }
    }
    Ok(catalog)
}
