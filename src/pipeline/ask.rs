//! What a step asks of the world outside, and what comes back.

use std::{future::Future, pin::Pin, sync::Arc};

use crate::{
    catalog::Catalog,
    model::{Event, Name, ProjectId, RawJson},
};

/// What is asked. The same question may have another answer tomorrow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    Person(Person),
    Entity(Entity),
}

/// Who is behind an e-mail address, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Person {
    /// In lower case.
    pub email: String,
    /// For the country, where nothing better is known.
    pub ip: Option<String>,
    /// The look-ups to ask, in order, behind the project's own directory. `None`: all there are.
    pub from: Option<Vec<Name>>,
    /// Whether the answer has the key of the directory's row, too.
    pub with_key: bool,
}

/// A row of a table, and what it refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entity {
    pub table: Name,
    pub key: String,
    /// Fields to follow, from the row on: `["account", "plan"]`. Each behind its beginning.
    pub follow: Vec<Vec<String>>,
    /// Whether each row of the answer has its key, too.
    pub with_key: bool,
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub struct LookupAnswer {
    pub status: LookupStatus,
    /// What is known, as an object.
    pub fields: Option<RawJson>,
    /// Who knew it: `directory`, or the name of a look-up.
    pub from: Option<String>,
    /// For people, where it failed.
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupStatus {
    Found,
    NotFound,
    /// The event does not say whom or what to look for.
    NoKey,
    /// No answer in time.
    Timeout,
    Failed,
    /// Too much is being asked already.
    Overloaded,
}

impl LookupStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::NotFound => "not_found",
            Self::NoKey => "no_key",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::Overloaded => "overloaded",
        }
    }

    /// Whether the answer is not known, rather than that there is none.
    pub fn is_failure(self) -> bool {
        match self {
            Self::Timeout | Self::Failed | Self::Overloaded => true,
            Self::Found | Self::NotFound | Self::NoKey => false,
        }
    }
}

impl LookupAnswer {
    pub fn found(fields: RawJson, from: impl Into<String>) -> Self {
        let from = Some(from.into());
        Self { status: LookupStatus::Found, fields: Some(fields), from, reason: None }
    }

    /// Without anything known.
    pub fn of(status: LookupStatus) -> Self {
        Self { status, fields: None, from: None, reason: None }
    }

    pub fn failed(status: LookupStatus, from: &str, reason: impl Into<String>) -> Self {
        let (from, reason) = (Some(from.to_owned()), Some(reason.into()));
        Self { status, fields: None, from, reason }
    }
}

/// An answer that may take a while. What is known already is there when it is first polled.
pub type LookupFuture = Pin<Box<dyn Future<Output = LookupAnswer> + Send>>;

/// The world outside, as the steps may ask it: it always answers, and never panics.
pub trait Lookups: Send + Sync {
    fn ask(&self, project: ProjectId, question: Arc<Question>) -> LookupFuture;

    /// The same world under resources that are not saved, for trying; `None` where they make no difference.
    fn under(&self, _catalog: &Arc<Catalog>) -> Option<Arc<dyn Lookups>> {
        None
    }

    /// Tells of an event, which may say something that will be asked for later. It never waits.
    fn tell(&self, _event: &Arc<Event>) {}
}

/// Knows nothing.
pub struct NoLookups;

impl Lookups for NoLookups {
    fn ask(&self, _: ProjectId, _: Arc<Question>) -> LookupFuture {
        Box::pin(std::future::ready(LookupAnswer::of(LookupStatus::NotFound)))
    }
}
