//! What each source took and what it refused, by the key that posted.
//!
//! Everything here is bounded and in memory, and written to a file every few seconds: a crash loses what
//! was counted since. What was taken is in the store, and is not lost.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    path::Path,
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    derived,
    gate::Admitted,
    model::{IdMap, KeyId, RawJson, SourceId},
    problem::{Kind, Problem},
    redact::Redactor,
    store::Appended,
};

/// Rejections that are kept of each source, the newest.
const KEPT: usize = 100;
/// And for how long: they say from where somebody posted.
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Characters of a rejection's reason.
const REASON: usize = 300;
/// Codes that are counted apart. They are ours, so there are never so many.
const CODES: usize = 64;
/// Keys of one source that are counted apart; what others post counts for the source alone.
const KEYS: usize = 200;

/// The counts of all sources.
#[derive(Default)]
pub struct Traffic(Mutex<CountedRequest>);

#[derive(Default)]
struct CountedRequest {
    sources: IdMap<SourceId, SourceCounts>,
    /// Whether anything was counted since it was last written.
    is_changed: bool,
}

/// Which of a source's keys posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The source has no keys of its own: its write key or its signature is its only one.
    Source,
    /// An API key; `None` is the administrator's, from the environment.
    Key(Option<KeyId>),
}

/// One source's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
#[schema(as = SourceTraffic)]
pub struct SourceCounts {
    #[serde(flatten)]
    pub all: TrafficTally,
    /// Since when it is counted. What was counted in the last seconds before a crash is not in it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// The same for each API key that posted, of sources of kind `api`; up to 200.
    pub keys: Vec<KeyCounts>,
    /// The newest first: a hundred of the last 30 days at most.
    #[schema(value_type = Vec<Rejection>)]
    pub rejections: VecDeque<Rejection>,
}

/// What was taken and refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
#[schema(as = TrafficTally)]
pub struct TrafficTally {
    /// Events that are kept.
    pub accepted: u64,
    /// Events that were seen before.
    pub duplicates: u64,
    /// Of the duplicates, those of another type or with another payload than the first: they were not kept, and
    /// their sender may have meant them as events of their own.
    pub conflicts: u64,
    /// Requests and events that were refused, by why.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub rejected: BTreeMap<Cow<'static, str>, u64>,
    /// When something was last taken, duplicates included.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_taken_at: Option<Timestamp>,
}

/// One API key's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = KeyTraffic)]
pub struct KeyCounts {
    /// The key's id; null for the administrator's key from the environment.
    #[schema(value_type = Option<String>)]
    pub key: Option<KeyId>,
    /// The key's name, while there is such a key.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(flatten)]
    pub tally: TrafficTally,
}

/// A request, or an event of one, that was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Rejection {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Such as `bad_signature`, `schema` or `no_user_anon_id`.
    #[schema(value_type = String)]
    pub code: Cow<'static, str>,
    /// For people.
    pub reason: String,
    /// From where it came; null where its source says that this must never be stored.
    #[serde(default)]
    pub ip: Option<String>,
}

impl Rejection {
    /// The body could not be read.
    pub const NOT_READ: &'static str = "unreadable";
    /// It goes in circles, or does not say properly how often.
    pub const LOOP: &'static str = "loop";
    /// Its user is to be forgotten.
    pub const SUPPRESSED: &'static str = "suppressed";

    /// What is reported of a request that has a problem; `None` where the fault is ours or passes by itself.
    pub fn of(problem: &Problem, at: Timestamp, ip: IpAddr) -> Option<Self> {
        let (status, slug, title) = problem.kind().parts();
        let is_theirs = (400..500).contains(&status) && problem.kind() != Kind::Overloaded;
        let reason = match (&problem.detail, problem.errors.first()) {
            (_, Some(error)) => format!("{}: {}; found {}", error.field, error.rule, error.found),
            (Some(detail), None) => detail.to_string(),
            (None, None) => title.to_owned(),
        };
        is_theirs.then(|| Self::new(at, slug.replace('-', "_"), reason, ip))
    }

    /// With the beginning of the reason.
    pub fn new(
        at: Timestamp,
        code: impl Into<Cow<'static, str>>,
        mut reason: String,
        ip: IpAddr,
    ) -> Self {
        if let Some((end, _)) = reason.char_indices().nth(REASON) {
            reason.truncate(end);
            reason.push('…');
        }
        Self { at, code: code.into(), reason, ip: Some(ip.to_canonical().to_string()) }
    }

