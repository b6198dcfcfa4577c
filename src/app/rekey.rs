//! A new master key for a data folder: every secret is sealed again, and the old key is retired.
//!
//! First the file has both keys, of which the new one seals; then the secrets are sealed again, in one transaction;
//! then the old key goes. Wherever it is stopped, the folder opens, and it can be run again.

use std::{path::Path, sync::Arc};

use serde_json::Value;

use super::master::KEPT;
use crate::{
    clock::Clock,
    crypto::{
        Random, SealContext, Vault, VaultError,
        vault::{LoadError, SecretField},
    },
    hint,
    model::{DestinationId, LookupId, ProjectId, RawJson, Sealed, SourceId},
    store::{
        Change, Document, Registry as _, Store as _, StoreError,
        sqlite::{Options, SqliteStore},
    },
};

#[derive(Debug, thiserror::Error)]
pub enum RekeyError {
    #[error("there is no store in `{0}`")]
    NoStore(String),
    #[error("the store cannot be opened or written")]
    Store(#[from] StoreError),
    #[error("the master key cannot be used")]
    Key(#[from] LoadError),
    #[error("a secret of the {kind} `{name}` does not open")]
    Sealed { kind: String, name: String, source: VaultError },
    #[error("cannot replace the master key file")]
    File(#[source] std::io::Error),
}

/// Says how many secrets were sealed again. Blocks now and then; no gateway may have the folder open.
pub async fn rekey(
    folder: &Path,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Result<usize, RekeyError> {
    if !folder.join("control.db").exists() {
        return Err(RekeyError::NoStore(folder.display().to_string()));
    }
    let (accepted, _) = hint::channel(1);
    let numbers = random.clone();
    let options = Options { reserve_bytes: 0, ..Options::default() };
    // Held against others until the end.
    let store =
        SqliteStore::open(folder, options, clock, Box::new(move || numbers.u64()), accepted)?;
    let file = folder.join("master.key");
    let old = Vault::load(&file, None, random.clone())?;
    let documents = store.load().await?;
    let renewal = old.renewal();
    // Whether all of them open is known before anything changes.
    seal_anew(&old, &documents)?;
    renewal.begin(&file).map_err(RekeyError::File)?;
    let both = Vault::load(&file, None, random)?;
    let (changes, count) = seal_anew(&both, &documents)?;
    if !changes.is_empty() {
        store.change(changes).await?;
    }
    // From here on, the store wants the new key alone.
    store.set_setting(KEPT, both.key_id().as_bytes().to_vec()).await?;
    renewal.finish(&file).map_err(RekeyError::File)?;
    store.close().await;
    Ok(count)
}

/// The documents that change, and how many secrets are in them.
fn seal_anew(vault: &Vault, documents: &[Document]) -> Result<(Vec<Change>, usize), RekeyError> {
    let (mut changes, mut count) = (Vec::new(), 0);
    for document in documents {
        let body: Value = serde_json::from_str(document.body.as_str()).unwrap_or_default();
        let mut found = Vec::new();
        sealed_texts(&body, vault, &mut found);
        if found.is_empty() {
            continue;
        }
        // A sealed text has nothing that JSON would write otherwise. So nothing else of the document changes.
        let mut text = document.body.as_str().to_owned();
        for old in found {
            let fresh = vault.seal_anew(&Sealed::from_text(old), &contexts(document, &body));
            let fresh = fresh.map_err(|source| RekeyError::Sealed {
                kind: document.kind.clone(),
                name: body["name"].as_str().unwrap_or_default().to_owned(),
                source,
            })?;
            text = text.replacen(&format!("\"{old}\""), &format!("\"{}\"", fresh.as_text()), 1);
            count += 1;
        }
        changes.push(Change::Put(Document { body: RawJson::trusted(text), ..document.clone() }));
    }
    Ok((changes, count))
}

/// Texts that name one of the vault's keys.
fn sealed_texts<'a>(value: &'a Value, vault: &Vault, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => {
            let mut parts = text.splitn(3, '.');
            let is_sealed = parts.next() == Some("v1")
                && parts.next().is_some_and(|it| vault.has_key(it))
                && parts.next().is_some();
            if is_sealed {
                found.push(text);
            }
        }
        Value::Array(items) => items.iter().for_each(|it| sealed_texts(it, vault, found)),
        Value::Object(fields) => fields.values().for_each(|it| sealed_texts(it, vault, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => (),
    }
}

/// What a secret in a document may have been sealed for.
fn contexts(document: &Document, body: &Value) -> Vec<SealContext> {
    let project = serde_json::from_value::<ProjectId>(body["project"].clone());
    let Ok(project) = project else { return Vec::new() };
    let id = document.id;
    let of = |field| match document.kind.as_str() {
        "destination" => {
            Some(SealContext::of_destination(project, DestinationId::from_bits(id), field))
        }
        "source" => Some(SealContext::of_source(project, SourceId::from_bits(id), field)),
        "lookup" => Some(SealContext::of_lookup(project, LookupId::from_bits(id), field)),
        _ => None,
    };
    SecretField::ALL.into_iter().filter_map(of).collect()
}
