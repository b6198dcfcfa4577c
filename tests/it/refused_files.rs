//! What is said of a file of resources that is wrong: where, which rule, and what was found.

use crate::apply::{Bench, FILE};

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "a table, a case after the other")]
async fn every_error_names_file_line_column_and_field() {
    let bench = Bench::new().await;
    let cases: &[(&str, &str, &str)] = &[
        ("project: acme", "project: Acme", "acme.yaml:2:10: project: a name is 1 to 64"),
        ("project: acme\n", "", "acme.yaml:1:1: project: is required, found nothing"),
        ("kind: api }", "kind: apu }", "acme.yaml:4:24: sources[0].kind: must be one of `api`"),
        (
            "kind: api }",
            "kind: api, x: 1 }",
            "acme.yaml:4:32: sources[0].x: is not a field here: there are",
        ),
        (
            "https://api.acme.com/hooks",
            "ftp://a",
            "acme.yaml:8:10: destinations[0].url: an endpoint's scheme",
        ),
        (
            "    url: https://api.acme.com/hooks\n",
            "",
            "acme.yaml:6:5: destinations[0].url: is required, found nothing",
        ),
        (
            "https://api.acme.com/hooks",
            "17",
            "acme.yaml:8:10: destinations[0].url: must be a string, found a number",
        ),
        (
            "${HOOK_SECRET}",
            "${NO_SUCH}",
            "acme.yaml:9:13: destinations[0].secret: must have the environment variable `NO_SUCH`",
        ),
        (
            "${HOOK_SECRET}",
            "${no such}",
            "acme.yaml:9:13: destinations[0].secret: must name a variable as `${NAME}`",
        ),
        ("${HOOK_SECRET}", "hunter2", "acme.yaml:9:13: destinations[0].secret: "),
        ("X-Plan:", "webhook-id:", "acme.yaml:10:28: destinations[0].headers.webhook-id: "),
        ("1h] }", "9d] }", "acme.yaml:11:30: destinations[0].retry.waits[2]: must be at most 7d"),
        ("1h] }", "soon] }", "acme.yaml:11:30: destinations[0].retry.waits[2]: must be"),
        (
            "waits:",
            "waitz:",
            "acme.yaml:11:12: destinations[0].retry: must be one of `preset`, `waits`, `exponential` (did you mean `waits`?)",
        ),
        (
            "    retry:",
            "    retri:",
            "acme.yaml:11:12: destinations[0].retri: is not a field here (did you mean `retry`?)",
        ),
        (
            "version: 1",
            "version: 1.0",
            "acme.yaml:1:10: version: must be 1, the one version of the format that there is, found a number",
        ),
        ("version: 1", "version: 2", "acme.yaml:1:10: version: must be 1, the one version"),
        (
            "destinations:",
            "project: other\ndestinations:",
            "acme.yaml:5:1: must have the key `project` once, found it twice",
        ),
        (
            "sources:\n  - { name: app, kind: api }",
            "sources: app",
            "acme.yaml:3:10: sources: must be a list, found a string",
        ),
        (
            "payload.user_id }",
            "payload.user_id + }",
            "acme.yaml:12:22: destinations[0].ordering.key: must have a value at line 1, column 18",
        ),
        (
            "name: audit",
            "name: crm-webhook",
            "acme.yaml:13:11: destinations[1].name: must be a name that stands once",
        ),
        (
            "signed: false",
            "signed: maybe",
            "acme.yaml:17:13: destinations[1].signed: must be true or false, found a string",
        ),
        (
            "\"order.*\"]",
            "\"order*\"]",
            "acme.yaml:21:28: pipelines[0].on[1]: must be an event type",
        ),
        (
            "sources: [app]",
            "sources: [web]",
            "acme.yaml:22:15: pipelines[0].sources[0]: must be the name of a source",
        ),
        (
            "plan != \"internal\"",
            "plan = 1",
            "acme.yaml:23:11: pipelines[0].when: must have `==` to compare at line 1, column 14",
        ),
        (
            "filter.match:",
            "filter.matches:",
            "acme.yaml:25:9: pipelines[0].steps[0]: must be a step: there are `filter.match`, `map`",
        ),
        (
            "{{ payload.email }}",
            "{{ payload.email",
            "acme.yaml:28:34: pipelines[0].routes[0].steps[0].map.email: must have `}}`",
        ),
        (
            "- to: audit",
            "- to: nowhere",
            "acme.yaml:29:13: pipelines[0].routes[1].to: must be the name of a destination",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(FILE.contains(from), "{from}");
        let refusal = bench.refusal(&FILE.replace(from, to)).await;
        let first = refusal.lines().next().unwrap_or_default();
        assert!(first.starts_with(expected), "{from} → {to}:\n{refusal}\nnot\n{expected}");
        assert!(!refusal.contains("hunter2") && !refusal.contains("whsec_M"), "{refusal}");
    }
    let refusal = bench.refusal("version: 1\n  project: [").await;
    assert!(refusal.starts_with("acme.yaml:2:"), "{refusal}");
    let whole = "must be a map that begins with `version: 1` and `project: NAME`, found";
    for (text, found) in
        [("", "nothing"), ("# nothing yet\n", "nothing"), ("- a\n", "a list"), ("a", "a string")]
    {
        let refusal = bench.refusal(text).await;
        assert!(refusal.ends_with(&format!("{whole} {found}")), "{text:?}: {refusal}");
    }
    let refusal = bench.refusal("version: 1\n---\nproject: acme\n").await;
    assert!(refusal.contains("must be one document"), "{refusal}");
}