    /// Without what its source must never store: the address by the rules for `metadata.ip`, and personal
    /// data in the reason by its form, since names of fields stand in it.
    pub fn without(mut self, never: Option<&Redactor>) -> Self {
        let Some(never) = never else { return self };
        if let Some(reason) = never.payload(&RawJson::of(&self.reason)) {
            self.reason = reason.to_value().as_str().unwrap_or_default().to_owned();
        }
        let metadata = RawJson::of(&serde_json::json!({ "ip": self.ip }));
        if let Some(metadata) = never.metadata(&metadata) {
            self.ip = metadata.to_value()["ip"].as_str().map(str::to_owned);
        }
        self
    }
}

impl TrafficTally {
    fn taken(&mut self, admitted: &[Admitted], now: Timestamp) {
        for it in admitted {
            match it {
                Admitted::Accepted(Appended::New(_)) => self.accepted += 1,
                Admitted::Accepted(Appended::Duplicate { same_body, same_type, .. }) => {
                    self.duplicates += 1;
                    let differs = *same_body == Some(false) || *same_type == Some(false);
                    self.conflicts += u64::from(differs);
                }
                Admitted::Suppressed => self.rejected(Rejection::SUPPRESSED),
            }
        }
        self.last_taken_at = Some(now);
    }

    fn rejected(&mut self, code: &str) {
        if let Some(times) = self.rejected.get_mut(code) {
            *times += 1;
        } else if self.rejected.len() < CODES {
            self.rejected.insert(code.to_owned().into(), 1);
        }
    }
}

impl SourceCounts {
    fn key(&mut self, caller: Caller) -> Option<&mut TrafficTally> {
        let Caller::Key(key) = caller else { return None };
        let place = self.keys.iter().position(|it| it.key == key).or_else(|| {
            (self.keys.len() < KEYS).then(|| {
                self.keys.push(KeyCounts { key, name: None, tally: TrafficTally::default() });
                self.keys.len() - 1
            })
        });
        self.keys.get_mut(place?).map(|it| &mut it.tally)
    }
}

impl Traffic {
    /// What a file holds.
    pub fn from_kept(file: &Path) -> Self {
        let kept: Vec<(SourceId, SourceCounts)> = derived::read(file).unwrap_or_default();
        let sources = kept.into_iter().collect();
        Self(Mutex::new(CountedRequest { sources, is_changed: false }))
    }

    pub fn taken(&self, source: SourceId, by: Caller, admitted: &[Admitted], now: Timestamp) {
        self.count(source, now, |counts| {
            counts.all.taken(admitted, now);
            if let Some(tally) = counts.key(by) {
                tally.taken(admitted, now);
            }
        });
    }

    pub fn rejected(&self, source: SourceId, by: Caller, rejection: Rejection) {
        let code = rejection.code.clone();
        metrics::counter!("tidegate_source_rejected_total", "code" => code.clone()).increment(1);
        self.count(source, rejection.at, |counts| {
            counts.all.rejected(&code);
            if let Some(tally) = counts.key(by) {
                tally.rejected(&code);
            }
            counts.rejections.push_front(rejection);
            counts.rejections.truncate(KEPT);
        });
    }

    pub fn of(&self, source: SourceId) -> SourceCounts {
        self.lock().sources.get(&source).cloned().unwrap_or_default()
    }

    /// Forgets what a source took and refused, and counts again.
    pub fn forget(&self, source: SourceId) {
        let mut counted = self.lock();
        counted.is_changed |= counted.sources.remove(&source).is_some();
    }

    /// All of it for a file, if anything changed since it was last asked for. Sources that are gone are
    /// forgotten, and so are refusals that are old.
    pub fn to_keep(
        &self,
        now: Timestamp,
        is_there: &dyn Fn(SourceId) -> bool,
    ) -> Option<Vec<(SourceId, SourceCounts)>> {
        let horizon = now.checked_sub(KEPT_FOR).unwrap_or(Timestamp::MIN);
        let mut counted = self.lock();
        let mut is_changed = std::mem::take(&mut counted.is_changed);
        let before = counted.sources.len();
        counted.sources.retain(|source, _| is_there(*source));
        is_changed |= counted.sources.len() < before;
        for counts in counted.sources.values_mut() {
            let before = counts.rejections.len();
            counts.rejections.retain(|it| it.at >= horizon);
            is_changed |= counts.rejections.len() < before;
        }
        is_changed
            .then(|| counted.sources.iter().map(|(id, it)| (*id, it.clone())).collect::<Vec<_>>())
    }

    /// After a writing that failed.
    pub fn not_kept(&self) {
        self.lock().is_changed = true;
    }

