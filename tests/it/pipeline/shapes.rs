//! Steps that change what destinations see: redaction, and what it leaves of the event itself.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tidegate::{
    catalog::Catalog,
    crypto::{SeededRandom, Vault},
    model::{DeliverySeq, Event, EventId, EventSeq, Message, Plan, RawJson},
    pipeline::{self, Compiled},
    resources::{self, File, Means},
};

use super::{catalog, project_of, source_of, tools};

/// A catalogue with one pipeline, whose routes are these.
pub fn with_routes(steps: &str, routes: &str) -> Catalog {
    catalog(&format!(
        r#"
version: 1
project: acme
sources: [{{ name: app, kind: api }}]
destinations:
  - {{ name: crm, kind: webhook, url: "https://crm.acme.com/" }}
  - {{ name: all, kind: webhook, url: "https://all.acme.com/" }}
pipelines:
  - name: main
    steps: {steps}
    routes: {routes}
"#
    ))
}

pub fn event(catalog: &Catalog, payload: Value) -> Arc<Event> {
    Arc::new(Event {
        seq: EventSeq(1),
        id: EventId::new(Timestamp::UNIX_EPOCH, 1, 99),
        project: project_of(catalog),
        source: source_of(catalog, "app"),
        event_type: "user.signed_up".parse().unwrap(),
        timestamp: Timestamp::from_second(1_700_000_000).unwrap(),
        received_at: Timestamp::from_second(1_700_000_001).unwrap(),
        key: None,
        metadata: RawJson::of(&json!({"ip": "203.0.113.7"})),
        payload: RawJson::of(&payload),
    })
}

pub fn planned(catalog: &Catalog, event: &Arc<Event>) -> (Plan, Vec<Message>) {
    let compiled = Compiled::of(catalog, &Compiled::default(), &tools());
    let plan = pipeline::plan(event, &compiled);
    let again = pipeline::plan(event, &compiled);
    let messages = |plan: &Plan| -> Vec<Message> {
        let message = |(ordinal, it): (u16, &tidegate::model::PlannedDelivery)| Message {
            seq: DeliverySeq::new(event.seq, ordinal),
            event: event.clone(),
            copy: it.copy.clone(),
            fresh_id: false,
        };
        (0..).zip(&plan.deliveries).map(message).collect()
    };
    // Planning twice gives the same, whatever the steps are.
    let told = |plan: &Plan| -> Vec<String> {
        let one = |it: &Message| {
            format!("{} {:?} {:?}", it.message_id(), it.payload().as_str(), it.metadata().as_str())
        };
        messages(plan).iter().map(one).collect()
    };
    assert_eq!(told(&plan), told(&again));
    assert_eq!(plan.skipped, again.skipped);
    let messages = messages(&plan);
    (plan, messages)
}

