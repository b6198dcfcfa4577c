//! The `integrations` object of Segment's calls, with which an event says where it must not go.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use crate::model::RawJson;

/// What an event says about integrations. The default says nothing, and excludes none.
#[derive(Debug, Default)]
pub(super) struct Integrations(HashMap<String, Value>);

/// The name that stands for all integrations that are not named.
const ALL: [&str; 2] = ["All", "all"];

impl Integrations {
    /// Of a payload. An `integrations` that is no object says nothing.
    pub fn of(payload: &RawJson) -> Self {
        #[derive(Deserialize)]
        struct Call {
            #[serde(default)]
            integrations: Option<Value>,
        }

        // Nearly all events have none, and a search costs less than parsing.
        if !payload.as_str().contains(r#""integrations""#) {
            return Self::default();
        }
        match serde_json::from_slice::<Call>(payload.bytes()) {
            Ok(Call { integrations: Some(Value::Object(map)) }) => Self(map.into_iter().collect()),
            Ok(_) | Err(_) => Self::default(),
        }
    }

    /// Why an integration does not get the event; `None` when it does. What is said about the one
    /// counts more than what is said about all.
    pub fn exclude(&self, name: &str) -> Option<String> {
        match self.0.get(name) {
            Some(Value::Bool(false)) => Some(format!("`integrations` says `\"{name}\": false`")),
            // Settings of an integration mean that it is wanted.
            Some(Value::Bool(true) | Value::Object(_)) => None,
            Some(_) | None => {
                let all = ALL.iter().find(|it| self.0.get(**it) == Some(&Value::Bool(false)))?;
                Some(format!("`integrations` says `\"{all}\": false`, and nothing of `{name}`"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integration_is_excluded_by_its_name_or_with_all_others() {
        for (payload, is_excluded) in [
            (r#"{}"#, false),
            (r#"{"integrations":{}}"#, false),
            (r#"{"integrations":{"Webhooks":false}}"#, true),
            (r#"{"integrations":{"Webhooks":true,"All":false}}"#, false),
            (r#"{"integrations":{"Webhooks":{"a":1},"All":false}}"#, false),
            (r#"{"integrations":{"Webhooks":null,"All":false}}"#, true),
            (r#"{"integrations":{"All":false}}"#, true),
            (r#"{"integrations":{"all":false}}"#, true),
            (r#"{"integrations":{"All":true,"Webhooks":false}}"#, true),
            (r#"{"integrations":{"Mixpanel":false}}"#, false),
            (r#"{"integrations":false}"#, false),
            (r#"[{"integrations":{"All":false}}]"#, false),
            (r#"{"context":{"integrations":{"All":false}}}"#, false),
        ] {
            let found = Integrations::of(&RawJson::trusted(payload)).exclude("Webhooks");
            assert_eq!(found.is_some(), is_excluded, "{payload}: {found:?}");
        }
    }
}