    fn count(&self, source: SourceId, now: Timestamp, act: impl FnOnce(&mut SourceCounts)) {
        let mut counted = self.lock();
        counted.is_changed = true;
        let counts = counted.sources.entry(source).or_default();
        counts.since = counts.since.or(Some(now));
        act(counts);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CountedRequest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(code: &'static str, second: i64) -> Rejection {
        let at = Timestamp::from_second(second).unwrap();
        Rejection::new(at, code, "because".to_owned(), [192, 0, 2, 1].into())
    }

    #[test]
    fn the_newest_rejections_are_kept_and_all_are_counted() {
        let (traffic, source) = (Traffic::default(), SourceId::from_bits(1));
        for number in 0..250 {
            let code = if number % 2 == 0 { "bad_signature" } else { "stale_timestamp" };
            traffic.rejected(source, Caller::Source, rejection(code, number));
        }
        let counts = traffic.of(source);
        assert_eq!((counts.all.rejected["bad_signature"], counts.rejections.len()), (125, 100));
        assert_eq!(counts.rejections[0].at.as_second(), 249);
        assert_eq!(traffic.of(SourceId::from_bits(2)).rejections.len(), 0);
    }

    #[test]
    fn keys_are_counted_apart_and_only_so_many() {
        let (traffic, source) = (Traffic::default(), SourceId::from_bits(1));
        for number in 0..300 {
            let key = Caller::Key(Some(KeyId::from_bits(number)));
            traffic.taken(source, key, &[Admitted::Suppressed], Timestamp::UNIX_EPOCH);
        }
        traffic.rejected(source, Caller::Key(Some(KeyId::from_bits(7))), rejection("schema", 1));
        let counts = traffic.of(source);
        assert_eq!((counts.keys.len(), counts.all.rejected["suppressed"]), (200, 300));
        assert_eq!(counts.keys[7].tally.rejected["schema"], 1);
    }

    #[test]
    fn counts_are_the_same_when_they_were_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("traffic.json");
        let (traffic, source) = (Traffic::default(), SourceId::from_bits(1));
        let now = Timestamp::UNIX_EPOCH;
        assert!(traffic.to_keep(now, &|_| true).is_none());
        traffic.taken(source, Caller::Key(None), &[Admitted::Suppressed], Timestamp::UNIX_EPOCH);
        traffic.rejected(source, Caller::Source, rejection("schema", 1));
        derived::write(&file, &traffic.to_keep(now, &|_| true).unwrap()).unwrap();
        assert!(traffic.to_keep(now, &|_| true).is_none());
        assert_eq!(Traffic::from_kept(&file).of(source), traffic.of(source));

        // Of a source that is gone, nothing stays.
        assert!(traffic.to_keep(now, &|_| false).is_some());
        assert_eq!(traffic.of(source), SourceCounts::default());
    }

    #[test]
    fn refusals_are_forgotten_after_thirty_days_and_their_counts_are_not() {
        let (traffic, source) = (Traffic::default(), SourceId::from_bits(1));
        let day = |it: i64| Timestamp::from_second(it * 24 * 60 * 60).unwrap();
        for at in [0, 10] {
            traffic.rejected(source, Caller::Source, rejection("schema", at * 24 * 60 * 60));
        }
        assert!(traffic.to_keep(day(30), &|_| true).is_some());
        assert_eq!(traffic.of(source).rejections.len(), 2);
        let kept = traffic.to_keep(day(31), &|_| true).expect("what is old leaves the file, too");
        assert_eq!((kept[0].1.rejections.len(), kept[0].1.all.rejected["schema"]), (1, 2));
        assert!(traffic.to_keep(day(31), &|_| true).is_none());
    }

    #[test]
    fn a_refusal_says_nothing_that_its_source_must_never_store() {
        let reported = |redaction: &str| {
            let redaction = serde_json::from_str(redaction).unwrap();
            let never = Redactor::before_storing(&redaction).unwrap();
            let reason = "payload.by[\"eve@a.example\"]: a number".to_owned();
            let ip = [192, 0, 2, 77].into();
            let it = Rejection::new(Timestamp::UNIX_EPOCH, "schema", reason, ip);
            let it = it.without(Some(&never));
            (it.ip, it.reason)
        };
        let whole = "payload.by[\"eve@a.example\"]: a number";
        let (ip, reason) = reported(r#"{"fields":["payload.a"]}"#);
        assert_eq!((ip.as_deref(), reason.as_str()), (Some("192.0.2.77"), whole));
        let (ip, reason) = reported(r#"{"fields":["metadata.ip"]}"#);
        assert_eq!((ip, reason.as_str()), (None, whole));
        let (ip, reason) = reported(r#"{"detect":["ip","email"]}"#);
        assert!(ip.is_none() && !reason.contains("eve"), "{reason}");
        let (ip, reason) = reported(r#"{"detect":["ip","email"],"mode":"mask"}"#);
        assert_eq!(ip.as_deref(), Some("192.0.*.*"));
        assert!(reason.contains("e***@a.example"), "{reason}");
        let long = "é".repeat(1000);
        let it = Rejection::new(Timestamp::UNIX_EPOCH, "schema", long, [192, 0, 2, 1].into());
        assert_eq!(it.reason.chars().count(), REASON + 1);
    }
}
