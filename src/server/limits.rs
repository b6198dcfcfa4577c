//! How many connections there may be, and what the ones too many are told.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};

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
    /// Refused connections that are still being told so.
    lingering: Arc<Semaphore>,
}

/// One connection's place, given back when it is dropped.
pub struct Slot {
    _permit: OwnedSemaphorePermit,
    _by_ip: Option<IpSlot>,
}

struct IpSlot {
    ip: IpAddr,
    by_ip: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

pub enum Admission {
    Admitted(Slot),
    /// With leave to say so, unless too many are being told already.
    Refused(Option<OwnedSemaphorePermit>),
}

impl Slots {
    /// One address has `per_ip` at most; if that is not given, half of all. This machine's own and `exempt`
    /// stand for many.
    pub fn new(connections: Option<usize>, per_ip: Option<usize>, exempt: &[IpAddr]) -> Self {
        /// Connections that may be told at once that they are too many.
        const LINGERING: usize = 64;
        let connections = connections.unwrap_or_else(|| open_files() / 5 * 4);
        // A limit that somebody wrote down holds for everybody.
        let is_default = per_ip.is_none();
        Self {
            free: Arc::new(Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS))),
            per_ip: per_ip.unwrap_or_else(|| (connections / 2).max(1)),
            is_default,
            exempt: exempt.iter().map(IpAddr::to_canonical).collect(),
            by_ip: Arc::default(),
            lingering: Arc::new(Semaphore::new(LINGERING)),
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
                metrics::counter!("tidegate_connections_total").increment(1);
                Admission::Admitted(Slot { _permit: permit, _by_ip: by_ip })
            }
            _ => {
                metrics::counter!("tidegate_connections_refused_total").increment(1);
                Admission::Refused(self.lingering.clone().try_acquire_owned().ok())
            }
        }
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
        let told = async {
            stream.write_all(&answer).await?;
            stream.shutdown().await?;
            // A socket that is closed with unread bytes resets the connection, and the client may
            // lose the answer.
            let mut unread = [0; 4096];
            while stream.read(&mut unread).await? > 0 {}
            std::io::Result::Ok(())
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
    });
}

/// The files that the process may open at once. Linux tells; elsewhere a common default is taken.
fn open_files() -> usize {
    const COMMON: usize = 1024;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next());
    match soft {
        Some("unlimited") => 1 << 20,
        Some(number) => number.parse().unwrap_or(COMMON),
        None => COMMON,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(slots: &Slots, ip: &str, times: usize) -> Vec<Slot> {
        let admit = |_| match slots.admit(ip.parse().unwrap()) {
            Admission::Admitted(slot) => Some(slot),
            Admission::Refused(_) => None,
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
