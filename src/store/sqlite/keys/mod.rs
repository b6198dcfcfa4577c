//! The gate's memory: every key that was ever used, and the first event that had it.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
};

use sha2::{Digest, Sha256};

use crate::{
    model::{EventId, EventSeq, ProjectId},
    store::Result,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash([u8; 16]);

pub struct Keys {
    reader: KeyReader,
}

#[derive(Clone)]
pub struct KeyReader {
    secret: [u8; 32],
    found: Arc<Mutex<HashMap<KeyHash, EventId>>>,
}

impl Keys {
    pub fn open(_folder: &Path, secret: [u8; 32]) -> Result<Self> {
        Ok(Self { reader: KeyReader { secret, found: Arc::default() } })
    }

    pub fn reader(&self) -> KeyReader {
        self.reader.clone()
    }

    pub fn covered(&self) -> EventSeq {
        EventSeq(0)
    }

    pub fn find(&self, hash: &KeyHash) -> Result<Option<EventId>> {
        self.reader.find(hash)
    }

    pub fn add(&mut self, hash: KeyHash, id: EventId, _seq: EventSeq) {
        super::lock(&self.reader.found).entry(hash).or_insert(id);
    }

    pub fn pass(&mut self, _through: EventSeq) {}
}

impl KeyReader {
    pub fn hash(&self, namespace: u8, project: ProjectId, key: &str) -> KeyHash {
        let mut hash = Sha256::new();
        hash.update(self.secret);
        hash.update([namespace]);
        hash.update(project.bits().to_be_bytes());
        hash.update(key);
        let mut first = [0; 16];
        first.copy_from_slice(&hash.finalize()[..16]);
        KeyHash(first)
    }

    pub fn find(&self, hash: &KeyHash) -> Result<Option<EventId>> {
        Ok(super::lock(&self.found).get(hash).copied())
    }
}
