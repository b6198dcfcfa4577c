//! One session with the database. Whoever waits for an answer looks after a while whether there is
//! still somebody who could give it: a server that hangs, or a network that swallows everything, must
//! not make anybody wait for as long as a slow answer may take.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use tokio_postgres::{Client, Row, Statement, error::SqlState, types::ToSql};

use super::connect::Connector;
use crate::store::Result;

pub(super) const BEGIN: &str = "BEGIN";
pub(super) const COMMIT: &str = "COMMIT";

/// What goes with a statement.
pub(super) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// After so long without an answer the database is asked, over a session of its own, whether it is there.
const DOUBT: Duration = Duration::from_secs(3);
/// Longer than any statement may take: then this session alone has lost its server.
pub(super) const TIMEOUT: u32 = 25;

/// What a session hangs by.
pub(super) struct Link {
    pub connector: Arc<Connector>,
    pub driver: tokio::task::AbortHandle,
    pub generation: u64,
    /// How often an answer is doubted.
    pub timeout: u32,
}

impl Link {
    /// The answer to a call. When none can come any more, the session ends, and so does the call.
    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, tokio_postgres::Error> {
        let mut call = std::pin::pin!(call);
        let mut doubts = 0;
        let answer = loop {
            let since = Instant::now();
            if let Ok(answer) = tokio::time::timeout(DOUBT, &mut call).await {
                break answer;
            }
            doubts += 1;
            if !self.connector.check(since).await || doubts == self.timeout {
                // Then the call fails, since nobody reads its answer.
                self.driver.abort();
            }
        };
        if let Err(error) = &answer
            && error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
        {
            tracing::warn!("the server cannot be written any more; looking for the one that can");
            self.connector.leave(self.generation);
        }
        answer
    }
}

/// One session, used by one caller at a time.
pub(super) struct Session {
    pub client: Client,
    statements: HashMap<&'static str, Statement>,
    /// Set while a transaction is open, so that nobody else gets the session then.
    pub in_transaction: bool,
    link: Link,
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whoever goes in the middle of a transaction leaves a session that the database must undo.
        if self.in_transaction {
            self.link.driver.abort();
        }
    }
}

impl Session {
    pub(super) fn new(client: Client, link: Link) -> Self {
        Self { client, statements: HashMap::new(), in_transaction: false, link }
    }

    pub fn is_usable(&self) -> bool {
        let is_right = self.link.generation == self.link.connector.generation();
        is_right && !self.in_transaction && !self.client.is_closed()
    }

    /// Its statements may take as long as they do, as long as the database is there.
    pub fn be_patient(&mut self) {
        self.link.timeout = u32::MAX;
    }

    /// Prepared once a session.
    pub async fn statement(&mut self, sql: &'static str) -> Result<Statement> {
        if let Some(found) = self.statements.get(sql) {
            return Ok(found.clone());
        }
        let prepared = self.link.answer(self.client.prepare(sql)).await?;
        self.statements.insert(sql, prepared.clone());
        Ok(prepared)
    }

    pub async fn query(&mut self, sql: &'static str, values: Values<'_>) -> Result<Vec<Row>> {
        let statement = self.statement(sql).await?;
        Ok(self.link.answer(self.client.query(&statement, values)).await?)
    }

    pub async fn execute(&mut self, sql: &'static str, values: Values<'_>) -> Result<u64> {
        let statement = self.statement(sql).await?;
        Ok(self.link.answer(self.client.execute(&statement, values)).await?)
    }

    /// Sends all of them at once, and waits for all. With [`BEGIN`] first and [`COMMIT`] last, or in a
    /// transaction that is open, nothing behind one that fails has an effect.
    pub async fn pipeline(
        &mut self,
        steps: &[(&'static str, Values<'_>)],
    ) -> Result<Vec<Vec<Row>>, tokio_postgres::Error> {
        let mut statements = Vec::with_capacity(steps.len());
        for (sql, _) in steps {
            statements.push(match self.statements.get(sql) {
                Some(found) => found.clone(),
                None => {
                    let prepared = self.link.answer(self.client.prepare(sql)).await?;
                    self.statements.insert(sql, prepared.clone());
                    prepared
                }
            });
        }
        if steps.first().is_some_and(|it| it.0 == BEGIN) {
            self.in_transaction = true;
        }
        let calls = statements.iter().zip(steps).map(|(it, step)| self.client.query(it, step.1));
        let all = futures_util::future::join_all(calls);
        // The first failure is the cause of those behind it.
        let all = async { all.await.into_iter().collect::<Result<Vec<_>, _>>() };
        let found = self.link.answer(all).await?;
        if steps.last().is_some_and(|it| it.0 == COMMIT) {
            self.in_transaction = false;
        }
        Ok(found)
    }

    /// Statements without values.
    pub async fn batch(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.link.answer(self.client.batch_execute(sql)).await
    }

    /// A statement that is not worth preparing.
    pub async fn ask(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>> {
        Ok(self.link.answer(self.client.query(sql, values)).await?)
    }

    /// Rows one by one, until they are enough.
    pub async fn read(
        &self,
        statement: &(impl tokio_postgres::ToStatement + ?Sized + Sync),
        values: Values<'_>,
        mut take: impl FnMut(&Row) -> Result<bool>,
    ) -> Result<()> {
        let values = values.iter().copied();
        let found = self.link.answer(self.client.query_raw(statement, values)).await?;
        let mut found = std::pin::pin!(found);
        while let Some(row) = self.link.answer(found.try_next()).await? {
            if !take(&row)? {
                break;
            }
        }
        Ok(())
    }

    pub async fn begin(&mut self) -> Result<()> {
        self.in_transaction = true;
        Ok(self.batch(BEGIN).await?)
    }

    pub async fn commit(&mut self) -> Result<()> {
        self.batch(COMMIT).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// When it fails, the session is not used again.
    pub async fn roll_back(&mut self) {
        if self.in_transaction && self.batch("ROLLBACK").await.is_ok() {
            self.in_transaction = false;
        }
    }
}
