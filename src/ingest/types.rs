//! Event types that events are held to: their schemas, compiled once, and what they say of a payload.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    catalog::{Catalog, CatalogDerived},
    model::{EventType, IdMap, ProjectId, RawJson, TypeName, Validate},
    problem::{FieldError, Kind, Problem},
    schema::{Checked, Fault, Learned, MOST_STEPS, Schema, SchemaBudget},
};

/// Why an event is not kept, among the codes of rejections.
pub const CODE: &str = "schema";

/// All event types that events are held to, and what traffic shows of every type.
pub struct Types {
    held: CatalogDerived<HeldTypes>,
    pub learned: Learned,
}

/// Those of one catalogue. It lives until the catalogue changes.
struct HeldTypes {
    by_project: IdMap<ProjectId, HashMap<TypeName, Arc<HeldType>>>,
}

/// One type, with the resource that it was compiled from.
struct HeldType {
    of: Arc<EventType>,
    schema: Schema,
}

/// The types as one request sees them.
pub struct Judge {
    held: Arc<HeldTypes>,
    types: Arc<Types>,
    now: Timestamp,
}

/// How much the checks of one request may take.
pub struct Judging {
    budget: SchemaBudget,
    /// Bytes of payloads that may be read.
    bytes: usize,
    /// Whether what is beyond that is left for later, and has no verdict now.
    is_quick: bool,
}

/// What a schema says of a payload.
#[derive(Debug, PartialEq)]
pub enum SchemaVerdict {
    Fine,
    /// It is kept, and shows what is wrong with it.
    Flagged(Vec<Fault>),
    /// It is not kept.
    Rejected(Vec<Fault>),
}

impl Types {
    pub fn new(catalog: watch::Receiver<Arc<Catalog>>, learned: Learned) -> Self {
        Self { held: CatalogDerived::new(catalog, |it, before| HeldTypes::of(it, before)), learned }
    }

    pub fn judge(self: &Arc<Self>, now: Timestamp) -> Arc<Judge> {
        Arc::new(Judge { held: self.held.get(), types: self.clone(), now })
    }
}

impl HeldTypes {
    /// What `before` compiled is compiled once.
    fn of(catalog: &Catalog, before: Option<&Self>) -> Self {
        let mut by_project: IdMap<_, HashMap<_, _>> = IdMap::default();
        for of in catalog.event_types.values().filter(|it| !it.validate.is_off()) {
            let known = before.and_then(|it| it.by_project.get(&of.project)?.get(&of.name));
            let known = known.filter(|it| Arc::ptr_eq(&it.of, of)).cloned();
            let Some(held) = known.or_else(|| HeldType::of(of).map(Arc::new)) else { continue };
            by_project.entry(of.project).or_default().insert(of.name.clone(), held);
        }
        Self { by_project }
    }
}

impl HeldType {
    fn of(of: &Arc<EventType>) -> Option<Self> {
        let schema = Schema::compile(&of.schema.as_ref()?.to_value());
        // It was compiled before it was saved. A newer version of ours may think otherwise of it, and then
        // it is better to keep events that nobody looks at than to keep none.
        let schema = schema.inspect_err(|error| {
            tracing::error!(event_type = %of.name, %error, "a stored schema makes no sense; nothing is held to it");
        });
        Some(Self { of: of.clone(), schema: schema.ok()? })
    }
}

impl Judging {
    /// For one request, on a thread that serves connections: about a millisecond.
    pub fn quick() -> Self {
        Self { budget: SchemaBudget(50_000), bytes: 64 * 1024, is_quick: true }
    }

    /// For one request, on a thread of its own.
    pub fn whole() -> Self {
        Self { budget: SchemaBudget(MOST_STEPS), bytes: usize::MAX, is_quick: false }
    }

    /// The payload; `None` where it is too long to be read here.
    fn read(&mut self, payload: &RawJson) -> Option<serde_json::Result<serde_json::Value>> {
        self.bytes = self.bytes.checked_sub(payload.bytes().len())?;
        Some(serde_json::from_slice(payload.bytes()))
    }
}

