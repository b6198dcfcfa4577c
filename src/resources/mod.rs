//! Resources as people write them, in a file or through the API, and the way from there into the
//! catalogue and back.
//!
//! `spec` holds the shapes, `check` and `destination` turn them into the model or say what is wrong,
//! `show` turns the model back. `file` reads YAML, `plan` compares it with the catalogue, `export` writes it.

mod spec;
mod check;
mod destination;
mod policy;
mod limits;
mod lookup;
mod source;
mod show;
pub mod kinds;
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

use std::{cell::RefCell, collections::HashSet};

use jiff::Timestamp;

use crate::{
    catalog::Catalog,
    crypto::{Random, Vault},
    model::{Author, Id, IdSequence, Name, ProjectId},
    pipeline,
    settings::tree,
};

pub use crate::settings::{
    AuthSpec, BasicSpec, Invalid, SecretSpec, Setting, Span, invalid_yaml, read_json,
    tree::Location, words::did_you_mean,
};
pub use cases::{FailingTests, failing_tests};
pub use check::Spec;
pub use destination::DestinationSpec;
pub use diff::{Action, Difference, FieldChange, ResourceChange};
pub use export::export;
pub use file::{File, FileError, FileProblem};
pub use limits::{Full, Options, check as check_limits};
pub use lookup::{LookupKind, LookupSpec};
pub use plan::{ApplyError, FilePlan, apply, plan};
pub use policy::PolicySpec;
pub use source::{SourceSpec, VerifySpec};
pub use spec::{EventTypeSpec, PipelineSpec, ProjectSpec, RouteSpec};
pub use versions::{VersionDifference, compare_versions};

impl From<pipeline::Invalid> for Invalid {
    fn from(it: pipeline::Invalid) -> Self {
        Self { path: it.path, rule: it.rule, found: it.found }
    }
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
