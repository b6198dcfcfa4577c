//! Signing schemes, secrets at rest, and API keys.
//!
//! Everything here is pure but for [`random`], which is handed in, and for the master key's file.

pub mod random;
mod mac;
pub mod vault;
pub mod api_key;
pub mod signature;
mod pseudonym;
pub mod inbound;

pub use api_key::{AdminKey, KeyHasher, PlainKey};
pub use mac::Sha256Key;
pub use pseudonym::{Pseudonym, Pseudonyms};
pub use random::{Random, SeededRandom, SystemRandom};
pub use vault::{SealContext, SecretField, Vault, VaultError};
