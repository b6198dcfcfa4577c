//! How often a key may be used: a token bucket for each.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use jiff::Timestamp;

use crate::model::{KeyId, RateLimit};

/// The buckets of all keys. Keys are few, and each bucket is two numbers.
pub struct Buckets {
    limit: Option<RateLimit>,
    buckets: Mutex<HashMap<Option<KeyId>, Bucket>>,
}

/// Events that may still come; below zero after a batch that was larger than what was left.
struct Bucket {
    events: f64,
    at: Timestamp,
}

impl Buckets {
    pub fn new(limit: Option<RateLimit>) -> Self {
        Self { limit, buckets: Mutex::default() }
    }

    /// Takes one event from the key's bucket, or says how long to wait for one.
    pub fn take(&self, key: Option<KeyId>, now: Timestamp) -> Result<(), Duration> {
        self.with(key, now, |bucket, per_second| {
            if bucket.events > 0.0 {
                bucket.events -= 1.0;
                Ok(())
            } else {
                Err(Duration::try_from_secs_f64((1.0 - bucket.events) / per_second)
                    .unwrap_or(Duration::MAX))
            }
        })
        .unwrap_or(Ok(()))
    }

    /// Takes the rest of a batch, whose first event was let in: it may leave a debt.
    pub fn owe(&self, key: Option<KeyId>, now: Timestamp, events: usize) {
        self.with(key, now, |bucket, _| bucket.events -= events as f64);
    }

    fn with<T>(
        &self,
        key: Option<KeyId>,
        now: Timestamp,
        act: impl FnOnce(&mut Bucket, f64) -> T,
    ) -> Option<T> {
        let limit = self.limit?;
        let per_second = f64::from(limit.events.get()) / limit.per.as_secs_f64().max(1e-3);
        // One second's worth, and never less than one event.
        let full = per_second.max(1.0);
        let mut buckets = self.buckets.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let bucket = buckets.entry(key).or_insert(Bucket { events: full, at: now });
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.events = (bucket.events + passed * per_second).min(full);
        bucket.at = now;
        Some(act(bucket, per_second))
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_and_a_batch_leaves_a_debt() {
        let limit = RateLimit { events: 10.try_into().unwrap(), per: Duration::from_secs(1) };
        let buckets = Buckets::new(Some(limit));
        let start = Timestamp::UNIX_EPOCH;
        let taken = (0..100).filter(|_| buckets.take(None, start).is_ok()).count();
        assert_eq!(taken, 10);
        assert_eq!(buckets.take(None, start), Err(Duration::from_millis(100)));

        let later = start + SignedDuration::from_millis(100);
        assert_eq!(buckets.take(None, later), Ok(()));
        buckets.owe(None, later, 20);
        let wait = buckets.take(None, later).unwrap_err();
        assert_eq!(wait.as_millis(), 2100);
        assert_eq!(buckets.take(None, later + SignedDuration::from_millis(2100)), Ok(()));
    }

    #[test]
    fn without_a_limit_everything_passes() {
        let buckets = Buckets::new(None);
        assert!((0..1000).all(|_| buckets.take(None, Timestamp::UNIX_EPOCH).is_ok()));
    }
}