#[test]
fn redaction_in_a_route_touches_that_destinations_copy_only() {
    let catalog = with_routes(
        "[]",
        r#"
      - to: crm
        steps: [ { redact.pii: { fields: [payload.email, metadata.ip], mode: mask } } ]
      - to: all
        steps: [ { redact.pii: { detect: all, mode: hash } } ]
      - to: all
"#,
    );
    let event = event(&catalog, json!({"email": "jane@acme.com", "n": 1.5}));

    let (_, messages) = planned(&catalog, &event);

    assert_eq!(messages[0].payload().as_str(), r#"{"email":"j***@acme.com","n":1.5}"#);
    assert_eq!(messages[0].metadata().as_str(), r#"{"ip":"203.0.*.*"}"#);
    assert!(messages[1].payload().as_str().starts_with(r#"{"email":"h_"#));
    assert_eq!(messages[2].payload(), &event.payload);
    // It differs from the other message to that destination, and so does its id.
    let ids = [&messages[1], &messages[2]].map(|it| it.message_id());
    assert_eq!(ids, [event.id.to_string(), format!("{}_2", event.id)]);
    assert_eq!(event.payload.as_str(), r#"{"email":"jane@acme.com","n":1.5}"#);
}

#[test]
fn a_transform_makes_messages_of_its_own_each_with_an_id_that_stays() {
    let catalog = with_routes(
        r#"
      - transform.js: |
          export default function (event, ctx) {
            return event.payload.items.map((item) => ({ ...event, type: "item.sold", payload: { item, from: ctx.source } }));
          }
      - filter.match: payload.item != "b"
"#,
        r#"
      - to: crm
      - to: all
        steps: [ { transform.js: "export default (e) => e.payload.item === 'c' ? null : e" } ]
"#,
    );
    let event = event(&catalog, json!({"items": ["a", "b", "c"]}));

    let (plan, messages) = planned(&catalog, &event);

    let told: Vec<String> = (messages.iter())
        .map(|it| format!("{} {} {}", it.message_id(), it.event_type(), it.payload().as_str()))
        .collect();
    let id = event.id;
    assert_eq!(
        told,
        [
            format!(r#"{id}_1 item.sold {{"item":"a","from":"app"}}"#),
            format!(r#"{id}_3 item.sold {{"item":"c","from":"app"}}"#),
            format!(r#"{id}_1 item.sold {{"item":"a","from":"app"}}"#),
        ]
    );
    let reasons: Vec<String> =
        plan.skipped.iter().map(|it| format!("{}: {}", it.by, it.reason)).collect();
    assert_eq!(
        reasons,
        [
            "filter.match: 1 of 3, the first: `payload.item != \"b\"` does not hold",
            "transform.js: 1 of 2, the first: the script returned null",
        ]
    );
}

#[test]
fn script_errors_name_the_line_and_stop_one_route() {
    let catalog = with_routes(
        "[]",
        r#"
      - to: crm
        steps:
          - transform.js:
              source: |
                export default function (event) {
                  return event.payload.no.more;
                }
              timeout: 20ms
      - to: all
        steps: [ { transform.js: "export default (e) => { for (;;); }" } ]
      - to: all
"#,
    );
    let event = event(&catalog, json!({"n": 1}));

    let (plan, messages) = planned(&catalog, &event);

    assert_eq!(messages.len(), 1);
    let reasons: Vec<&str> = plan.skipped.iter().map(|it| it.reason.as_str()).collect();
    assert!(
        reasons[0].contains("TypeError") && reasons[0].contains("at line 2, column"),
        "{reasons:?}"
    );
    assert_eq!(reasons[1], "could not be evaluated: it takes too long");
}

#[test]
fn a_part_that_comes_back_as_it_was_keeps_its_bytes() {
    let catalog = with_routes(
        r#"[ { transform.js: "export default (e) => ({ ...e, metadata: { ...e.metadata, seen: true } })" } ]"#,
        "[ { to: crm } ]",
    );
    let mut event = Arc::unwrap_or_clone(event(&catalog, json!({})));
    event.payload = RawJson::parse(r#"{"big":12345678901234567890, "n":1.50}"#).unwrap();

    let (_, messages) = planned(&catalog, &Arc::new(event));

    let copy = messages[0].copy.as_ref().unwrap();
    assert!(copy.payload.is_none());
    assert_eq!(messages[0].metadata().as_str(), r#"{"ip":"203.0.113.7","seen":true}"#);
}

/// Why a file is refused.
fn refused(text: &str) -> String {
    let vault = Vault::ephemeral(Arc::new(SeededRandom::new(1)));
    let (random, options) = (SeededRandom::new(2), resources::Options::default());
    let author = tidegate::model::Author::File;
    let means =
        Means { vault: &vault, random: &random, now: Timestamp::UNIX_EPOCH, author, options };
    let file = File::read("test.yaml", text, &|_| None)
        .and_then(|file| resources::plan(&file, &Catalog::default(), means, false));
    file.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn steps_that_cannot_work_are_refused_with_their_place() {
    for (step, path, rule) in [
        ("{ redact.pii: { mode: mask } }", "redact.pii", "must have `fields`, `detect`, or both"),
        ("{ redact.pii: { fields: [email] } }", "redact.pii.fields[0]", "must be a field such as"),
        ("{ redact.pii: { detect: [name] } }", "redact.pii.detect", "must be `all`, or a list"),
        ("{ redact.pii: { detect: all, mode: truncate } }", "redact.pii.detect", "must be `ip`"),
        (
            "{ transform.js: \"export default (e) => {\\n  return e +\\n}\" }",
            "transform.js",
            "must be a script that compiles at line 3, column",
        ),
        (
            "{ transform.js: { source: \"export default (e) => e\", timeout: 1h } }",
            "timeout",
            "`1s`",
        ),
    ] {
        let file = format!(
            "version: 1\nproject: acme\ndestinations: [{{ name: all, kind: webhook, url: \"https://all.acme.com/\" }}]\n\
             pipelines:\n  - name: main\n    routes: [{{ to: all }}]\n    steps: [ {step} ]\n"
        );
        let told = refused(&file);
        assert!(told.contains(path) && told.contains(rule), "{step}: {told}");
    }
    let source = "version: 1\nproject: acme\nsources: [{ name: app, kind: api, never_store: { detect: all, mode: hash } }]\n";
    assert!(refused(source).contains("never_store.mode: must be `drop` or `mask` here"));
}
