//! Secrets at rest.
//!
//! A 32-byte master key, HKDF-SHA256 to a key of each project, XChaCha20-Poly1305 under that. What
//! a secret is for (project, object, field) is authenticated with it, so that a ciphertext that was
//! moved to another place does not open there. The sealed form names its master key, so that keys
//! can be replaced: old ones go on opening while the newest seals.

mod master;

use std::{fmt, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    Key, XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use zeroize::Zeroizing;

use super::random::Random;
use crate::model::{DestinationId, LookupId, ProjectId, Sealed, Secret, SourceId};
use master::{GivenKeys, MasterKey, RetiredKey};

const VERSION: &str = "v1";
const NONCE: usize = 24;

/// Seals secrets and opens them again. Without its master key, what it sealed is lost.
pub struct Vault {
    /// Never empty; the first one seals, all of them open.
    keys: Vec<MasterKey>,
    /// Of keys that are retired.
    kept: Vec<RetiredKey>,
    random: Arc<dyn Random>,
}

/// A master key in the place of another, in two steps: first both, then the new one alone.
pub struct Renewal {
    both: Zeroizing<String>,
    alone: Zeroizing<String>,
}

impl Renewal {
    /// From now on the new key seals, and the old ones still open. A crash leaves the file as it was, or so.
    pub fn begin(&self, path: &Path) -> std::io::Result<()> {
        master::replace(path, &self.both)
    }

    /// The old keys are gone: nothing that they sealed is left.
    pub fn finish(&self, path: &Path) -> std::io::Result<()> {
        master::replace(path, &self.alone)
    }
}

/// What keys are derived for beside sealing.
pub(super) const API_KEYS: &str = "api key pepper";
pub(super) const PSEUDONYMS: &str = "pseudonyms";

/// What a secret belongs to. It must be the same to open as it was to seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealContext {
    project: ProjectId,
    object: String,
    field: SecretField,
}

/// Which secret of an object it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretField {
    SigningKey,
    BearerToken,
    BasicPassword,
    /// The value of a header that a webhook sends.
    Header,
    /// A secret among the settings of a destination of another kind.
    Setting,
    /// What a look-up needs to be allowed to ask.
    LookupSecret,
    /// What a source's senders sign with.
    VerifyingSecret,
}

/// Why a secret does not open.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error("the secret was sealed with the master key {0}, which this process was not given")]
    UnknownKey(String),
    /// It was sealed for another place, or it was changed, or it is not ours at all.
    #[error("the sealed secret is damaged or belongs to another object")]
    Damaged,
}

/// Why there is no vault.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "a master key is 32 bytes in base64, such as `openssl rand -base64 32` prints; several are separated by commas or lines, the newest first"
    )]
    Malformed,
    #[error(
        "the master key file {0} is missing: restore it, or give the key in TIDEGATE_MASTER_KEY; without it, the stored secrets cannot be opened"
    )]
    Missing(String),
    /// It does not hold a key, as after a part of it was changed or cut off.
    #[error("the master key file {path} is damaged: it holds no key of 32 bytes in base64")]
    Damaged { path: String },
    #[error("cannot use the master key file {path}")]
    File { path: String, source: std::io::Error },
}

impl Vault {
    /// The environment variable that gives the master key; its value is for [`Self::load`].
    pub const VARIABLE: &str = "TIDEGATE_MASTER_KEY";

    /// The given master keys, or those of the file. For a data folder that holds secrets already.
    pub fn load(
        path: &Path,
        given: Option<&Secret>,
        random: Arc<dyn Random>,
    ) -> Result<Self, LoadError> {
        let GivenKeys { keys, kept } = match given {
            Some(text) => master::parse(text.expose())?,
            None => {
                master::read(path)?.ok_or_else(|| LoadError::Missing(path.display().to_string()))?
            }
        };
        Ok(Self { keys, kept, random })
    }

    /// A new master key, for what is to be sealed again. Of the old ones, what API keys and pseudonyms are made
    /// with goes on, which opens no secret.
    pub fn renewal(&self) -> Renewal {
        let fresh = MasterKey::generate(self.random.as_ref());
        let mut both = fresh.text();
        let mut alone = fresh.text();
        for key in &self.keys {
            both.push('\n');
            both.push_str(&key.text());
        }
        for purpose in [API_KEYS, PSEUDONYMS] {
            for bytes in self.derive(purpose) {
                alone.push('\n');
                alone.push_str(&RetiredKey { purpose, bytes }.text());
            }
        }
        for kept in &self.kept {
            both.push('\n');
            both.push_str(&kept.text());
        }
        both.push('\n');
        alone.push('\n');
        Renewal { both, alone }
    }

