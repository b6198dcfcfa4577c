//! What is done with events: trigger, steps, routes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{KeyId, Name, PipelineId, ProjectId, TestCase, TextError, TypeName};

/// A trigger (`on`, `sources`, `when`), steps, and routes. Every route whose condition holds gets
/// a delivery: that is the branch. Conditions and mappings are source text of the expression language, and
/// were compiled once before they were saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pipeline {
    pub id: PipelineId,
    pub project: ProjectId,
    pub name: Name,
    /// Grows by one with every change; deliveries say which version planned them.
    pub version: u32,
    pub enabled: bool,
    /// Types and groups of types. Empty means every type.
    #[serde(default)]
    pub on: Vec<Pattern>,
    /// Names of sources. Empty means any source.
    #[serde(default)]
    pub sources: Vec<Name>,
    #[serde(default)]
    pub when: Option<String>,
    #[serde(default)]
    pub steps: Vec<StepSpec>,
    pub routes: Vec<Route>,
    /// They run whenever the pipeline is changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<TestCase>,
    pub created_at: Timestamp,
    /// When this version was saved, and by whom. `None`: by a Tidegate that did not keep it.
    #[serde(default)]
    pub saved_at: Option<Timestamp>,
    #[serde(default)]
    pub saved_by: Option<Author>,
}

/// Who changed a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Author {
    Key(KeyId),
    /// The administrator's key from the environment.
    AdminKey,
    /// The file of resources that the gateway was started with.
    File,
}

/// One branch: where to, for which events, and what is done to this destination's copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The name of a destination.
    pub to: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepSpec>,
}

/// A step as it is written: `{ "filter.match": "payload.plan == 'pro'" }`, one key and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepSpec(pub serde_json::Map<String, Value>);

/// `user.signed_up` for one type, `user.*` for everything below `user.`, `*` for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pattern {
    All,
    /// Holds the prefix with its dot: `user.`.
    Group(String),
    Type(TypeName),
}

impl Pattern {
    pub fn matches(&self, event_type: &TypeName) -> bool {
        match self {
            Self::All => true,
            Self::Group(prefix) => event_type.as_str().starts_with(prefix.as_str()),
            Self::Type(it) => it == event_type,
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = TextError;

    fn try_from(text: String) -> Result<Self, TextError> {
        const RULE: TextError = TextError {
            rule: "must be an event type such as `user.signed_up`, a group such as `user.*`, or `*`",
        };
        match text.strip_suffix('*') {
            Some("") => Ok(Self::All),
            Some(prefix) if prefix.ends_with('.') && prefix.parse::<TypeName>().is_ok() => {
                Ok(Self::Group(prefix.to_owned()))
            }
            Some(_) => Err(RULE),
            None => text.parse().map(Self::Type).map_err(|_| RULE),
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        match pattern {
            Pattern::All => "*".to_owned(),
            Pattern::Group(prefix) => prefix + "*",
            Pattern::Type(it) => it.to_string(),
        }
    }
}
