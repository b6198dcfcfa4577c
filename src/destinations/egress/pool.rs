//! Idle connections of one endpoint, the last used on top.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::connection::Connection;

/// How many idle connections there are in all pools together.
pub(super) struct Counter {
    count: AtomicUsize,
    most: usize,
}

impl Counter {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), most })
    }
}

/// A place in the count, given back when it is dropped.
struct CountedConnection(Arc<Counter>);

impl CountedConnection {
    fn try_new(counter: &Arc<Counter>) -> Option<Self> {
        let next = |count| (count < counter.most).then_some(count + 1);
        counter.count.fetch_update(Relaxed, Relaxed, next).ok()?;
        Some(Self(counter.clone()))
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Relaxed);
    }
}

pub(super) struct ConnectionPool {
    idle: Mutex<IdleConnection>,
    most: usize,
    counter: Arc<Counter>,
}

#[derive(Default)]
struct IdleConnection {
    connections: Vec<(Box<Connection>, CountedConnection)>,
    /// A task is looking after them.
    is_swept: bool,
}

impl ConnectionPool {
    /// How often idle connections are looked after, so that neither an expired one nor one that the
    /// other side closed stays open for much longer.
    const SWEEP: Duration = Duration::from_secs(5);

    pub fn new(most: usize, counter: Arc<Counter>) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), most, counter })
    }

    /// A connection that lives, as far as can be known.
    pub fn take(&self) -> Option<Box<Connection>> {
        loop {
            // The guard goes before the look at the socket.
            let (mut connection, _) = self.lock().connections.pop()?;
            if connection.is_alive(Instant::now()) {
                return Some(connection);
            }
        }
    }

    /// Keeps the connection, or closes it where there is no room.
    pub fn put(self: &Arc<Self>, connection: Box<Connection>) {
        let Some(counted) = CountedConnection::try_new(&self.counter) else { return };
        let mut idle = self.lock();
        if idle.connections.len() >= self.most {
            return;
        }
        idle.connections.push((connection, counted));
        if !idle.is_swept {
            idle.is_swept = true;
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes what has expired or was closed by the other side. Whether any are left.
    fn clear(&self) -> bool {
        let now = Instant::now();
        let mut idle = self.lock();
        idle.connections.retain_mut(|(connection, _)| connection.is_alive(now));
        idle.is_swept = !idle.connections.is_empty();
        idle.is_swept
    }

    fn lock(&self) -> MutexGuard<'_, IdleConnection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends with the pool, or when nothing in it is idle.
async fn sweep(pool: Weak<ConnectionPool>) {
    loop {
        tokio::time::sleep(ConnectionPool::SWEEP).await;
        if !pool.upgrade().is_some_and(|it| it.clear()) {
            return;
        }
    }
}
