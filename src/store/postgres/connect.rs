//! Connections: made when they are needed, kept for the next, and made again after the database was
//! gone. Nothing waits for a database that is known to be gone: it is asked again a little later each
//! time, and who comes meanwhile hears at once that it is unavailable.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_postgres::{Client, Config, Notification, Row, Statement, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{address::Address, bell::drive, error::unavailable, lock, tls::tls};
use crate::store::{Result, StoreError};

pub(super) const BEGIN: &str = "BEGIN";
pub(super) const COMMIT: &str = "COMMIT";

/// What goes with a statement.
pub(super) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Before the next try, after one that failed; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What every session begins with. Row locks of a node that froze must not stay for ever, and plans
/// must not change with what statistics say of tables that are a second old: all of ours are
/// look-ups by an index.
const SESSION: &str = "SET synchronous_commit = on; SET jit = off; SET lock_timeout = '20s'; \
     SET idle_in_transaction_session_timeout = '5s'; SET statement_timeout = '60s'; \
     SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; \
     SET client_min_messages = warning";

pub(super) struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
    failures: Mutex<Failures>,
    is_gone: AtomicBool,
}

#[derive(Default)]
struct Failures {
    wait: Duration,
    next: Option<Instant>,
}

impl Connector {
    pub fn new(address: &Address) -> Result<Self> {
        let mut config = address.config().clone();
        config
            .application_name("tidegate")
            .connect_timeout(CONNECT)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(3))
            .tcp_user_timeout(Duration::from_secs(10));
        let tls = tls().map_err(|it| StoreError::Unavailable(Box::new(it)))?;
        Ok(Self { config, tls, failures: Mutex::default(), is_gone: AtomicBool::new(false) })
    }

    /// Whether the last try failed.
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    pub async fn connect(&self) -> Result<Connection> {
        if lock(&self.failures).next.is_some_and(|it| Instant::now() < it) {
            return Err(unavailable("the database is gone; it is tried again soon"));
        }
        match self.try_connect().await {
            Ok(connection) => {
                *lock(&self.failures) = Failures::default();
                if self.is_gone.swap(false, Ordering::AcqRel) {
                    tracing::info!("the database is there again");
                }
                Ok(connection)
            }
            Err(error) => {
                let mut failures = lock(&self.failures);
                failures.wait = (failures.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
                failures.next = Some(Instant::now() + failures.wait);
                if !self.is_gone.swap(true, Ordering::AcqRel) {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "the database is gone");
                }
                Err(error)
            }
        }
    }

    /// A session that hears what others tell; its end ends the notifications.
    pub async fn connect_to_listen(
        &self,
        notifications: mpsc::Sender<Notification>,
    ) -> Result<Client> {
        let connected = tokio::time::timeout(CONNECT, self.config.connect(self.tls.clone())).await;
        let (client, connection) =
            connected.map_err(|_| unavailable("the database does not answer"))??;
        tokio::spawn(drive(connection, notifications));
        Ok(client)
    }

    async fn try_connect(&self) -> Result<Connection> {
        let connected = tokio::time::timeout(CONNECT, self.config.connect(self.tls.clone())).await;
        let (client, connection) =
            connected.map_err(|_| unavailable("the database does not answer"))??;
        // It ends when the client is dropped or the connection breaks; then every call says so.
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                let error = super::error::Told::of(&error);
                tracing::warn!(%error, "a connection to the database broke");
            }
        });
        let connection = Connection {
            client,
            statements: HashMap::new(),
            in_transaction: false,
            driver: driver.abort_handle(),
        };
        connection.client.batch_execute(SESSION).await?;
        Ok(connection)
    }
}

/// One session, used by one caller at a time.
pub(super) struct Connection {
    pub client: Client,
    statements: HashMap<&'static str, Statement>,
    /// Set while a transaction is open, so that nobody else gets the session then.
    pub in_transaction: bool,
    driver: tokio::task::AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Whoever goes in the middle of a transaction leaves a session that the database must undo.
        if self.in_transaction {
            self.driver.abort();
        }
    }
}

impl Connection {
    pub fn is_usable(&self) -> bool {
        !self.in_transaction && !self.client.is_closed()
    }

    /// Prepared once a session.
    pub async fn statement(&mut self, sql: &'static str) -> Result<Statement> {
        if let Some(found) = self.statements.get(sql) {
            return Ok(found.clone());
        }
        let prepared = self.client.prepare(sql).await?;
        self.statements.insert(sql, prepared.clone());
        Ok(prepared)
    }

    pub async fn query(&mut self, sql: &'static str, values: Values<'_>) -> Result<Vec<Row>> {
        let statement = self.statement(sql).await?;
        Ok(self.client.query(&statement, values).await?)
    }

    pub async fn execute(&mut self, sql: &'static str, values: Values<'_>) -> Result<u64> {
        let statement = self.statement(sql).await?;
        Ok(self.client.execute(&statement, values).await?)
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
                    let prepared = self.client.prepare(sql).await?;
                    self.statements.insert(sql, prepared.clone());
                    prepared
                }
            });
        }
        if steps.first().is_some_and(|it| it.0 == BEGIN) {
            self.in_transaction = true;
        }
        let calls = statements.iter().zip(steps).map(|(it, step)| self.client.query(it, step.1));
        let results = futures_util::future::join_all(calls).await;
        let found = results.into_iter().collect::<Result<Vec<_>, _>>()?;
        if steps.last().is_some_and(|it| it.0 == COMMIT) {
            self.in_transaction = false;
        }
        Ok(found)
    }

    pub async fn begin(&mut self) -> Result<()> {
        self.in_transaction = true;
        Ok(self.client.batch_execute("BEGIN").await?)
    }

    pub async fn commit(&mut self) -> Result<()> {
        self.client.batch_execute("COMMIT").await?;
        self.in_transaction = false;
        Ok(())
    }

    /// When it fails, the session is not used again.
    pub async fn roll_back(&mut self) {
        if self.in_transaction && self.client.batch_execute("ROLLBACK").await.is_ok() {
            self.in_transaction = false;
        }
    }
}

/// Sessions for those who read, or write now and then.
pub(super) struct Pool {
    connector: Arc<Connector>,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
}

/// A session on loan. It goes back when it is dropped, if it is whole.
pub(super) struct Loan {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    _turn: OwnedSemaphorePermit,
}

impl Pool {
    pub fn new(connector: Arc<Connector>, size: usize) -> Arc<Self> {
        let turns = Arc::new(Semaphore::new(size.max(1)));
        Arc::new(Self { connector, idle: Mutex::default(), turns })
    }

    pub async fn get(self: &Arc<Self>) -> Result<Loan> {
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let kept = loop {
            let kept = lock(&self.idle).pop();
            match kept {
                Some(it) if !it.is_usable() => (),
                other => break other,
            }
        };
        let connection = match kept {
            Some(kept) => kept,
            None => self.connector.connect().await?,
        };
        Ok(Loan { connection: Some(connection), pool: self.clone(), _turn: turn })
    }

    /// Nobody gets one any more.
    pub fn close(&self) {
        self.turns.close();
        lock(&self.idle).clear();
    }
}

impl Loan {
    /// The session. It is there until the loan is dropped.
    pub fn session(&mut self) -> Result<&mut Connection> {
        self.connection.as_mut().ok_or(StoreError::Closed)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && connection.is_usable()
            && !self.pool.turns.is_closed()
        {
            lock(&self.pool.idle).push(connection);
        }
    }
}
