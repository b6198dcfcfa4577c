//! `redact.pii`: takes personal data out of what the steps and destinations behind it see.

use serde::Deserialize as _;
use serde_json::Value;

use super::{
    Invalid, Tools,
    steps::{Next, Step, kind_of},
};
use crate::{
    expr::{EvalError, Facts, Names},
    model::{ProjectId, Redaction},
    redact::Redactor,
};

pub(super) struct Redact {
    redactor: Redactor,
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
        Ok(Box::new(Self { redactor }))
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
        Ok(match (payload, metadata) {
            (None, None) => Next::Same,
            (Some(payload), None) => Next::Changed(facts.with_payload(payload)),
            (None, Some(metadata)) => Next::Changed(facts.with_metadata(metadata)),
            (Some(payload), Some(metadata)) => {
                Next::Changed(facts.with_payload(payload).with_metadata(metadata))
            }
        })
    }
}
