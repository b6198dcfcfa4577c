//! How many connections there may be, and what those too many are answered.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{budget::ConnectionBudget, connection::Phase};
use crate::problem::{Kind, Problem};

/// The connections that there may be, all together and from one address.
pub struct Slots {
    free: Arc<Semaphore>,
    per_ip: usize,
    /// Nobody said how many an address may have.
    is_default: bool,
    /// Addresses without a limit of their own.
    exempt: Vec<IpAddr>,
    by_ip: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Refused connections that are still being answered so, and those that wait for a place.
    lingering: Arc<Semaphore>,
    seats: Arc<Mutex<Seats>>,
}

/// Who has a place, in the order in which they came.
#[derive(Default)]
struct Seats {
    next: u64,
    taken: BTreeMap<u64, Phase>,
}

/// One connection's place, given back when it is dropped.
pub struct ConnectionSlot {
    pub phase: Phase,
    seat: u64,
    seats: Arc<Mutex<Seats>>,
    _permit: OwnedSemaphorePermit,
    _by_ip: Option<IpSlot>,
}

impl ConnectionSlot {
    fn new(seats: Arc<Mutex<Seats>>, permit: OwnedSemaphorePermit, by_ip: Option<IpSlot>) -> Self {
        metrics::counter!("tidegate_connections_total").increment(1);
        let phase = Phase::new();
        let seat = {
            let mut seats = lock(&seats);
            seats.next += 1;
            let seat = seats.next;
            seats.taken.insert(seat, phase.clone());
            seat
        };
        Self { phase, seat, seats, _permit: permit, _by_ip: by_ip }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        lock(&self.seats).taken.remove(&self.seat);
    }
}

/// A connection for which another one is let go.
pub struct WaitingConnection {
    free: Arc<Semaphore>,
    seats: Arc<Mutex<Seats>>,
    by_ip: Option<IpSlot>,
    linger: OwnedSemaphorePermit,
}

impl WaitingConnection {
    /// Its place, or leave to say that there is none.
    pub async fn place(self) -> Result<ConnectionSlot, OwnedSemaphorePermit> {
        /// So long it may take until the other one has closed.
        const TIMEOUT: Duration = Duration::from_millis(500);
        match tokio::time::timeout(TIMEOUT, self.free.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(ConnectionSlot::new(self.seats, permit, self.by_ip)),
            Ok(Err(_)) | Err(_) => Err(self.linger),
        }
    }
}