impl Judge {
    /// What the schema of this type says, if there is one that counts. `payload` is as the sender sent it.
    /// `None`: to find out takes longer than there may be on this thread.
    pub fn verdict(
        &self,
        project: ProjectId,
        name: &TypeName,
        payload: &RawJson,
        judging: &mut Judging,
    ) -> Option<SchemaVerdict> {
        let types = self.held.by_project.get(&project);
        let Some(held) = types.and_then(|it| it.get(name)) else {
            return Some(SchemaVerdict::Fine);
        };
        let faults = match judging.read(payload)? {
            Ok(value) => match held.schema.check(&value, &mut judging.budget) {
                Checked::Faults(faults) => faults,
                Checked::TooLarge if judging.is_quick => return None,
                Checked::TooLarge => {
                    metrics::counter!("tidegate_schema_too_large_total").increment(1);
                    vec![Fault::too_large()]
                }
            },
            // JSON knows numbers that are too large, and half a pair of surrogates. No schema can say anything
            // about them, and so they are not as it says.
            Err(_) => {
                let rule = "must hold only numbers in range and well-formed Unicode strings";
                vec![Fault { path: String::new(), rule: rule.to_owned() }]
            }
        };
        if faults.is_empty() {
            return Some(SchemaVerdict::Fine);
        }
        let is_kept = held.of.validate != Validate::Reject;
        let outcome = if is_kept { "flagged" } else { "rejected" };
        metrics::counter!("tidegate_schema_faults_total", "outcome" => outcome).increment(1);
        self.types.learned.judged(project, name, is_kept, self.now);
        Some(if is_kept { SchemaVerdict::Flagged(faults) } else { SchemaVerdict::Rejected(faults) })
    }
}

/// The metadata with what is wrong with the payload, as `schema_errors`.
pub fn flagged(metadata: &RawJson, faults: &[Fault]) -> RawJson {
    let errors = faults.iter().map(|it| format!("payload{}: {}", it.path, it.rule));
    let errors = RawJson::of(&errors.collect::<Vec<_>>());
    // Metadata is an object of ours, with one field at least.
    let text = metadata.as_str().trim_end();
    let open = text.strip_suffix('}').unwrap_or(text);
    RawJson::trusted(format!(r#"{open},"schema_errors":{}}}"#, errors.as_str()))
}

/// The faults as errors of a request; `path` is where the event stands in it, and may be empty.
pub fn field_errors(path: &str, faults: &[Fault]) -> Vec<FieldError> {
    let dot = if path.is_empty() { "" } else { "." };
    let error = |it: &Fault| {
        let rule = format!("must match the schema of its type: {}", it.rule);
        FieldError::new(format!("{path}{dot}payload{}", it.path), rule, "something else")
    };
    faults.iter().map(error).collect()
}

/// For people who look at the source's list of rejections.
pub fn reason(name: &TypeName, faults: &[Fault]) -> String {
    let first = faults.first().map(|it| format!("payload{}: {}", it.path, it.rule));
    let more = match faults.len() {
        0 | 1 => String::new(),
        more => format!(" (and {} more)", more - 1),
    };
    format!("not as the schema of `{name}` says: {}{more}", first.unwrap_or_default())
}

pub fn problem(name: &TypeName, faults: &[Fault]) -> Problem {
    Problem::new(Kind::Rejected)
        .detail(format!("the payload is not as the schema of the event type `{name}` says"))
        .errors(field_errors("", faults))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_faults_are_appended_to_the_metadata() {
        let metadata = RawJson::trusted(r#"{"a":{"b":{}},"source":"app"}"#);
        let faults = [Fault { path: ".plan".into(), rule: "it is \"so\"".into() }];
        let flagged = flagged(&metadata, &faults).to_value();
        assert_eq!(flagged["schema_errors"][0], "payload.plan: it is \"so\"");
        assert_eq!(
            (&flagged["source"], &flagged["a"]["b"]),
            (&"app".into(), &serde_json::json!({}))
        );
    }
}
