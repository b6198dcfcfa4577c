//! `tidegate event-types` and `tidegate codegen`: from what came to types in somebody's editor.

use serde_json::Value;

use super::{
    gateway::Serving,
    program::{stderr, stdout},
};

const RESOURCES: &str = "version: 1
project: acme
sources: [{ name: app, kind: api }]
event_types:
  - name: order.paid
    group: billing
    description: Money has come in.
    validate: reject
    schema: { type: object, required: [amount], properties: { amount: { type: number }, plan: { enum: [pro, free] } } }
";

fn serving() -> Serving {
    let serving = Serving::start();
    let file = serving.file("acme.yaml", RESOURCES);
    serving.output(&["apply", file.to_str().unwrap(), "--yes"]);
    for (name, payload) in [
        ("order.paid", r#"{"amount":1.5,"note":"x"}"#),
        ("team.grew", r#"{"seats":3,"by":{"email":"eve@a.example"}}"#),
        ("team.grew", r#"{"seats":4}"#),
    ] {
        serving.output(&["emit", name, "--data", payload]);
    }
    let refused = serving.run(&["emit", "order.paid", "--data", r#"{"amount":"1"}"#]);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    serving
}

#[test]
fn types_that_came_are_listed_shown_and_adopted() {
    let serving = serving();
    let list = serving.output(&["event-types", "list"]);
    let lines: Vec<Vec<&str>> = list.lines().map(|it| it.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 2, "{list}");
    assert_eq!(lines[0][..3], ["order.paid", "billing", "1"], "{list}");
    assert!(list.lines().next().unwrap().ends_with("rejects, 1 rejected"), "{list}");
    assert_eq!(lines[1][..2], ["team.grew", "2"], "{list}");
    assert!(list.trim_end().ends_with("not registered"), "{list}");
    let others = serving.rows(&["event-types", "list", "--unregistered", "--json"]);
    assert_eq!(others.len(), 1);
    assert_eq!(
        (&others[0]["name"], &others[0]["registered"]),
        (&"team.grew".into(), &false.into())
    );

    // Its fields, by what came, and never a value.
    let shown = serving.run(&["event-types", "show", "team.grew"]);
    let (text, notes) = (stdout(&shown), stderr(&shown));
    assert!(text.starts_with("team.grew  2 events  not registered\n"), "{text}");
    let row = |path: &str| -> Vec<String> {
        let line = text.lines().find(|it| it.starts_with(&format!("{path} "))).unwrap();
        line.split("  ").filter(|it| !it.is_empty()).map(|it| it.trim().to_owned()).collect()
    };
    assert_eq!(row("payload.seats"), ["payload.seats", "integer", "not in the schema", "100 %"]);
    assert_eq!(row("payload.by"), ["payload.by", "object", "not in the schema", "50 %"]);
    assert!(!text.contains("a.example"), "{text}");
    assert!(notes.contains("2 payloads looked into; no value of any is kept"), "{notes}");
    assert!(notes.contains("next: tidegate event-types adopt team.grew"), "{notes}");

    let described = serving.output(&["event-types", "show", "order.paid"]);
    assert!(described.contains("\nMoney has come in.\n"), "{described}");
    assert!(described.contains("\"pro\", \"free\""), "{described}");

    let words = ["event-types", "adopt", "team.grew", "--validate", "flag", "--group", "teams"];
    let adopted = serving.run(&[&words[..], &["--description", "More seats."]].concat());
    assert_eq!(stdout(&adopted), "team.grew is registered: flags\n", "{}", stderr(&adopted));
    assert!(stderr(&adopted).contains("next: tidegate event-types show team.grew"));
    assert!(serving.rows(&["event-types", "list", "--unregistered", "--json"]).is_empty());

    // From now on it counts: what is otherwise is kept, and marked.
    serving.output(&["emit", "team.grew", "--data", r#"{"seats":"many"}"#]);
    let whole = serving.output(&["event-types", "show", "team.grew", "--json"]);
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!((&whole["group"], &whole["traffic"]["flagged"]), (&"teams".into(), &1.into()));
    assert_eq!(whole["description"], "More seats.");
    assert_eq!(whole["schema"]["required"], serde_json::json!(["seats"]));
}

#[test]
fn types_that_cannot_be_adopted_say_why() {
    let serving = serving();
    for (words, code, expected) in [
        (&["adopt", "order.paid"][..], 1, "409"),
        (&["adopt", "nobody.knows"], 1, "404"),
        (&["adopt", "team.grew", "--validate", "maybe"], 2, "there are off, flag and reject"),
        (&["show", "nobody.knows"], 1, "404"),
    ] {
        let output = serving.run(&[&["event-types"], words].concat());
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{words:?}: {}", stderr(&output));
    }
    serving.output(&["event-types", "adopt", "order.paid", "--replace"]);
    let shown = serving.output(&["event-types", "show", "order.paid"]);
    assert!(shown.contains("payload.note") && !shown.contains("not in the schema"), "{shown}");
}

#[test]
fn a_type_that_is_adopted_is_in_the_generated_file() {
    let serving = serving();
    let before = serving.output(&["codegen", "typescript"]);
    assert!(before.contains("\"order.paid\": OrderPaid;"), "{before}");
    assert!(before.contains("\"pro\" | \"free\""), "{before}");
    assert!(!before.contains("team.grew"), "{before}");

    let file = serving.file("events.ts", "");
    let out = ["codegen", "typescript", "--out", file.to_str().unwrap()];
    let check = [&out[..], &["--check"]].concat();
    assert!(stderr(&serving.run(&out)).contains("has 1 event type"));
    serving.output(&check);
    serving.output(&["event-types", "adopt", "team.grew"]);
    let outdated = serving.run(&check);
    assert_eq!(outdated.status.code(), Some(1));
    assert!(stderr(&outdated).contains("is out of date\nnext: tidegate codegen"));
    serving.output(&out);
    serving.output(&check);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"team.grew\": TeamGrew;") && text.contains("seats: number;"), "{text}");
}
