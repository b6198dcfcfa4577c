//! What would change, for people and for programs. Secrets are `…`.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::{
    DestinationSpec, EventTypeSpec, LookupSpec, PipelineSpec, ProjectSpec, SourceSpec, Spec,
};
use crate::{
    destinations::{
        kind::{self, Kind},
        kinds::{self, KINDS},
    },
    model::Destination,
    pipeline::dry::CaseResult,
};

/// Everything that a file would change. It prints as a diff with `+`, `~` and `-`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Difference {
    pub changes: Vec<ResourceChange>,
    /// Resources of the file that are as it says already.
    pub unchanged: usize,
    /// Resources that the file does not name, and that stay all the same.
    pub left_alone: usize,
    /// Test cases of changed pipelines that would fail, or do by now. The change is made only when that
    /// is confirmed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub failing_tests: Vec<CaseResult>,
    /// What will not work, although the file is valid.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ResourceChange {
    pub action: Action,
    /// `project`, `source`, `lookup`, `destination`, `pipeline` or `event_type`.
    pub kind: &'static str,
    pub name: String,
    pub fields: Vec<FieldChange>,
    /// Of a destination that is deleted: the deliveries that are still owed to it, and are cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub cancels: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Create,
    Update,
    Delete,
}

#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct FieldChange {
    /// `routes[0].when`
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub after: Option<Value>,
}

/// A kind of resource that a diff can show.
pub(super) trait Shown: Spec + Serialize {
    const KIND: &'static str;

    fn name_of(model: &Self::Model) -> String;

    /// What is shown of a new resource.
    fn brief(self) -> Self {
        self
    }

    /// Secrets that are others now. They look the same from outside.
    fn changed_secrets(_: &Self::Model, _: &Self::Model) -> Vec<String> {
        Vec::new()
    }
}

impl Shown for ProjectSpec {
    const KIND: &'static str = "project";

    fn name_of(model: &Self::Model) -> String {
        model.name.to_string()
    }
}

impl Shown for SourceSpec {
    const KIND: &'static str = "source";

    fn name_of(model: &Self::Model) -> String {
        model.name.to_string()
    }
}

impl Shown for PipelineSpec {
    const KIND: &'static str = "pipeline";

    fn name_of(model: &Self::Model) -> String {
        model.name.to_string()
    }
}

impl Shown for LookupSpec {
    const KIND: &'static str = "lookup";

    fn name_of(model: &Self::Model) -> String {
        model.name.to_string()
    }

    fn changed_secrets(old: &Self::Model, new: &Self::Model) -> Vec<String> {
        LookupSpec::changed_secrets(old, new)
    }
}

impl Shown for EventTypeSpec {
    const KIND: &'static str = "event_type";

    fn name_of(model: &Self::Model) -> String {
        model.name.to_string()
    }
}

impl Shown for DestinationSpec {
    const KIND: &'static str = "destination";

    fn name_of(model: &Self::Model) -> String {
        model.name.to_string()
    }

    fn brief(self) -> Self {
        Self::brief(self)
    }

    fn changed_secrets(old: &Destination, new: &Destination) -> Vec<String> {
        match kinds::named(new.connection.kind()) {
            Some(kind) => kind.changed_secrets(&old.connection, &new.connection),
            None => Vec::new(),
        }
    }
}

