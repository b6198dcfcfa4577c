//! What Tidegate must know of a kind of destination. `kinds` is the table of them; a kind is one folder.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use utoipa::{
    ToSchema,
    openapi::{RefOr, Schema},
};

use super::{DestinationClient, egress::Egress, secrets::Safe};
use crate::{
    crypto::Vault,
    model::{Connection, Destination, Name, Policy},
    settings::{Invalid, tree},
};

/// The own fields of one destination, without the common ones: name, kind and policy.
pub type OwnFields = Map<String, Value>;

/// What a person reads of a kind before they use it.
#[derive(Debug)]
pub struct KindAbout {
    /// The value of the field `kind`.
    pub word: &'static str,
    pub title: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// A destination of this kind in YAML, as one entry of the list `destinations`.
    pub example: &'static str,
    /// Where secrets stand in its fields: `auth.bearer`, `headers.*`. `*` is every key of a map. They are sealed
    /// when they are stored, and are never shown.
    pub secrets: &'static [&'static str],
}

/// The JSON Schema of a kind's own fields, and the schemas that it refers to as `#/components/schemas/NAME`.
pub struct FieldSchema {
    pub own: RefOr<Schema>,
    pub parts: Vec<(String, RefOr<Schema>)>,
}

impl FieldSchema {
    /// Of a type whose fields these are.
    pub fn of<T: ToSchema>() -> Self {
        let mut parts = Vec::new();
        T::schemas(&mut parts);
        Self { own: T::schema(), parts }
    }
}

/// Reads the fields as a type.
pub fn parse<T: DeserializeOwned>(fields: &OwnFields) -> Result<T, Invalid> {
    tree::TreeNode::from(Value::Object(fields.clone())).read()
}

/// The fields of a value. Secrets that are no placeholders become `…`.
pub fn written(value: &impl Serialize) -> OwnFields {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => OwnFields::new(),
    }
}

/// A kind of destination: how its fields are read, checked, kept and shown, and the client that they make.
///
/// All of it is pure but for the client that [`Self::build`] makes. Most kinds implement
/// [`Settings`](super::plain::Settings) and get this trait from it.
pub trait Kind: Send + Sync {
    fn about(&self) -> &'static KindAbout;

    fn schema(&self) -> FieldSchema;

    /// The policy of a destination that says nothing of it.
    fn usual_policy(&self, fields: &OwnFields) -> Policy;

    /// Whether the fields have the shape that they need. No field has another name than the schema says: that was
    /// looked at before.
    fn read(&self, fields: &OwnFields) -> Result<(), Invalid>;

    /// The connection, its secrets sealed, or everything that is wrong. `old` is what it replaces: a placeholder
    /// stands for the secret in it, unless the new one goes to another host.
    fn check(
        &self,
        fields: &OwnFields,
        policy: &Policy,
        safe: &Safe<'_>,
        old: Option<&Connection>,
    ) -> Result<Connection, Vec<Invalid>>;

    /// Every field, with placeholders for secrets. `name` is that of the destination.
    fn show(&self, connection: &Connection, name: &Name) -> OwnFields;

    /// Without the fields that would be the same if they were left out.
    fn brief(&self, fields: OwnFields) -> OwnFields;

    /// The secrets that both have and that differ, by their paths.
    fn changed_secrets(&self, old: &Connection, new: &Connection) -> Vec<String>;

    /// The client. `Err` says for people why there is none; nothing is sent.
    fn build(
        &self,
        destination: &Destination,
        vault: &Vault,
        egress: &Egress,
    ) -> Result<Arc<dyn DestinationClient>, String>;
}

/// Calls `act` with the path and the text of each secret in the fields.
pub fn each_secret(
    fields: &mut OwnFields,
    secrets: &[&str],
    act: &mut dyn FnMut(&[String], &mut String),
) {
    for pattern in secrets {
        let parts: Vec<&str> = pattern.split('.').collect();
        follow(fields, &parts, &mut Vec::new(), act);
    }
}

fn follow(
    fields: &mut OwnFields,
    parts: &[&str],
    path: &mut Vec<String>,
    act: &mut dyn FnMut(&[String], &mut String),
) {
    let Some((part, rest)) = parts.split_first() else { return };
    for (key, value) in fields.iter_mut().filter(|(key, _)| *part == "*" || key == part) {
        path.push(key.clone());
        match value {
            Value::String(text) if rest.is_empty() => act(path, text),
            Value::Object(inner) if !rest.is_empty() => follow(inner, rest, path, act),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_) => (),
        }
        path.pop();
    }
}

/// The text at a path, if there is one.
pub fn text_at<'a>(fields: &'a OwnFields, path: &[String]) -> Option<&'a str> {
    let (last, before) = path.split_last()?;
    let mut fields = fields;
    for key in before {
        fields = fields.get(key)?.as_object()?;
    }
    fields.get(last)?.as_str()
}

/// Whether the field at this path is a secret, such as `headers.x-api-key`.
pub fn is_secret(secrets: &[&str], path: &str) -> bool {
    secrets.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == *pattern,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_found_where_the_patterns_say() {
        let mut fields = json!({
            "auth": {"basic": {"username": "u", "password": "p"}},
            "headers": {"x-a": "1", "x.b": "2"},
            "url": "https://a.com/",
        });
        let fields = fields.as_object_mut().unwrap();
        let secrets = ["auth.bearer", "auth.basic.password", "headers.*"];
        let mut found = Vec::new();
        each_secret(fields, &secrets, &mut |path, text| {
            found.push((path.join("/"), std::mem::replace(text, "…".to_owned())));
        });
        let expected = [("auth/basic/password", "p"), ("headers/x-a", "1"), ("headers/x.b", "2")];
        assert_eq!(found, expected.map(|(path, text)| (path.to_owned(), text.to_owned())));
        assert_eq!(text_at(fields, &["headers".to_owned(), "x.b".to_owned()]), Some("…"));
        assert!(is_secret(&secrets, "headers.x-a") && is_secret(&secrets, "auth.bearer"));
        assert!(!is_secret(&secrets, "auth.basic.username") && !is_secret(&secrets, "header"));
    }
}
