//! What each source took and what it refused, since the process started.
//!
//! Everything here is bounded and in memory: the counts of ever are in the metrics, and what was taken
//! is in the store.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{gate::Admitted, model::SourceId, store::Appended};

/// Rejections that are kept of each source, the newest.
const KEPT: usize = 100;
/// Codes that are counted apart. They are ours, so there are never so many.
const CODES: usize = 64;

/// The counts of all sources.
#[derive(Default)]
pub struct Traffic(Mutex<HashMap<SourceId, Counts>>);

/// One source's.
#[derive(Clone, Debug, Default, Serialize, utoipa::ToSchema)]
#[schema(as = SourceTraffic)]
pub struct Counts {
    /// Events that are kept.
    pub accepted: u64,
    /// Events that were seen before.
    pub duplicates: u64,
    /// Requests and events that were refused, by why.
    pub rejected: BTreeMap<&'static str, u64>,
    /// When something was last taken, duplicates included.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_taken_at: Option<Timestamp>,
    /// The newest first.
    #[schema(value_type = Vec<Rejection>)]
    pub rejections: VecDeque<Rejection>,
}

/// A request, or an event of one, that was refused.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Rejection {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Such as `bad_signature` or `no_user_anon_id`.
    pub code: &'static str,
    /// For people.
    pub reason: String,
    #[schema(value_type = String)]
    pub ip: IpAddr,
}

impl Rejection {
    /// The body could not be read.
    pub const NOT_READ: &'static str = "unreadable";
    /// Its user is to be forgotten.
    pub const SUPPRESSED: &'static str = "suppressed";
}

impl Traffic {
    pub fn taken(&self, source: SourceId, admitted: &[Admitted], now: Timestamp) {
        self.with(source, |counts| {
            for it in admitted {
                match it {
                    Admitted::Kept(Appended::New(_)) => counts.accepted += 1,
                    Admitted::Kept(Appended::Duplicate { .. }) => counts.duplicates += 1,
                    Admitted::Suppressed => {
                        *counts.rejected.entry(Rejection::SUPPRESSED).or_default() += 1;
                    }
                }
            }
            counts.last_taken_at = Some(now);
        });
    }

    pub fn rejected(&self, source: SourceId, rejection: Rejection) {
        metrics::counter!("tidegate_source_rejected_total", "code" => rejection.code).increment(1);
        self.with(source, |counts| {
            if counts.rejected.len() < CODES || counts.rejected.contains_key(rejection.code) {
                *counts.rejected.entry(rejection.code).or_default() += 1;
            }
            counts.rejections.push_front(rejection);
            counts.rejections.truncate(KEPT);
        });
    }

    pub fn of(&self, source: SourceId) -> Counts {
        self.with(source, |counts| counts.clone())
    }

    fn with<T>(&self, source: SourceId, act: impl FnOnce(&mut Counts) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(all.entry(source).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_rejections_are_kept_and_all_are_counted() {
        let (traffic, source) = (Traffic::default(), SourceId::from_bits(1));
        for number in 0..250 {
            let at = Timestamp::from_second(number).unwrap();
            let ip = "192.0.2.1".parse().unwrap();
            let code = if number % 2 == 0 { "bad_signature" } else { "stale_timestamp" };
            traffic.rejected(source, Rejection { at, code, reason: String::new(), ip });
        }
        let counts = traffic.of(source);
        assert_eq!((counts.rejected["bad_signature"], counts.rejections.len()), (125, 100));
        assert_eq!(counts.rejections[0].at.as_second(), 249);
        assert_eq!(traffic.of(SourceId::from_bits(2)).rejections.len(), 0);
    }
}
