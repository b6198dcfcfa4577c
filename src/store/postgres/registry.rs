//! Resources: documents with an id.

use async_trait::async_trait;

use super::{PostgresStore, connect::Connection, values::Uuid};
use crate::{
    model::RawJson,
    store::{Change, Document, Registry, Result},
};

/// Heard by whoever wants to know that resources have changed.
const TELL: &str = "SELECT pg_notify('tidegate', 'documents')";

#[async_trait]
impl Registry for PostgresStore {
    async fn load(&self) -> Result<Vec<Document>> {
        let mut loan = self.core.session().await?;
        let sql = "SELECT kind, id, body FROM documents ORDER BY kind, id";
        let mut documents = Vec::new();
        for row in loan.session()?.query(sql, &[]).await? {
            let id: Uuid = row.try_get(1)?;
            let body: Vec<u8> = row.try_get(2)?;
            let kind = row.try_get(0)?;
            documents.push(Document { kind, id: id.0, body: RawJson::trusted(body) });
        }
        Ok(documents)
    }

    async fn change(&self, changes: Vec<Change>) -> Result<()> {
        let mut loan = self.core.session().await?;
        let session = loan.session()?;
        let result = change(session, &changes).await;
        if result.is_err() {
            session.roll_back().await;
        }
        result
    }
}

async fn change(session: &mut Connection, changes: &[Change]) -> Result<()> {
    session.begin().await?;
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
    session.query(TELL, &[]).await?;
    session.commit().await
}
