//! Connections: made when they are needed, kept for the next, and made again after the database was
//! gone. Nothing waits for a database that is known to be gone: who comes meanwhile hears at once that
//! it is unavailable, and one task asks again and again whether it is there.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_postgres::{Client, Config, Notification, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;

pub(super) use super::session::{BEGIN, COMMIT, Session, Values};
use super::{
    address::Address,
    error::{DatabaseMessage, unavailable},
    lock,
    notifier::drive,
    session::{self, Link},
    tls::tls,
};
use crate::store::{Result, StoreError};

/// How long one server may take until a session with it is there.
const CONNECT: Duration = Duration::from_secs(3);
/// Before the next try, after one that failed; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What every session begins with. Row locks of a node that froze must not stay for ever, and plans
/// must not change with what statistics say of tables that are a second old: all of ours are
/// look-ups by an index.
const SESSION: &str = "SET synchronous_commit = on; SET jit = off; SET lock_timeout = '8s'; \
     SET idle_in_transaction_session_timeout = '5s'; SET statement_timeout = '60s'; \
     SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; \
     SET client_min_messages = warning";

pub(super) struct Connector {
    /// The servers of the database.
    servers: Vec<Config>,
    /// The one that could be written last.
    server: AtomicUsize,
    tls: MakeRustlsConnect,
    is_gone: AtomicBool,
    /// It has answered before.
    was_there: AtomicBool,
    /// Sessions of an earlier one are with a server that is gone or cannot be written any more.
    generation: AtomicU64,
    /// Since when an answer counts to whether the database is there.
    pulse: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

impl Connector {
    pub fn new(address: &Address) -> Result<Self> {
        let mut servers = address.servers();
        for server in &mut servers {
            server
                .application_name("tidegate")
                .connect_timeout(CONNECT)
                .keepalives_idle(Duration::from_secs(10))
                .keepalives_interval(Duration::from_secs(3))
                .keepalives_retries(3)
                .tcp_user_timeout(Duration::from_secs(10));
        }
        metrics::gauge!("tidegate_store_reachable").set(1.0);
        Ok(Self {
            servers,
            server: AtomicUsize::new(0),
            tls: tls(address)?,
            is_gone: AtomicBool::new(false),
            was_there: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            pulse: tokio::sync::Mutex::default(),
        })
    }

    /// Whether it was not there when it was asked last.
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    /// Sessions of another generation are not used again.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A session that hears what others tell; its end ends the notifications. It is with the server that
    /// could be written last.
    pub async fn connect_to_listen(
        &self,
        notifications: mpsc::Sender<Notification>,
    ) -> Result<Client> {
        let silence = || unavailable("the database does not answer");
        let server = self.servers.get(self.server.load(Ordering::Acquire)).ok_or_else(silence)?;
        let connected = tokio::time::timeout(CONNECT, server.connect(self.tls.clone())).await;
        let (client, connection) = connected.map_err(|_| silence())??;
        tokio::spawn(drive(connection, notifications));
        Ok(client)
    }

    pub async fn connect(self: &Arc<Self>) -> Result<Session> {
        if self.is_gone() {
            return Err(unavailable("the database is gone; it is asked again and again"));
        }
        self.reach().await.map_err(|failure| {
            if !failure.is_an_answer {
                self.lose(self.generation(), &failure.error);
            }
            failure.error
        })
    }

    /// A session with the first server that can be written.
    async fn reach(self: &Arc<Self>) -> Result<Session, ConnectFailure> {
        let first = self.server.load(Ordering::Acquire);
        let mut answer = None;
        for place in (first..self.servers.len()).chain(0..first) {
            let generation = self.generation();
            let opened = tokio::time::timeout(CONNECT, self.open(place, generation)).await;
            match opened.unwrap_or_else(|_| Err(ConnectFailure::silence())) {
                Ok(connection) => {
                    self.server.store(place, Ordering::Release);
                    self.was_there.store(true, Ordering::Release);
                    return Ok(connection);
                }
                Err(failure) => match &answer {
                    // What a server that answers says is worth more than silence.
                    Some(ConnectFailure { is_an_answer: true, .. }) if !failure.is_an_answer => (),
                    _ => answer = Some(failure),
                },
            }
        }
        Err(answer.unwrap_or_else(ConnectFailure::silence))
    }

