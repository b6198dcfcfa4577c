//! What each step of a pipeline costs for one event: plans with the step, less plans without any.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tidegate::{
    catalog::{Catalog, Edit, Resource},
    crypto::{SeededRandom, Vault},
    model::{Event, EventId, EventSeq, RawJson, SourceId},
    pipeline::{self, Compiled, Tools},
    resources::{self, File, Means},
};

use crate::Result;

#[derive(clap::Args)]
pub struct Options {
    /// How long each step is measured, in milliseconds; five times, of which the median counts.
    #[arg(long, default_value_t = 200)]
    millis: u64,
}

/// 600 bytes with what detectors look twice at.
const PAYLOAD: &str = r#"{"user_id":"u_48213","email":"jane.doe@acme.com","plan":"scale","feature":"export","amount":129.50,"currency":"EUR","created_at":"2026-11-21T08:00:00.123456Z","ip":"203.0.113.7","session":"550e8400-e29b-41d4-a716-446655440000","items":[{"sku":"A-100","quantity":2,"price":49.75},{"sku":"B-200","quantity":1,"price":30.00}],"browser":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36","note":"The customer asked for an export of all of the projects of the last quarter, and for a copy of the invoice.","url":"https://app.acme.com/projects/77/exports?format=csv"}"#;

const STEPS: &[(&str, &str)] = &[
    ("none", "[]"),
    ("filter.match", r#"[ { filter.match: 'payload.feature in ["export", "api"]' } ]"#),
    (
        "map, four fields",
        r#"[ { map: { email: "{{ payload.email }}", plan: "{{ payload.plan }}", amount: "{{ payload.amount }}", user: { id: "{{ payload.user_id }}" } } } ]"#,
    ),
    (
        "redact.pii, two fields, mask",
        "[ { redact.pii: { fields: [payload.email, metadata.ip], mode: mask } } ]",
    ),
    ("redact.pii, detect all, mask", "[ { redact.pii: { detect: all, mode: mask } } ]"),
    ("redact.pii, detect all, hash", "[ { redact.pii: { detect: all, mode: hash } } ]"),
    ("transform.js, returns null", r#"[ { transform.js: "export default (e) => null" } ]"#),
    (
        "transform.js, sets a field",
        r#"[ { transform.js: "export default (e) => { e.payload.seen = true; return e }" } ]"#,
    ),
];

pub fn run(options: &Options) -> Result<()> {
    println!("| step | µs for an event | events/s on one core |\n|---|---|---|");
    let mut nothing = 0.0;
    for (name, steps) in STEPS {
        let mut rounds = (0..5)
            .map(|_| measure(steps, Duration::from_millis(options.millis)))
            .collect::<Result<Vec<f64>>>()?;
        rounds.sort_by(f64::total_cmp);
        let micros = rounds[rounds.len() / 2];
        if *name == "none" {
            nothing = micros;
        }
        let own = if *name == "none" { micros } else { (micros - nothing).max(0.001) };
        println!("| {name} | {own:.2} | {:.0} |", 1e6 / own);
    }
    Ok(())
}

/// Microseconds for one plan.
fn measure(steps: &str, time: Duration) -> Result<f64> {
    let vault = Vault::ephemeral(Arc::new(SeededRandom::new(1)));
    let catalog = catalog(steps, &vault)?;
    let compiled = Compiled::of(&catalog, &Compiled::default(), &Tools::new(&vault));
    let (project, source) = (catalog.projects.keys().next(), catalog.sources.keys().next());
    let event = Arc::new(Event {
        seq: EventSeq(1),
        id: EventId::new(Timestamp::UNIX_EPOCH, 1, 99),
        project: *project.ok_or("no project")?,
        source: source.copied().unwrap_or(SourceId::from_bits(0)),
        event_type: "user.signed_up".parse()?,
        timestamp: Timestamp::UNIX_EPOCH,
        received_at: Timestamp::UNIX_EPOCH,
        key: None,
        metadata: RawJson::parse(r#"{"source":"app","ip":"203.0.113.7","user_agent":"bench/1"}"#)?,
        payload: RawJson::parse(PAYLOAD)?,
    });
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < time {
        for _ in 0..100 {
            std::hint::black_box(pipeline::plan(&event, &compiled));
        }
        count += 100;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}

fn catalog(steps: &str, vault: &Vault) -> Result<Catalog> {
    let text = format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
         destinations: [{{ name: all, kind: webhook, url: \"https://all.acme.com/\" }}]\n\
         pipelines:\n  - name: main\n    steps: {steps}\n    routes: [{{ to: all }}]\n"
    );
    let (random, options) = (SeededRandom::new(2), resources::Options::default());
    let author = tidegate::model::Author::File;
    let means = Means { vault, random: &random, now: Timestamp::UNIX_EPOCH, author, options };
    let file = File::read("bench.yaml", &text, &|_| None)?;
    let mut catalog = Catalog::default();
    for edit in resources::plan(&file, &catalog, means, false)?.edits {
        let Edit::Put(resource) = edit else { continue };
        match resource {
            Resource::Project(it) => drop(catalog.projects.insert(it.id, Arc::new(it))),
            Resource::Source(it) => drop(catalog.sources.insert(it.id, Arc::new(it))),
            Resource::Destination(it) => drop(catalog.destinations.insert(it.id, Arc::new(it))),
            Resource::Pipeline(it) => drop(catalog.pipelines.insert(it.id, Arc::new(it))),
            Resource::EventType(_) | Resource::Key(_) | Resource::Lookup(_) => (),
            Resource::Replay(_) | Resource::Deletion(_) | Resource::PipelineVersion(_) => (),
        }
    }
    Ok(catalog)
}
