//! Pseudonyms: what stands for a personal value, the same each time, and does not give it away.

use std::{fmt, sync::Arc};

use zeroize::Zeroizing;

use super::{mac::Sha256Key, vault::Vault};
use crate::model::ProjectId;

/// Makes the pseudonyms of each project.
#[derive(Clone)]
pub struct Pseudonyms {
    /// From the oldest master key, so that a newer one in front of it changes no pseudonym.
    root: Arc<Zeroizing<[u8; 32]>>,
}

/// Makes the pseudonyms of one project: HMAC-SHA256 under a key of its own.
#[derive(Clone)]
pub struct Pseudonym(Sha256Key);

impl Pseudonyms {
    pub fn of(vault: &Vault) -> Self {
        // A vault has at least one key.
        let root = vault.derive(super::vault::PSEUDONYMS).pop().unwrap_or_default();
        Self { root: Arc::new(root) }
    }

    pub fn of_project(&self, project: ProjectId) -> Pseudonym {
        let key = Sha256Key::new(self.root.as_ref().as_ref());
        let own = Zeroizing::new(key.code(&[project.to_string().as_bytes()]));
        Pseudonym(Sha256Key::new(own.as_ref()))
    }
}

impl Pseudonym {
    /// `h_` and 128 bits in hexadecimal. `kind` keeps values of different kinds apart.
    pub fn of(&self, kind: &str, value: &str) -> String {
        let code = self.0.code(&[kind.as_bytes(), &[0], value.as_bytes()]);
        format!("h_{}", hex::encode(&code[..16]))
    }
}

impl fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pseudonyms(…)")
    }
}

impl fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pseudonym(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SeededRandom;

    #[test]
    fn a_pseudonym_is_stable_and_belongs_to_its_project_kind_and_key() {
        let vault = |seed| Vault::ephemeral(Arc::new(SeededRandom::new(seed)));
        let of = |seed, project, kind: &str, value: &str| {
            let project = ProjectId::from_bits(project);
            Pseudonyms::of(&vault(seed)).of_project(project).of(kind, value)
        };
        let first = of(1, 1, "email", "a@b.co");
        assert_eq!(first, of(1, 1, "email", "a@b.co"));
        assert_eq!(first.len(), 34);
        for other in [
            of(2, 1, "email", "a@b.co"),
            of(1, 2, "email", "a@b.co"),
            of(1, 1, "value", "a@b.co"),
            of(1, 1, "email", "b@b.co"),
        ] {
            assert_ne!(first, other);
        }
    }
}
