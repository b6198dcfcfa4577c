//! The room for bodies that are being read: shared by all, but not by everybody alike.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The bytes that all bodies together may take while they are read and parsed. Those of strangers have a
/// part of it, and those of one address a part of that, so that nobody takes it from who is known.
#[derive(Clone)]
pub struct BodyBudget(Arc<Shared>);

struct Shared {
    limit: usize,
    /// By all; by all but those who are verified; by those of whom nothing is known.
    taken: [AtomicUsize; 3],
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// What is known of a sender before its body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderClass {
    /// It has shown a secret.
    Verified,
    /// It has named a source by a key that pages may hold.
    Named(IpAddr),
    Stranger(IpAddr),
}

/// Leave to read one body.
#[derive(Clone, Copy)]
pub struct Pass<'r> {
    pub room: &'r BodyBudget,
    pub sender: SenderClass,
}

/// The part of a [`Room`] that one body takes.
pub struct Lease {
    room: BodyBudget,
    sender: SenderClass,
    bytes: usize,
}

impl SenderClass {
    /// How many of the counters it moves.
    fn counters(self) -> usize {
        match self {
            Self::Verified => 1,
            Self::Named(_) => 2,
            Self::Stranger(_) => 3,
        }
    }

    fn address(self) -> Option<IpAddr> {
        match self {
            Self::Verified => None,
            Self::Named(ip) | Self::Stranger(ip) => Some(neighbourhood(ip)),
        }
    }
}

/// The address that one customer of a provider has: of IPv6 the first 64 bits.
fn neighbourhood(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

impl BodyBudget {
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { limit, taken: Default::default(), by_address: Mutex::default() }))
    }

    /// How much the first so many counters may hold: everything, three quarters, a half.
    fn limit(&self, counter: usize) -> usize {
        self.0.limit / 4 * (4 - counter) + self.0.limit % 4
    }

    /// What those of one address may hold who are not verified.
    fn limit_of_address(&self) -> usize {
        /// The largest body that a webhook may have, by default.
        const ONE: usize = 1024 * 1024;
        (self.0.limit / 8).max(ONE.min(self.limit(2)))
    }

    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.0.taken[0].load(Ordering::Relaxed)
    }

    fn grow(&self, sender: SenderClass, by: usize) -> bool {
        let counters = &self.0.taken[..sender.counters()];
        for (place, counter) in counters.iter().enumerate() {
            let before = counter.fetch_add(by, Ordering::Relaxed);
            if before + by > self.limit(place) {
                give_back(&counters[..=place], by);
                return false;
            }
        }
        let Some(address) = sender.address() else { return true };
        let mut by_address = self.by_address();
        let held = by_address.entry(address).or_insert(0);
        if *held + by > self.limit_of_address() {
            if *held == 0 {
                by_address.remove(&address);
            }
            drop(by_address);
            give_back(counters, by);
            return false;
        }
        *held += by;
        true
    }

    fn shrink(&self, sender: SenderClass, by: usize) {
        if by == 0 {
            return;
        }
        give_back(&self.0.taken[..sender.counters()], by);
        let Some(address) = sender.address() else { return };
        let mut by_address = self.by_address();
        if let Some(held) = by_address.get_mut(&address) {
            *held -= by;
            if *held == 0 {
                by_address.remove(&address);
            }
        }
    }

    fn by_address(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn give_back(counters: &[AtomicUsize], by: usize) {
    for counter in counters {
        counter.fetch_sub(by, Ordering::Relaxed);
    }
}

impl<'r> Pass<'r> {
    /// For a sender who has shown a secret.
    pub fn known(room: &'r BodyBudget) -> Self {
        Self { room, sender: SenderClass::Verified }
    }

    pub fn stranger(room: &'r BodyBudget, ip: IpAddr) -> Self {
        Self { room, sender: SenderClass::Stranger(ip) }
    }

    pub fn lease(&self) -> Lease {
        Lease { room: self.room.clone(), sender: self.sender, bytes: 0 }
    }
}

impl Lease {
    /// Takes more room, if there is so much for this sender.
    pub fn grow(&mut self, by: usize) -> bool {
        let is_there = self.room.grow(self.sender, by);
        self.bytes += if is_there { by } else { 0 };
        is_there
    }

    /// One of the same sender that holds nothing.
    pub fn none(&self) -> Self {
        Self { room: self.room.clone(), sender: self.sender, bytes: 0 }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.room.shrink(self.sender, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn address(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    /// How many leases of a MiB each these senders get, one behind the other.
    fn taken(room: &BodyBudget, senders: impl Iterator<Item = SenderClass>) -> Vec<Lease> {
        let lease = |sender| {
            let mut lease = Pass { room, sender }.lease();
            lease.grow(MIB).then_some(lease)
        };
        senders.filter_map(lease).collect()
    }

    #[test]
    fn strangers_leave_room_for_those_who_are_known() {
        let room = BodyBudget::new(64 * MIB);
        let one = taken(&room, (0..64).map(|_| SenderClass::Stranger(address(1))));
        assert_eq!(one.len(), 8, "one address has an eighth");
        let strangers = taken(&room, (0..200).map(|it| SenderClass::Stranger(address(it))));
        assert_eq!(one.len() + strangers.len(), 32, "all strangers have a half");
        let named = taken(&room, (0..200).map(|it| SenderClass::Named(address(it))));
        assert_eq!(named.len(), 16);
        let verified = taken(&room, (0..64).map(|_| SenderClass::Verified));
        assert_eq!(verified.len(), 16);
        drop((one, strangers, named, verified));
        assert_eq!(taken(&room, (0..64).map(|_| SenderClass::Verified)).len(), 64);
        assert!(room.by_address().is_empty());
    }

    #[test]
    fn an_address_of_ipv6_is_its_first_half() {
        let room = BodyBudget::new(64 * MIB);
        let sender = |it: u16| {
            SenderClass::Stranger(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, it).into())
        };
        assert_eq!(taken(&room, (0..64).map(sender)).len(), 8);
    }
}
