//! Resources as people write them, in a file or through the API, and the way from there into the
//! catalogue and back.
//!
//! `spec` holds the shapes, `check` and `destination` turn them into the model or say what is wrong,
//! `show` turns the model back. `file` reads YAML, `plan` compares it with the catalogue, `export` writes it.

mod words;
mod tree;
mod setting;
mod spec;
mod check;
mod destination;
mod contract;
mod policy;
mod limits;
mod lookup;
mod secrets;
pub mod rotation;
mod source;
mod show;
pub mod profiles;
mod state;
mod cases;
mod lines;
mod versions;
mod file;
mod diff;
mod fan_out;
mod plan;
mod export;

use std::{cell::RefCell, collections::HashSet, fmt};

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    catalog::Catalog,
    crypto::{Random, Vault},
    model::{Author, Id, IdSequence, Name, ProjectId},
    pipeline,
};

pub use cases::{FailingTests, failing_tests};
pub use check::Spec;
pub use diff::{Action, Difference, FieldChange, ResourceChange};
pub use export::export;
pub use file::{File, FileError, FileProblem};
pub use limits::{Full, Options, check as check_limits};
pub use lookup::{LookupKind, LookupSpec};
pub use plan::{ApplyError, FilePlan, apply, plan};
pub use setting::{Setting, Span};
pub use source::{SourceSpec, VerifySpec};
pub use spec::{
    AuthSpec, BasicSpec, DestinationKind, DestinationSpec, EventTypeSpec, PipelineSpec,
    ProjectSpec, RouteSpec, SecretSpec, SignatureSpec,
};
pub use tree::Location;
pub use versions::{VersionDifference, compare_versions};
pub use words::did_you_mean;

/// What is wrong with a resource, without the value itself: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Invalid {
    /// The field: `destinations[0].retry.waits[2]`. Empty: the whole document.
    pub path: String,
    /// What must be so.
    pub rule: String,
    /// The kind of what stands there: `a string`, `nothing`.
    pub found: String,
}

impl Invalid {
    pub fn new(path: impl Into<String>, rule: impl Into<String>, found: impl Into<String>) -> Self {
        Self { path: path.into(), rule: rule.into(), found: found.into() }
    }

    /// The same inside of `parent`.
    pub fn within(mut self, parent: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{parent}{dot}{}", self.path);
        self
    }
}

impl From<pipeline::Invalid> for Invalid {
    fn from(it: pipeline::Invalid) -> Self {
        Self { path: it.path, rule: it.rule, found: it.found }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}, found {}", self.rule, self.found)
    }
}

/// What is wrong with a text that is no YAML, without its place.
pub fn invalid_yaml(error: &serde_saphyr::Error) -> Invalid {
    let (rule, found) = words::yaml(error);
    Invalid::new("", rule, found)
}

/// Reads the body of an API request into one of the shapes. The path of an error names the field.
pub fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Invalid> {
    tree::from_json(body)?.read()
}

/// What a check needs besides the resources that are there.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    pub vault: &'a Vault,
    pub random: &'a dyn Random,
    pub now: Timestamp,
    /// Who changes it.
    pub author: Author,
    pub options: Options,
}

/// What a check looks at: the resources that are there, in whose project, and when.
pub struct Scope<'a> {
    pub catalog: &'a Catalog,
    pub project: ProjectId,
    pub means: Means<'a>,
    ids: RefCell<IdSequence>,
    refused: Option<&'a HashSet<(&'static str, String)>>,
}

impl<'a> Scope<'a> {
    pub fn new(catalog: &'a Catalog, project: ProjectId, means: Means<'a>) -> Self {
        let ids = RefCell::new(IdSequence::default());
        Self { catalog, project, means, ids, refused: None }
    }

    /// A scope whose ids come behind those of another, so that resources sort as they were written.
    fn continuing(
        catalog: &'a Catalog,
        project: ProjectId,
        means: Means<'a>,
        ids: IdSequence,
        refused: &'a HashSet<(&'static str, String)>,
    ) -> Self {
        Self { catalog, project, means, ids: RefCell::new(ids), refused: Some(refused) }
    }

    /// Whether a resource of this kind and name stands in the same file, and is wrong itself: then
    /// that is what has to be said, and not that it is missing.
    fn is_refused(&self, kind: &'static str, name: &Name) -> bool {
        self.refused.is_some_and(|it| it.contains(&(kind, name.to_string())))
    }

    fn into_ids(self) -> IdSequence {
        self.ids.into_inner()
    }

    /// An id for a new resource.
    pub fn id<K>(&self) -> Id<K> {
        self.ids.borrow_mut().next(self.means.now, self.means.random.u64())
    }
}
