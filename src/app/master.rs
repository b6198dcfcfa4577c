//! Which master key a store was used with, so that no start goes on without it.
//!
//! The ids of keys stand in the store. An id says nothing about its key, and a key that is another by one
//! bit has another id.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Parts, StartError};
use crate::{
    crypto::{Random, Vault},
    model::Secret,
    store::{
        Document, Registry as _, Result, StoreError,
        postgres::{Address, PostgresStore},
        sqlite::SqliteStore,
    },
};

/// The name under which a store keeps the ids of its keys, separated by commas.
pub(super) const KEPT: &str = "master_keys";
/// The same in a database, which has one.
const AGREED: &str = "master_key";

/// What a start was given, in a file or a variable; perhaps nothing.
pub(super) struct MasterKeyFile {
    data: PathBuf,
    file: PathBuf,
    given: Option<Secret>,
    random: Arc<dyn Random>,
    found: Option<Vault>,
}

impl MasterKeyFile {
    pub fn find(data: &Path, parts: &Parts) -> Result<Self, StartError> {
        let file = data.join("master.key");
        let (given, random) = (parts.master_key.clone(), parts.random.clone());
        let found = Vault::find(&file, given.as_ref(), random.clone());
        let found = found.map_err(StartError::MasterKey)?;
        Ok(Self { data: data.to_owned(), file, given, random, found })
    }

    /// The vault of an embedded store. A key is made only for a store in which there is nothing yet.
    pub async fn of_store(self, store: &SqliteStore) -> Result<Arc<Vault>, StartError> {
        let failed = |source| StartError::Store { path: self.data.clone(), source };
        let kept = store.setting(KEPT).await.map_err(failed)?;
        let kept = ids(&kept.unwrap_or_default());
        let documents = store.load().await.map_err(failed)?;
        let path = self.data.clone();
        let vault = match (self.found, kept.first()) {
            (Some(vault), _) => vault,
            (None, Some(id)) => return Err(StartError::LostMasterKey { path, id: id.clone() }),
            (None, None) if documents.is_empty() => {
                Vault::load_or_create(&self.file, self.given.as_ref(), self.random)
                    .map_err(StartError::MasterKey)?
            }
            (None, None) => return Err(StartError::NoMasterKey { path }),
        };
        let sealed = if kept.is_empty() { sealed_with(&documents) } else { BTreeSet::new() };
        // Without an id that is kept, one key that opens something is proof; none is the opposite.
        let wrong = match kept.is_empty() {
            true if sealed.iter().any(|it| vault.has_key(it)) => None,
            true => sealed.first(),
            false => kept.iter().find(|it| !vault.has_key(it)),
        };
        if let Some(id) = wrong {
            let (id, given) = (id.clone(), vault.key_id().to_owned());
            return Err(StartError::WrongMasterKey { path, id, given });
        }
        let is_proven = !kept.is_empty() || !sealed.is_empty() || documents.is_empty();
        let newest = vault.key_id().to_owned();
        if is_proven && !kept.contains(&newest) {
            let mut all = kept;
            all.extend(sealed.into_iter().filter(|it| vault.has_key(it)));
            all.insert(newest);
            let all = Vec::from_iter(all).join(",");
            let failed = |source| StartError::Store { path: self.data.clone(), source };
            store.set_setting(KEPT, all.into_bytes()).await.map_err(failed)?;
        }
        Ok(Arc::new(vault))
    }

    /// The vault of a node. It makes a key only for a database in which no node has put one.
    pub async fn of_database(
        self,
        store: &PostgresStore,
        address: &Address,
        failed: impl Fn(StoreError) -> StartError,
    ) -> Result<Arc<Vault>, StartError> {
        let vault = match self.found {
            Some(vault) => vault,
            None if store.agreed_before(AGREED).await.map_err(&failed)?.is_some() => {
                return Err(StartError::NoSharedMasterKey { address: address.clone() });
            }
            None => Vault::load_or_create(&self.file, self.given.as_ref(), self.random)
                .map_err(StartError::MasterKey)?,
        };
        let key = store.agreed(AGREED, vault.key_id().as_bytes()).await.map_err(&failed)?;
        if vault.has_key(&String::from_utf8_lossy(&key)) {
            Ok(Arc::new(vault))
        } else {
            Err(StartError::OtherMasterKey { address: address.clone() })
        }
    }
}

fn ids(kept: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(kept);
    text.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect()
}

/// The ids of the keys that sealed what stands in these documents.
fn sealed_with(documents: &[Document]) -> BTreeSet<String> {
    /// Nonce and tag in base64: no sealed text is shorter.
    const SHORTEST: usize = 52;
    let mut found = BTreeSet::new();
    for document in documents {
        for text in document.body.as_str().split("\"v1.").skip(1) {
            let Some((id, rest)) = text.split_once('.') else { continue };
            let sealed = rest.find('"').unwrap_or(0);
            if id.len() == 8 && id.bytes().all(|it| it.is_ascii_hexdigit()) && sealed >= SHORTEST {
                found.insert(id.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RawJson;

    #[test]
    fn ids_of_keys_are_found_in_sealed_secrets_only() {
        let sealed = "A".repeat(60);
        for (body, expected) in [
            (format!(r#"{{"a":"v1.0a1b2c3d.{sealed}"}}"#), vec!["0a1b2c3d"]),
            (
                format!(r#"{{"a":["v1.0a1b2c3d.{sealed}","v1.ffffffff.{sealed}"]}}"#),
                vec!["0a1b2c3d", "ffffffff"],
            ),
            (r#"{"note":"v1.0a1b2c3d.short"}"#.to_owned(), vec![]),
            (format!(r#"{{"note":"v1.not-hex!.{sealed}"}}"#), vec![]),
            (format!(r#"{{"note":"see v1.0a1b2c3d.{sealed}"}}"#), vec![]),
        ] {
            let document =
                Document { kind: "a".to_owned(), id: 1, body: RawJson::trusted(body.clone()) };
            let found = sealed_with(&[document]);
            assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{body}");
        }
    }
}
