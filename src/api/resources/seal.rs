//! The vault, as the checks of `resources` need it.

use std::sync::Arc;

use crate::{
    crypto::{Context, Field, Random, Vault},
    model::{Sealed, Secret},
    resources::{Seal, SecretField, SecretOwner},
};

pub struct VaultSeal {
    vault: Arc<Vault>,
    random: Arc<dyn Random>,
}

impl VaultSeal {
    pub fn new(vault: Arc<Vault>, random: Arc<dyn Random>) -> Self {
        Self { vault, random }
    }
}

impl Seal for VaultSeal {
    fn seal(&self, owner: SecretOwner, secret: &Secret) -> Sealed {
        self.vault.seal(secret, &context(owner))
    }

    fn open(&self, owner: SecretOwner, sealed: &Sealed) -> Option<Secret> {
        self.vault.open(sealed, &context(owner)).ok()
    }

    fn random(&self, bytes: &mut [u8]) {
        self.random.fill(bytes);
    }
}

fn context(owner: SecretOwner) -> Context {
    let field = match owner.field {
        SecretField::SigningKey => Field::SigningKey,
        SecretField::BearerToken => Field::BearerToken,
        SecretField::BasicPassword => Field::BasicPassword,
    };
    Context::of_destination(owner.project, owner.destination, field)
}
