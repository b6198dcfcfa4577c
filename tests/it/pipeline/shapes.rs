//! Steps that change what destinations see: redaction, and what it leaves of the event itself.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tidegate::{
    catalog::Catalog,
    model::{DeliverySeq, Event, EventId, EventSeq, Message, Plan, RawJson},
    pipeline::{self, Compiled},
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
    assert!(messages[2].copy.is_none());
    assert_eq!(event.payload.as_str(), r#"{"email":"jane@acme.com","n":1.5}"#);
}
