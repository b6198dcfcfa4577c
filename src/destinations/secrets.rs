//! The secrets of a destination, on their way into the catalogue: sealed, and left as they are where
//! they are the same.

use jiff::Timestamp;

use crate::{
    crypto::{Random, SealContext, SecretField, Vault},
    model::{DestinationId, ProjectId, Sealed, Secret},
    settings::{Invalid, SecretSpec},
};

/// Why a secret that is kept is not sent to another host.
pub const GIVEN_AGAIN: &str = "must be given in full where the URL has another scheme, host or port than before, which would get it";

/// The secrets of one destination.
#[derive(Clone, Copy)]
pub struct Safe<'a> {
    pub vault: &'a Vault,
    pub random: &'a dyn Random,
    pub now: Timestamp,
    pub project: ProjectId,
    pub destination: DestinationId,
    /// The destination goes to another origin than before, which must not get what was meant for the old one.
    pub is_moved: bool,
}

impl Safe<'_> {
    pub(super) fn context(&self, field: SecretField) -> SealContext {
        SealContext::of_destination(self.project, self.destination, field)
    }

    pub(super) fn sealed(
        &self,
        field: SecretField,
        path: &str,
        given: &SecretSpec,
        old: Option<&Sealed>,
        wrong: &mut Vec<Invalid>,
    ) -> Option<Sealed> {
        if self.is_moved && given.is_placeholder() && old.is_some() {
            wrong.push(Invalid::new(path, GIVEN_AGAIN, "a placeholder"));
            return None;
        }
        sealed(self.vault, &self.context(field), path, given, old, wrong)
    }
}

/// The sealed secret: the old one where it is the same, so that nothing changes.
pub fn sealed(
    vault: &Vault,
    context: &SealContext,
    path: &str,
    given: &SecretSpec,
    old: Option<&Sealed>,
    wrong: &mut Vec<Invalid>,
) -> Option<Sealed> {
    if given.is_placeholder() {
        if old.is_none() {
            let rule = "must be a secret: there is none yet that a placeholder could stand for";
            wrong.push(Invalid::new(path, rule, "a placeholder"));
        }
        return old.cloned();
    }
    let secret = given.secret();
    let is_text = |it: &Secret| !it.expose().is_empty() && it.expose().len() <= 4096;
    if !is_text(secret) || secret.expose().chars().any(char::is_control) {
        let rule = "must be 1 to 4096 bytes without control characters";
        wrong.push(Invalid::new(path, rule, "another text"));
        return None;
    }
    let same = old.filter(|it| vault.open(it, context).is_ok_and(|it| it == *secret));
    Some(same.cloned().unwrap_or_else(|| vault.seal(secret, context)))
}
