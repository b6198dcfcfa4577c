//! `redact.pii`: takes personal data out of what the steps and destinations behind it see.

use std::sync::{Arc, OnceLock};

use serde::Deserialize as _;
use serde_json::Value;

use super::{
    field::{field_of, with_field},
    invalid::{Invalid, kind_of},
    step::{Next, Step},
};
use crate::{
    expr::{EvalError, Facts, Mask, Names},
    model::{ProjectId, RawJson, Redaction},
    pipeline::Tools,
    redact::Redactor,
};

pub(super) struct Redact {
    redactor: Arc<Redactor>,
}

impl Redact {
    pub const KIND: &str = "redact.pii";

    pub fn build(
        settings: &Value,
        _: &Names<'_>,
        project: ProjectId,
        tools: &Tools,
    ) -> Result<Box<dyn Step>, Invalid> {
        let redaction = read(settings)?;
        let pseudonym = Some(tools.pseudonyms.of_project(project));
        let redactor = Redactor::new(&redaction, pseudonym).map_err(|error| {
            let dot = if error.path.is_empty() { "" } else { "." };
            Invalid::new(&format!("{}{dot}{}", Self::KIND, error.path), error.rule, error.found)
        })?;
        Ok(Box::new(Self { redactor: Arc::new(redactor) }))
    }
}

/// The settings, with errors that name a field and repeat no value.
fn read(settings: &Value) -> Result<Redaction, Invalid> {
    let Value::Object(fields) = settings else {
        let rule = "must be an object with `fields`, `detect` and `mode`";
        return Err(Invalid::new(Redact::KIND, rule, kind_of(settings)));
    };
    for (name, value) in fields {
        let rule = match name.as_str() {
            "fields" => "must be a list of fields such as `payload.email`",
            "detect" => "must be `all`, or a list of email, ip, phone, card, iban, ssn",
            "mode" => "must be `drop`, `mask`, `hash` or `truncate`",
            _ => {
                let rule = "must have no fields but `fields`, `detect` and `mode`";
                return Err(Invalid::new(Redact::KIND, rule, "another field"));
            }
        };
        let alone = Value::Object([(name.clone(), value.clone())].into_iter().collect());
        if Redaction::deserialize(&alone).is_err() {
            return Err(Invalid::new(&format!("{}.{name}", Redact::KIND), rule, kind_of(value)));
        }
    }
    Redaction::deserialize(settings).map_err(|_| {
        Invalid::new(Redact::KIND, "must be an object with `fields`, `detect` and `mode`", "a map")
    })
}

impl Step for Redact {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn apply(&self, facts: &Facts) -> Result<Next, EvalError> {
        let payload = self.redactor.payload(facts.payload());
        let metadata = self.redactor.metadata(facts.metadata());
        let mut next = facts.clone();
        let mut is_changed = payload.is_some() || metadata.is_some();
        if is_changed {
            next = next.with_mask(self.mask(facts));
        }
        if let Some(payload) = payload {
            next = next.with_payload(payload);
        }
        if let Some(metadata) = metadata {
            next = next.with_metadata(metadata);
        }
        let added: Vec<(String, RawJson)> =
            facts.results().map(|(name, it)| (name.to_owned(), it)).collect();
        for (name, result) in added {
            is_changed |= self.clear(&mut next, &name, &result);
        }
        Ok(if is_changed { Next::Changed(next) } else { Next::Same })
    }
}

impl Redact {
    /// Takes out of other JSON what this takes out of the event. What that is, is found out when there is
    /// such JSON.
    fn mask(&self, facts: &Facts) -> Mask {
        let (redactor, taken) = (self.redactor.clone(), OnceLock::new());
        let (payload, metadata) = (facts.payload().clone(), facts.metadata().clone());
        Arc::new(move |json| {
            taken.get_or_init(|| redactor.taken(&payload, &metadata)).hidden_in(json)
        })
    }

    /// Takes out of what a step before has added, for expressions and in the payload, what is detected there
    /// and what was taken out of the event. Whether that was anything.
    fn clear(&self, next: &mut Facts, name: &str, result: &RawJson) -> bool {
        let cleared = self.redactor.detected_in(result);
        let cleared = next.masked(cleared.as_ref().unwrap_or(result));
        let is_result = cleared != *result;
        if is_result {
            *next = next.with_result(name, &cleared);
        }
        let Some(added) = field_of(next.payload(), name) else { return is_result };
        let cleared = next.masked(&added);
        let is_field = cleared != added;
        if is_field {
            *next = next.with_payload(with_field(Some(next.payload()), name, &cleared));
        }
        is_result || is_field
    }
}
