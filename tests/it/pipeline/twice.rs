//! Planning is a function: an event that is planned again, by pipelines that are compiled again, gets
//! the same deliveries with the same copies, whatever the pipelines do.

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate::{
    model::{Plan, PlannedDelivery},
    pipeline::{self, Compiled},
};

use super::{
    catalog,
    shapes::{event, planned},
    tools,
};

/// What a step may be; `NUMBER` is another one in each place.
const STEPS: [&str; 14] = [
    "filter.match: payload.n > 3",
    "filter.match: payload.missing != 1",
    "filter.match: '(payload.text|length) < payload.n'",
    "map: { n: \"{{ payload.n }}\", text: \"{{ payload.text }}\", no: \"{{ payload.no }}\", id: \"{{ id }}\" }",
    "redact.pii: { fields: [payload.text], mode: hash }",
    "redact.pii: { detect: all, mode: mask }",
    "redact.pii: { fields: [\"payload.*\", metadata.ip], mode: drop }",
    "enrich.person: { email: payload.email, into: pNUMBER }",
    "enrich.entity: { table: users, key: payload.n, into: eNUMBER, payload: false }",
    "enrich.person: { email: payload.email, into: qNUMBER, on_error: dead_letter }",
    "transform.js: \"export default (e) => ({ ...e, payload: { ...e.payload, at: Date.now(), luck: Math.random() } })\"",
    "transform.js: \"export default (e) => [e, { type: 'made.up', payload: { n: 9, luck: Math.random() } }, e].slice(0, e.payload.n)\"",
    "transform.js: \"export default (e, c) => e.payload.n > 5 ? null : { payload: [c.part, Object.keys(e.payload)] }\"",
    "transform.js: \"export default (e) => e.payload.no.where\"",
];

const CONDITIONS: [&str; 4] =
    ["payload.n >= 2", "type == 'user.signed_up'", "payload.no in [1]", "payload.n + 1 > 2"];

fn steps() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(STEPS.to_vec()), 0..4)
}

fn condition() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::weighted(0.3, prop::sample::select(CONDITIONS.to_vec()))
}

type Route = (bool, Option<&'static str>, Vec<&'static str>);

fn routes() -> impl Strategy<Value = Vec<Route>> {
    prop::collection::vec((any::<bool>(), condition(), steps()), 1..4)
}

fn payload() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["[a-z]{0,6}", Just("write to ann@acme.com".to_owned())];
    (0..9_i64, text, any::<bool>()).prop_map(|(n, text, has_email)| match has_email {
        true => json!({"n": n, "text": text, "email": "ann@acme.com"}),
        false => json!({"n": n, "text": text}),
    })
}

/// Steps as they stand in the file. No two of a pipeline find something out under one name.
fn listed(steps: &[&str], number: &mut u32) -> String {
    let step = |it: &&str| {
        *number += 1;
        format!("{{ {} }}", it.replace("NUMBER", &number.to_string()))
    };
    format!("[ {} ]", steps.iter().map(step).collect::<Vec<_>>().join(", "))
}

fn file(when: Option<&str>, steps: &[&str], routes: &[Route]) -> String {
    let number = &mut 0;
    let mut file = "version: 1\nproject: acme\nsources: [{ name: app, kind: api }]\n\
        lookups: [{ name: users, kind: table }]\ndestinations:\n  \
        - { name: crm, kind: webhook, url: \"https://crm.acme.com/\", ordering: { key: payload.n } }\n  \
        - { name: all, kind: webhook, url: \"https://all.acme.com/\" }\npipelines:\n  - name: main\n"
        .to_owned();
    if let Some(when) = when {
        let _ = writeln!(file, "    when: {when}");
    }
    let _ = writeln!(file, "    steps: {}\n    routes:", listed(steps, number));
    for (is_crm, when, steps) in routes {
        let to = if *is_crm { "crm" } else { "all" };
        let _ = writeln!(file, "      - to: {to}\n        steps: {}", listed(steps, number));
        if let Some(when) = when {
            let _ = writeln!(file, "        when: {when}");
        }
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn an_event_that_is_planned_again_gets_the_same_deliveries(
        when in condition(), steps in steps(), routes in routes(), payload in payload(),
    ) {
        let catalog = catalog(&file(when, &steps, &routes));
        let event = event(&catalog, payload);
        // It is planned twice in there already, by what is compiled once.
        let (first, _) = planned(&catalog, &event);
        // Also after a restart, and after a change that has nothing to do with it.
        let before = Compiled::of(&catalog, &Compiled::default(), &tools());
        let again = pipeline::plan(&event, &Compiled::of(&catalog, &before, &tools()));
        let told = |plan: &Plan| -> Vec<_> {
            let one = |it: &PlannedDelivery| (it.destination, it.place, it.copy.clone(), it.dead.clone());
            plan.deliveries.iter().map(one).collect()
        };
        prop_assert_eq!(told(&first), told(&again));
        prop_assert_eq!(first.skipped, again.skipped);
    }
}
