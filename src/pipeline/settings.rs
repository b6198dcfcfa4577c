//! The settings of a step, read by name, and what steps add to a payload.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Invalid, steps::kind_of};
use crate::{
    expr::{Expression, Names},
    model::RawJson,
};

/// The settings of a step, by name.
pub(super) struct Fields<'a> {
    kind: &'static str,
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn of(kind: &'static str, settings: &'a Value, known: &[&[&str]]) -> Result<Self, Invalid> {
        let Value::Object(fields) = settings else {
            return Err(Invalid::new(kind, "must be a map", kind_of(settings)));
        };
        let known = || known.iter().copied().flatten();
        if let Some(name) = fields.keys().find(|it| !known().any(|own| own == it)) {
            let names: Vec<String> = known().map(|it| format!("`{it}`")).collect();
            let rule = format!("is not a field here: there are {}", names.join(", "));
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

/// An object with one more field, or with that field replaced. The rest stays byte for byte, unless
/// the field was there.
pub(super) fn with_field(object: Option<&RawJson>, name: &str, value: &RawJson) -> RawJson {
    let bytes = object.map_or(&b"{}"[..], |it| it.bytes().trim_ascii());
    let Some(inside) = bytes.strip_prefix(b"{").and_then(|it| it.strip_suffix(b"}")) else {
        return with_field(None, name, value);
    };
    let quoted = RawJson::of(name);
    let may_be_there = {
        let name = quoted.bytes();
        inside.windows(name.len()).any(|it| it == name) || inside.contains(&b'\\')
    };
    if may_be_there
        && let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(bytes)
        && fields.contains_key(name)
    {
        fields.insert(name.to_owned(), value.to_value());
        return RawJson::of(&fields);
    }
    let mut out = Vec::with_capacity(bytes.len() + name.len() + value.bytes().len() + 8);
    out.push(b'{');
    out.extend_from_slice(inside);
    if !inside.trim_ascii().is_empty() {
        out.push(b',');
    }
    out.extend_from_slice(quoted.bytes());
    out.push(b':');
    out.extend_from_slice(value.bytes());
    out.push(b'}');
    RawJson::trusted(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_added_to_an_object_which_else_stays_as_it_is() {
        for (object, expected) in [
            ("{}", r#"{"person":1}"#),
            (r#"{ "a": 1.50 }"#, r#"{ "a": 1.50 ,"person":1}"#),
            (r#"{"person":{"a":2},"b":1}"#, r#"{"person":1,"b":1}"#),
            (r#"{"p\u0065rson":2}"#, r#"{"person":1}"#),
            (r#"{"a":"person"}"#, r#"{"a":"person","person":1}"#),
            (r#"{"a":{"person":2}}"#, r#"{"a":{"person":2},"person":1}"#),
            ("[]", r#"{"person":1}"#),
        ] {
            let object = RawJson::trusted(object);
            let found = with_field(Some(&object), "person", &RawJson::of(&1));
            assert_eq!(found.as_str(), expected);
        }
    }
}