impl Difference {
    /// Notes what becomes of a resource.
    pub(super) fn note<S: Shown>(&mut self, old: Option<&S::Model>, new: Option<&S::Model>)
    where
        S::Model: PartialEq,
    {
        let (action, model) = match (old, new) {
            (None, None) => return,
            (Some(old), Some(new)) if old == new => {
                self.unchanged += 1;
                return;
            }
            (Some(_), Some(new)) => (Action::Update, new),
            (None, Some(new)) => (Action::Create, new),
            (Some(old), None) => (Action::Delete, old),
        };
        let mut fields = Vec::new();
        if action != Action::Delete {
            let shape = |it: Option<&S::Model>| {
                let shape = S::of(it?);
                let shape = if old.is_some() { shape } else { shape.brief() };
                serde_json::to_value(shape).ok()
            };
            compare("", shape(old).as_ref(), shape(new).as_ref(), &mut fields);
        }
        // The name stands in the title.
        fields.retain(|it| it.path != "name");
        mask(&mut fields);
        if let (Some(old), Some(new)) = (old, new) {
            let secret = || Some(Value::from("…"));
            fields.extend(S::changed_secrets(old, new).into_iter().map(|path| FieldChange {
                path,
                before: secret(),
                after: secret(),
            }));
        }
        let name = S::name_of(model);
        self.changes.push(ResourceChange { action, kind: S::KIND, name, fields, cancels: None });
    }

    fn count(&self, action: Action) -> usize {
        self.changes.iter().filter(|it| it.action == action).count()
    }
}

/// What differs, leaf by leaf.
pub(super) fn compare(
    path: &str,
    old: Option<&Value>,
    new: Option<&Value>,
    fields: &mut Vec<FieldChange>,
) {
    if old == new || is_nothing(old) && is_nothing(new) {
        return;
    }
    let maps = [old, new].map(|it| it.and_then(Value::as_object));
    let lists = [old, new].map(|it| it.and_then(Value::as_array));
    // Where one of them is not there at all, the other is shown part by part, too.
    let fits = |old_fits: bool, new_fits: bool| {
        old_fits && (new_fits || is_nothing(new)) || new_fits && is_nothing(old)
    };
    if fits(maps[0].is_some(), maps[1].is_some()) {
        let mut keys: Vec<&String> = Vec::new();
        for (key, _) in maps.iter().flatten().flat_map(|it| it.iter()) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let [old, new] = maps.map(|it| it.and_then(|it| it.get(key)));
            compare(&path, old, new, fields);
        }
    } else if fits(lists[0].is_some(), lists[1].is_some()) {
        let length = lists.iter().flatten().map(|it| it.len()).max().unwrap_or_default();
        for place in 0..length {
            let [old, new] = lists.map(|it| it.and_then(|it| it.get(place)));
            compare(&format!("{path}[{place}]"), old, new, fields);
        }
    } else {
        let leaf = |it: Option<&Value>| it.filter(|it| !it.is_null()).cloned();
        fields.push(FieldChange { path: path.to_owned(), before: leaf(old), after: leaf(new) });
    }
}

fn is_nothing(value: Option<&Value>) -> bool {
    value.is_none_or(|it| match it {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    })
}

/// Secrets are shown as `…`, and not as the placeholders that stand for them elsewhere.
fn mask(fields: &mut [FieldChange]) {
    for field in fields {
        let is_secret = |it: &&dyn Kind| kind::is_secret(it.about().secrets, &field.path);
        if KINDS.iter().any(is_secret) || field.path.starts_with("secrets.") {
            for value in [&mut field.before, &mut field.after].into_iter().flatten() {
                *value = Value::from("…");
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            let sign = match change.action {
                Action::Create => '+',
                Action::Update => '~',
                Action::Delete => '-',
            };
            writeln!(f, "{sign} {} {}", change.kind.replace('_', " "), change.name)?;
            for FieldChange { path, before, after } in &change.fields {
                match (before, after) {
                    (Some(before), Some(after)) => writeln!(f, "    ~ {path}: {before} → {after}")?,
                    (None, Some(after)) => writeln!(f, "    + {path}: {after}")?,
                    (Some(before), None) => writeln!(f, "    - {path}: {before}")?,
                    (None, None) => (),
                }
            }
        }
        if self.changes.is_empty() {
            return writeln!(f, "nothing to change: {} as the file says", self.unchanged);
        }
        let [create, update, delete] =
            [Action::Create, Action::Update, Action::Delete].map(|it| self.count(it));
        let unchanged = self.unchanged;
        writeln!(
            f,
            "{create} to create, {update} to change, {delete} to delete, {unchanged} unchanged"
        )
    }
}
