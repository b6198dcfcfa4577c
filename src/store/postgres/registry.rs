//! Resources: documents with an id, and a number that grows with each change of any of them. Whoever
//! changes them locks that number first, so that nodes take turns.

use async_trait::async_trait;

use super::{
    PostgresStore,
    connect::{Loan, Session},
    notifier::Notifier,
    values::Uuid,
};
use crate::{
    model::RawJson,
    store::{Change, Document, NodeMessage, Registry, RegistryLock, Result, Revised, StoreError},
};

const REVISION: &str = "SELECT revision FROM resources";
const LOCK: &str = "SELECT revision FROM resources FOR UPDATE";
const MOVE: &str = "UPDATE resources SET revision = revision + 1";

#[async_trait]
impl Registry for PostgresStore {
    async fn load(&self) -> Result<Vec<Document>> {
        load(self.core.session().await?.session()?).await
    }

    async fn change(&self, changes: Vec<Change>) -> Result<()> {
        match self.turn(0).await? {
            Some(turn) => turn.commit(changes).await.map(drop),
            None => Err(StoreError::Closed),
        }
    }

    async fn newer(&self, known: u64) -> Result<Option<Revised>> {
        let mut loan = self.core.session().await?;
        let session = loan.session()?;
        // What changes between the two is read now, and once more the next time.
        let revision = revision(session, REVISION).await?;
        if revision == known {
            return Ok(None);
        }
        Ok(Some(Revised { revision, documents: load(session).await? }))
    }

    async fn turn(&self, known: u64) -> Result<Option<Box<dyn RegistryLock>>> {
        let mut loan = self.core.session().await?;
        let session = loan.session()?;
        session.begin().await?;
        match read(session, known).await {
            Ok((revision, newer)) => {
                let notifier = self.core.notifier.clone();
                Ok(Some(Box::new(PostgresRegistryLock { loan, revision, newer, notifier })))
            }
            Err(error) => {
                session.roll_back().await;
                Err(error)
            }
        }
    }
}

/// The revision, and all documents where it is not the one that is known.
async fn read(session: &mut Session, known: u64) -> Result<(u64, Option<Revised>)> {
    let revision = revision(session, LOCK).await?;
    let newer = match revision == known {
        true => None,
        false => Some(Revised { revision, documents: load(session).await? }),
    };
    Ok((revision, newer))
}

async fn revision(session: &mut Session, sql: &'static str) -> Result<u64> {
    let rows = session.query(sql, &[]).await?;
    let row = rows.first().ok_or(StoreError::Damaged { what: "revision of the resources" })?;
    Ok(row.try_get::<_, i64>(0)? as u64)
}

async fn load(session: &mut Session) -> Result<Vec<Document>> {
    let sql = "SELECT kind, id, body FROM documents ORDER BY kind, id";
    let mut documents = Vec::new();
    for row in session.query(sql, &[]).await? {
        let id: Uuid = row.try_get(1)?;
        let body: Vec<u8> = row.try_get(2)?;
        let kind = row.try_get(0)?;
        documents.push(Document { kind, id: id.0, body: RawJson::trusted(body) });
    }
    Ok(documents)
}

struct PostgresRegistryLock {
    loan: Loan,
    revision: u64,
    newer: Option<Revised>,
    notifier: std::sync::Arc<Notifier>,
}

#[async_trait]
impl RegistryLock for PostgresRegistryLock {
    fn newer(&mut self) -> Option<Revised> {
        self.newer.take()
    }

    async fn commit(mut self: Box<Self>, changes: Vec<Change>) -> Result<u64> {
        let session = self.loan.session()?;
        if let Err(error) = change(session, &changes).await {
            session.roll_back().await;
            return Err(error);
        }
        self.notifier.notify(NodeMessage::Resources);
        Ok(self.revision + 1)
    }

    async fn give_up(mut self: Box<Self>) {
        if let Ok(session) = self.loan.session() {
            session.roll_back().await;
        }
    }
}

async fn change(session: &mut Session, changes: &[Change]) -> Result<()> {
    for change in changes {
        match change {
            Change::Put(Document { kind, id, body }) => {
                let sql = "INSERT INTO documents (kind, id, body) VALUES ($1, $2, $3) \
                           ON CONFLICT (kind, id) DO UPDATE SET body = $3";
                session.execute(sql, &[kind, &Uuid(*id), &&body.bytes()[..]]).await?;
            }
            Change::Delete { kind, id } => {
                let sql = "DELETE FROM documents WHERE kind = $1 AND id = $2";
                session.execute(sql, &[kind, &Uuid(*id)]).await?;
            }
        }
    }
    session.execute(MOVE, &[]).await?;
    session.commit().await
}
