//! What a database says went wrong, in our words.

use tokio_postgres::error::SqlState;

use crate::store::StoreError;

/// A lease was lost; raised by `check_leases`.
const FENCED: &str = "TG001";

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            Some(code) if code.code() == FENCED => {
                super::leases::fenced();
                Self::Fenced
            }
            Some(code) if *code == SqlState::DISK_FULL => Self::Full,
            _ => Self::Unavailable(Box::new(DatabaseMessage::of(&error))),
        }
    }
}

pub(super) fn unavailable(what: &'static str) -> StoreError {
    StoreError::Unavailable(what.into())
}

/// What an operator may read: `tokio_postgres` itself says `db error` and little else. What a
/// database quotes of rows stays out of it, since that may be personal.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct DatabaseMessage {
    text: String,
    /// Whether others were in the way, and the same is worth trying at once.
    is_deadlock: bool,
}

/// How often a transaction is begun that others were in the way of.
const TRIES: u32 = 3;

/// Whether a transaction is worth beginning again at once. Nothing of it was kept.
pub(super) fn is_worth_another_try(error: &StoreError, tries: u32) -> bool {
    let StoreError::Unavailable(error) = error else { return false };
    tries < TRIES && error.downcast_ref::<DatabaseMessage>().is_some_and(|it| it.is_deadlock)
}

impl DatabaseMessage {
    pub fn of(error: &tokio_postgres::Error) -> Self {
        let text = match error.as_db_error() {
            Some(it) => format!("{} ({})", it.message(), it.code().code()),
            None => {
                let mut text = error.to_string();
                let mut source = std::error::Error::source(error);
                while let Some(cause) = source {
                    text = format!("{text}: {cause}");
                    source = cause.source();
                }
                text
            }
        };
        let is_deadlock = error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED);
        Self { text, is_deadlock }
    }
}

/// Whether the same call may succeed for some of those who share a transaction, when it failed for
/// all of them: the database refused what it was given, and did not go away.
pub(super) fn is_about_values(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|it| it.code().starts_with("22") || it.code().starts_with("23"))
}