    async fn open(
        self: &Arc<Self>,
        place: usize,
        generation: u64,
    ) -> Result<Session, ConnectFailure> {
        let server = self.servers.get(place).ok_or_else(ConnectFailure::silence)?;
        let (client, connection) = server.connect(self.tls.clone()).await?;
        let connector = Arc::downgrade(self);
        // It ends when the client is dropped or the connection breaks; then every call says so.
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                let error = DatabaseMessage::of(&error);
                tracing::warn!(%error, "a connection to the database broke");
                metrics::counter!("tidegate_store_connections_broken_total").increment(1);
                if let Some(connector) = connector.upgrade() {
                    connector.doubt().await;
                }
            }
        });
        let timeout = session::TIMEOUT;
        let link =
            Link { connector: self.clone(), driver: driver.abort_handle(), generation, timeout };
        let connection = Session::new(client, link);
        connection.client.batch_execute(SESSION).await?;
        Ok(connection)
    }

    /// Whether the database is there: one question at a time, unless one was asked since. When nothing
    /// answers, it is gone.
    pub async fn check(self: &Arc<Self>, since: Instant) -> bool {
        if self.is_gone() {
            return false;
        }
        let mut pulse = self.pulse.lock().await;
        if let Some((at, is_there)) = *pulse
            && at >= since
        {
            return is_there;
        }
        let (now, generation) = (Instant::now(), self.generation());
        let is_there = match self.reach().await {
            Ok(_) => true,
            Err(failure) => {
                if !failure.is_an_answer {
                    self.lose(generation, &failure.error);
                }
                failure.is_an_answer
            }
        };
        *pulse = Some((now, is_there));
        is_there
    }

    /// Asks now. Boxed, since sessions are made by what sessions ask for.
    fn doubt(self: Arc<Self>) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        Box::pin(async move { self.check(Instant::now()).await })
    }

    /// The sessions of a generation are good for nothing any more; one with the server that is right
    /// may be had at once.
    pub fn leave(&self, generation: u64) {
        // Others may have found out before.
        let next = generation + 1;
        let _ =
            self.generation.compare_exchange(generation, next, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The database is gone: from now on one task asks for it.
    fn lose(self: &Arc<Self>, generation: u64, error: &StoreError) {
        self.leave(generation);
        // At a start nothing is accepted yet, and whoever starts it gets the error.
        if !self.was_there.load(Ordering::Acquire) {
            return;
        }
        if self.is_gone.swap(true, Ordering::AcqRel) {
            return;
        }
        let error = error as &dyn std::error::Error;
        tracing::error!(error, "the database is gone; nothing is accepted until it is back");
        metrics::gauge!("tidegate_store_reachable").set(0.0);
        tokio::spawn(look_out(Arc::downgrade(self)));
    }
}

/// Asks until the database is there, or nobody needs it.
async fn look_out(connector: Weak<Connector>) {
    let mut wait = FIRST_WAIT;
    loop {
        tokio::time::sleep(wait).await;
        let Some(connector) = connector.upgrade() else { return };
        if connector.reach().await.is_ok() {
            tracing::info!("the database is there again");
            metrics::gauge!("tidegate_store_reachable").set(1.0);
            connector.is_gone.store(false, Ordering::Release);
            return;
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Why there is no session.
struct ConnectFailure {
    error: StoreError,
    /// A server that works said it, so that sessions that are there may go on.
    is_an_answer: bool,
}

impl ConnectFailure {
    fn silence() -> Self {
        Self { error: unavailable("the database does not answer"), is_an_answer: false }
    }
}

impl From<tokio_postgres::Error> for ConnectFailure {
    fn from(error: tokio_postgres::Error) -> Self {
        let is_an_answer = error.code().is_some_and(|it| *it == SqlState::TOO_MANY_CONNECTIONS);
        Self { error: error.into(), is_an_answer }
    }
}

/// Sessions for those who read, or write now and then.
pub(super) struct SessionPool {
    connector: Arc<Connector>,
    idle: Mutex<Vec<Session>>,
    turns: Arc<Semaphore>,
}

/// A session on loan. It goes back when it is dropped, if it is whole.
pub(super) struct Loan {
    connection: Option<Session>,
    pool: Arc<SessionPool>,
    _turn: OwnedSemaphorePermit,
}

impl SessionPool {
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
    pub fn session(&mut self) -> Result<&mut Session> {
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
