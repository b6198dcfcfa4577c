//! The settings of a step, read by name.

use std::time::Duration;

use serde_json::{Map, Value};

use super::invalid::{Invalid, kind_of};
use crate::expr::{Expression, Names};

/// The settings of a step, by name.
pub(super) struct StepSettings<'a> {
    kind: &'static str,
    fields: &'a Map<String, Value>,
}

impl<'a> StepSettings<'a> {
    pub fn of(kind: &'static str, settings: &'a Value, known: &[&[&str]]) -> Result<Self, Invalid> {
        let Value::Object(fields) = settings else {
            return Err(Invalid::new(kind, "must be a map", kind_of(settings)));
        };
        let known = || known.iter().copied().flatten();
        if let Some(name) = fields.keys().find(|it| !known().any(|own| own == it)) {
            let names: Vec<String> = known().map(|it| format!("`{it}`")).collect();
            let rule = format!("must be one of {}", names.join(", "));
            let name: String = name.chars().filter(|it| !it.is_control()).take(64).collect();
            return Err(Invalid::new(&format!("{kind}.{name}"), rule, "an unknown field"));
        }
        Ok(Self { kind, fields })
    }

    fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.kind)
    }

    pub fn wrong(&self, name: &str, rule: &str) -> Invalid {
        let found = self.fields.get(name).map_or("nothing", kind_of);
        Invalid::new(&self.path(name), rule, found)
    }

    pub fn missing(&self, name: &str) -> Invalid {
        self.wrong(name, "is required")
    }

    pub fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name)
    }

    pub fn text(&self, name: &str) -> Result<Option<&'a str>, Invalid> {
        match self.fields.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "must be a string")),
        }
    }

    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Invalid> {
        match self.fields.get(name) {
            None => Ok(default),
            Some(Value::Bool(it)) => Ok(*it),
            Some(_) => Err(self.wrong(name, "must be true or false")),
        }
    }

    pub fn duration(
        &self,
        name: &str,
        default: Duration,
        longest: Duration,
    ) -> Result<Duration, Invalid> {
        let rule = format!("must be a duration such as `5s`, above zero and at most {longest:?}");
        let Some(text) = self.text(name)? else { return Ok(default) };
        let parsed: Result<humantime_serde::Serde<Duration>, _> =
            serde_json::from_value(Value::String(text.to_owned()));
        let parsed = parsed.map(humantime_serde::Serde::into_inner);
        parsed
            .ok()
            .filter(|it| !it.is_zero() && *it <= longest)
            .ok_or_else(|| self.wrong(name, &rule))
    }

    pub fn expression(
        &self,
        name: &str,
        default: Option<&str>,
        names: &Names<'_>,
    ) -> Result<Expression, Invalid> {
        let source = self.text(name)?.or(default).ok_or_else(|| self.missing(name))?;
        Expression::compile_with(source, names)
            .map_err(|error| Invalid::expression(&self.path(name), &error))
    }

    pub fn list(&self, name: &str, rule: &str) -> Result<Option<Vec<&'a str>>, Invalid> {
        let Some(value) = self.fields.get(name) else { return Ok(None) };
        let texts = value.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
        texts.map(Some).ok_or_else(|| self.wrong(name, rule))
    }
}
