//! What a file of resources would change, as people read it.

use serde::Deserialize;
use serde_json::Value;

use super::{
    cases::{self, Case},
    output::{Paint, clip, plural},
};

/// What the gateway would do, or did.
#[derive(Debug, Default, Deserialize)]
pub struct Plan {
    #[serde(default)]
    pub changes: Vec<DiffChange>,
    #[serde(default)]
    pub unchanged: u64,
    /// Test cases of pipelines that would fail.
    #[serde(default)]
    pub failing_tests: Vec<Case>,
    /// What will not work, although the file is valid.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Secrets that were made for new destinations.
    #[serde(default)]
    pub new_secrets: Vec<NewSecret>,
}

#[derive(Deserialize)]
pub struct NewSecret {
    pub destination: String,
    pub secret: String,
}

impl std::fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewSecret({}, …)", self.destination)
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct DiffChange {
    pub action: DiffAction,
    pub kind: String,
    pub name: String,
    #[serde(default)]
    pub fields: Vec<DiffField>,
    /// Deliveries that are cancelled with a destination.
    #[serde(default)]
    pub cancels: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiffAction {
    Create,
    Update,
    Delete,
}

#[derive(Clone, Debug, Deserialize)]
pub struct DiffField {
    pub path: String,
    #[serde(default)]
    pub before: Value,
    #[serde(default)]
    pub after: Value,
}

impl Plan {
    pub fn deletes(&self) -> usize {
        self.count(DiffAction::Delete)
    }

    fn count(&self, action: DiffAction) -> usize {
        self.changes.iter().filter(|it| it.action == action).count()
    }

    /// `2 to create, 1 to change, 0 to delete, 3 unchanged`, and how many deliveries that cancels.
    pub fn summary(&self) -> String {
        let counts = format!(
            "{} to create, {} to change, {} to delete, {} unchanged",
            self.count(DiffAction::Create),
            self.count(DiffAction::Update),
            self.deletes(),
            self.unchanged,
        );
        match self.cancels() {
            0 => counts,
            lost => format!("{counts}; cancels {}", plural(lost, "pending delivery")),
        }
    }

    fn cancels(&self) -> u64 {
        self.changes.iter().filter_map(|it| it.cancels).sum()
    }
}

pub fn render(plan: &Plan, paint: Paint) -> String {
    let mut text = String::new();
    for change in &plan.changes {
        let title = format!("{} {}", change.kind.replace('_', " "), change.name);
        text.push_str(&match change.action {
            DiffAction::Create => paint.green(format_args!("+ {title}")),
            DiffAction::Update => paint.yellow(format_args!("~ {title}")),
            DiffAction::Delete => paint.red(format_args!("- {title}")),
        });
        text.push('\n');
        if let Some(count) = change.cancels.filter(|it| *it > 0) {
            let lost = format!("    cancels {}", plural(count, "pending delivery"));
            text.push_str(&paint.red(lost));
            text.push('\n');
        }
        for field in &change.fields {
            text.push_str(&line(field, change.action, paint));
        }
    }
    text.push_str(&cases::cases(&plan.failing_tests, paint));
    text
}

fn line(field: &DiffField, action: DiffAction, paint: Paint) -> String {
    let path = &field.path;
    match action {
        DiffAction::Create => {
            format!("{}\n", paint.green(format_args!("    {path}: {}", shown(&field.after))))
        }
        DiffAction::Delete => String::new(),
        DiffAction::Update => match (field.before.is_null(), field.after.is_null()) {
            (true, _) => {
                format!("{}\n", paint.green(format_args!("  + {path}: {}", shown(&field.after))))
            }
            (false, true) => {
                format!("{}\n", paint.red(format_args!("  - {path}: {}", shown(&field.before))))
            }
            (false, false) => {
                format!(
                    "    {path}: {} → {}\n",
                    paint.red(shown(&field.before)),
                    paint.green(shown(&field.after))
                )
            }
        },
    }
}

fn shown(value: &Value) -> String {
    clip(&value.to_string(), 100)
}

/// What was done, in a sentence.
pub fn done(plan: &Plan) -> String {
    match plan.changes.len() as u64 {
        0 => "nothing to change: everything is as the file says".to_owned(),
        count => match plan.cancels() {
            0 => format!("applied: {}", plural(count, "change")),
            lost => format!(
                "applied: {}, which cancelled {}",
                plural(count, "change"),
                plural(lost, "pending delivery")
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan() -> Plan {
        serde_json::from_value(json!({
            "changes": [
                {"action": "create", "kind": "destination", "name": "crm", "fields": [
                    {"path": "url", "after": "https://api.acme.com/hooks"}]},
                {"action": "update", "kind": "pipeline", "name": "signups", "fields": [
                    {"path": "when", "before": "a == 1", "after": "a == 2"},
                    {"path": "on[1]", "after": "order.*"},
                    {"path": "routes[0].when", "before": "b"}]},
                {"action": "delete", "kind": "event_type", "name": "user.gone"},
                {"action": "delete", "kind": "destination", "name": "old", "cancels": 2},
            ],
            "unchanged": 3,
        }))
        .unwrap()
    }

    #[test]
    fn a_plan_reads_like_a_diff() {
        let expected = "\
+ destination crm
    url: \"https://api.acme.com/hooks\"
~ pipeline signups
    when: \"a == 1\" → \"a == 2\"
  + on[1]: \"order.*\"
  - routes[0].when: \"b\"
- event type user.gone
- destination old
    cancels 2 pending deliveries
";
        assert_eq!(render(&plan(), Paint::PLAIN), expected);
        let expected =
            "1 to create, 1 to change, 2 to delete, 3 unchanged; cancels 2 pending deliveries";
        assert_eq!(plan().summary(), expected);
    }

    #[test]
    fn colours_say_what_comes_and_what_goes() {
        let text = render(&plan(), Paint::COLOURED);
        for part in [
            "\x1b[32m+ destination crm",
            "\x1b[33m~ pipeline signups",
            "\x1b[31m- event type user.gone",
        ] {
            assert!(text.contains(part), "{text:?}");
        }
    }
}