    /// The same secret under the newest key, whichever of the contexts it was sealed for.
    pub fn reseal(&self, sealed: &Sealed, contexts: &[SealContext]) -> Result<Sealed, VaultError> {
        let mut failed = VaultError::Damaged;
        for context in contexts {
            match self.open(sealed, context) {
                Ok(secret) => return Ok(self.seal(&secret, context)),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Like [`Self::load`]; `None` where neither is there.
    pub fn find(
        path: &Path,
        given: Option<&Secret>,
        random: Arc<dyn Random>,
    ) -> Result<Option<Self>, LoadError> {
        if given.is_none() && !master::is_there(path)? {
            return Ok(None);
        }
        Self::load(path, given, random).map(Some)
    }

    /// Like [`Self::load`], for a first start: where neither is there, makes a key and the file
    /// (mode 0600). When this returns, the file is on disk; a crash leaves it whole or not there.
    pub fn load_or_create(
        path: &Path,
        given: Option<&Secret>,
        random: Arc<dyn Random>,
    ) -> Result<Self, LoadError> {
        if given.is_none() && master::read(path)?.is_none() {
            master::create(path, random.as_ref())?;
        }
        Self::load(path, given, random)
    }

    /// A vault with a key that is kept nowhere, for tests and for tools that store nothing.
    pub fn ephemeral(random: Arc<dyn Random>) -> Self {
        Self { keys: vec![MasterKey::generate(random.as_ref())], kept: Vec::new(), random }
    }

    /// The id of the key that seals. It says nothing about the key.
    pub fn key_id(&self) -> &str {
        self.keys[0].id()
    }

    /// Whether it has the key of this id.
    pub fn has_key(&self, id: &str) -> bool {
        self.keys.iter().any(|it| it.id() == id)
    }

    /// Seals with the newest key, under a nonce of its own.
    pub fn seal(&self, secret: &Secret, context: &SealContext) -> Sealed {
        let key = &self.keys[0];
        let mut sealed = vec![0; NONCE];
        self.random.fill(&mut sealed);
        let nonce: [u8; NONCE] = std::array::from_fn(|place| sealed[place]);
        let label = context.to_string();
        let payload = Payload { msg: secret.expose().as_bytes(), aad: label.as_bytes() };
        // Encryption fails for messages above 256 GiB only; an empty text then never opens.
        let ciphertext =
            cipher(key, context.project).encrypt(&XNonce::from(nonce), payload).unwrap_or_default();
        sealed.extend_from_slice(&ciphertext);
        Sealed::from_text(format!("{VERSION}.{}.{}", key.id(), STANDARD.encode(sealed)))
    }

    pub fn open(&self, sealed: &Sealed, context: &SealContext) -> Result<Secret, VaultError> {
        let mut parts = sealed.as_text().splitn(3, '.');
        let (Some(VERSION), Some(id), Some(text)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(VaultError::Damaged);
        };
        let key = self
            .keys
            .iter()
            .find(|it| it.id() == id)
            .ok_or_else(|| VaultError::UnknownKey(printable(id)))?;
        let bytes = STANDARD.decode(text).map_err(|_| VaultError::Damaged)?;
        let (nonce, ciphertext) = bytes.split_first_chunk::<NONCE>().ok_or(VaultError::Damaged)?;
        let label = context.to_string();
        let payload = Payload { msg: ciphertext, aad: label.as_bytes() };
        let clear = cipher(key, context.project)
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| VaultError::Damaged)?;
        let text = String::from_utf8(clear).map_err(|_| VaultError::Damaged)?;
        Ok(Secret::new(text))
    }

    /// Keys for purposes other than sealing, one from each master key, the newest first; also from those that
    /// are retired.
    pub(super) fn derive(&self, purpose: &str) -> Vec<Zeroizing<[u8; 32]>> {
        let kept = self.kept.iter().filter(|it| it.purpose == purpose).map(|it| it.bytes.clone());
        self.keys.iter().map(|key| key.derive(purpose)).chain(kept).collect()
    }
}

fn cipher(key: &MasterKey, project: ProjectId) -> XChaCha20Poly1305 {
    let key = key.derive(&format!("project {project}"));
    XChaCha20Poly1305::new(&Key::from(*key))
}

/// What stands in the place of a key id may be anything: no more than an id's length of it is shown.
fn printable(id: &str) -> String {
    id.chars().filter(char::is_ascii_alphanumeric).take(master::ID_LENGTH).collect()
}

impl SecretField {
    pub const ALL: [Self; 7] = [
        Self::SigningKey,
        Self::BearerToken,
        Self::BasicPassword,
        Self::Header,
        Self::Setting,
        Self::LookupSecret,
        Self::VerifyingSecret,
    ];
}

impl SealContext {
    pub fn of_destination(project: ProjectId, id: DestinationId, field: SecretField) -> Self {
        Self { project, object: id.to_string(), field }
    }

    pub fn of_lookup(project: ProjectId, id: LookupId, field: SecretField) -> Self {
        Self { project, object: id.to_string(), field }
    }

    pub fn of_source(project: ProjectId, id: SourceId, field: SecretField) -> Self {
        Self { project, object: id.to_string(), field }
    }
}

impl fmt::Display for SealContext {
    /// The bytes that are authenticated: `project|object|field`. None of the three holds a `|`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = match self.field {
            SecretField::SigningKey => "signing_key",
            SecretField::BearerToken => "bearer_token",
            SecretField::BasicPassword => "basic_password",
            SecretField::Header => "header",
            SecretField::Setting => "setting",
            SecretField::LookupSecret => "lookup_secret",
            SecretField::VerifyingSecret => "verifying_secret",
        };
        write!(f, "{}|{}|{field}", self.project, self.object)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({})", self.key_id())
    }
}

#[cfg(test)]
mod tests;
