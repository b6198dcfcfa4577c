//! What is kept beside the events: resources, single values, and the directory.

pub mod control;
pub mod directory;

use async_trait::async_trait;

use crate::{
    model::{Name, ProjectId, RawJson},
    store::{
        Change, Directory, Document, Entity, EntityKey, Registry, Result, StoreError, Upsert,
        sqlite::{SqliteStore, blocking},
    },
};

impl SqliteStore {
    /// A single value that the store keeps; `None` where none was set.
    pub async fn setting(&self, name: &'static str) -> Result<Option<Vec<u8>>> {
        self.read_beside(move |it| it.control.setting(name)).await
    }

    /// When this returns, it is on disk.
    pub async fn set_setting(&self, name: &'static str, value: Vec<u8>) -> Result<()> {
        self.write(move |it| it.control.set_setting(name, &value)).await
    }

    /// Brings all logs into their files, and tells the manifest how they were left. The store is closed, and
    /// nobody writes any more. If it fails, the next start finds the logs.
    pub(super) async fn fold(&self) {
        let (readers, directory) = (self.readers.clone(), self.directory.clone());
        let (manifest, is_broken) = (self.manifest.clone(), self.status.is_broken());
        let fold = blocking(move || {
            readers.control.fold()?;
            directory.fold()?;
            if is_broken { Ok(()) } else { manifest.close(readers.segments.newest().first()) }
        });
        if let Err(error) = fold.await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the next start begins with logs that are not folded in");
        }
    }
}

#[async_trait]
impl Registry for SqliteStore {
    async fn load(&self) -> Result<Vec<Document>> {
        self.read_beside(|it| it.control.load()).await
    }

    async fn change(&self, changes: Vec<Change>) -> Result<()> {
        self.write(move |it| it.control.change(&changes)).await
    }
}

#[async_trait]
impl Directory for SqliteStore {
    async fn put_entities(
        &self,
        project: ProjectId,
        table: &Name,
        entities: Vec<Entity>,
        how: Upsert,
    ) -> Result<()> {
        if self.status.is_full() {
            return Err(StoreError::Full);
        }
        let (directory, table) = (self.directory.clone(), table.clone());
        self.write(move |_| directory.put(project, &table, &entities, how)).await
    }

    async fn find_entities(
        &self,
        project: ProjectId,
        keys: Vec<EntityKey>,
    ) -> Result<Vec<Option<RawJson>>> {
        /// So many are found sooner than another thread has begun.
        const FEW: usize = 8;
        self.status.check_open()?;
        if keys.len() <= FEW
            && let Some(found) = self.directory.try_find(project, &keys)
        {
            return found;
        }
        let directory = self.directory.clone();
        self.read_beside(move |_| directory.find(project, &keys)).await
    }

    async fn list_entities(
        &self,
        project: ProjectId,
        table: &Name,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Entity>> {
        let (directory, table, after) = (self.directory.clone(), table.clone(), after.to_owned());
        self.read_beside(move |_| directory.list(project, &table, &after, limit)).await
    }

    async fn remove_entities(
        &self,
        project: ProjectId,
        table: &Name,
        keys: Vec<String>,
    ) -> Result<u64> {
        let (directory, table) = (self.directory.clone(), table.clone());
        self.write(move |_| directory.remove(project, &table, &keys)).await
    }
}