struct IpSlot {
    ip: IpAddr,
    by_ip: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

pub enum Admission {
    Admitted(ConnectionSlot),
    /// Once one that only waits is gone.
    Soon(WaitingConnection),
    /// With leave to say so, unless too many are being answered already.
    Refused(Option<OwnedSemaphorePermit>),
}

impl Slots {
    /// One address has `per_ip` at most; if that is not given, half of all. This machine's own and `exempt`
    /// stand for many.
    pub fn new(connections: Option<usize>, per_ip: Option<usize>, exempt: &[IpAddr]) -> Self {
        /// Connections that may be answered at once that they are too many.
        const LINGERING: usize = 64;
        let connections =
            connections.unwrap_or_else(|| ConnectionBudget::of_this_process().connections);
        let lingering = LINGERING.min(connections / 4).max(1);
        // A limit that somebody wrote down holds for everybody.
        let is_default = per_ip.is_none();
        Self {
            seats: Arc::default(),
            free: Arc::new(Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS))),
            per_ip: per_ip.unwrap_or_else(|| (connections / 2).max(1)),
            is_default,
            exempt: exempt.iter().map(IpAddr::to_canonical).collect(),
            by_ip: Arc::default(),
            lingering: Arc::new(Semaphore::new(lingering)),
        }
    }

    pub fn admit(&self, ip: IpAddr) -> Admission {
        let permit = self.free.clone().try_acquire_owned().ok();
        let ip = ip.to_canonical();
        let is_free = self.exempt.contains(&ip) || (self.is_default && ip.is_loopback());
        let by_ip = match is_free {
            true => Ok(None),
            false => self.admit_ip(ip, self.per_ip).map(Some).ok_or(()),
        };
        match (permit, by_ip) {
            (Some(permit), Ok(by_ip)) => {
                Admission::Admitted(ConnectionSlot::new(self.seats.clone(), permit, by_ip))
            }
            (None, Ok(by_ip)) => match self.let_one_go(by_ip) {
                Some(waiting) => Admission::Soon(waiting),
                None => self.refused(),
            },
            (_, Err(())) => self.refused(),
        }
    }

    fn refused(&self) -> Admission {
        metrics::counter!("tidegate_connections_refused_total").increment(1);
        Admission::Refused(self.lingering.clone().try_acquire_owned().ok())
    }

    /// Has the connection closed whose client has been waited for the longest, and for a while.
    fn let_one_go(&self, by_ip: Option<IpSlot>) -> Option<WaitingConnection> {
        /// A client that is at work has a pause between two requests.
        const A_WHILE: Duration = Duration::from_secs(1);
        let linger = self.lingering.clone().try_acquire_owned().ok()?;
        let longest = {
            let seats = lock(&self.seats);
            let free = seats.taken.values().filter(|it| !it.is_let_go());
            let waits = free.filter_map(|it| it.waits().map(|waited| (waited, it)));
            let longest = waits.filter(|it| it.0 >= A_WHILE).max_by_key(|it| it.0);
            longest.map(|it| it.1.clone())
        };
        longest?.let_go();
        metrics::counter!("tidegate_connections_let_go_total").increment(1);
        Some(WaitingConnection {
            free: self.free.clone(),
            seats: self.seats.clone(),
            by_ip,
            linger,
        })
    }

    fn admit_ip(&self, ip: IpAddr, limit: usize) -> Option<IpSlot> {
        let mut by_ip = lock(&self.by_ip);
        let open = by_ip.entry(ip).or_insert(0);
        if *open >= limit {
            return None;
        }
        *open += 1;
        Some(IpSlot { ip, by_ip: self.by_ip.clone() })
    }
}

impl Drop for IpSlot {
    fn drop(&mut self) {
        let mut by_ip = lock(&self.by_ip);
        if let Some(open) = by_ip.get_mut(&self.ip) {
            *open -= 1;
            if *open == 0 {
                by_ip.remove(&self.ip);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Tells a connection too many to come back, for a second at most, without reading its request.
pub fn refuse(mut stream: TcpStream, linger: Option<OwnedSemaphorePermit>) {
    let Some(linger) = linger else { return };
    tokio::spawn(async move {
        let _linger = linger;
        let answer = Problem::new(Kind::TooManyConnections)
            .retry_after(Duration::from_secs(1))
            .to_closing_response();
        let reported = async {
            stream.write_all(&answer).await?;
            stream.shutdown().await?;
            // A socket that is closed with unread bytes resets the connection, and the client may
            // lose the answer.
            let mut unread = [0; 4096];
            while stream.read(&mut unread).await? > 0 {}
            std::io::Result::Ok(())
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), reported).await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(slots: &Slots, ip: &str, times: usize) -> Vec<ConnectionSlot> {
        let admit = |_| match slots.admit(ip.parse().unwrap()) {
            Admission::Admitted(slot) => Some(slot),
            Admission::Soon(_) | Admission::Refused(_) => None,
        };
        (0..times).filter_map(admit).collect()
    }

    #[test]
    fn one_address_has_half_of_the_connections() {
        let proxy = "10.0.0.1".parse().unwrap();
        let slots = Slots::new(Some(10), None, &[proxy]);
        let held = admitted(&slots, "192.0.2.1", 10);
        assert_eq!(held.len(), 5);
        assert_eq!(admitted(&slots, "::ffff:192.0.2.1", 1).len(), 0, "the same address");
        assert_eq!(admitted(&slots, "192.0.2.2", 5).len(), 5, "another one");
        drop(held);
        // Who stands for many has no limit but the one for all.
        for ip in ["127.0.0.1", "::1", "10.0.0.1"] {
            assert_eq!(admitted(&slots, ip, 10).len(), 10, "{ip}");
        }
        let slots = Slots::new(Some(10), Some(3), &[proxy]);
        for (ip, expected) in [("127.0.0.1", 3), ("192.0.2.1", 3), ("10.0.0.1", 10)] {
            assert_eq!(admitted(&slots, ip, 10).len(), expected, "{ip}");
        }
    }
}
