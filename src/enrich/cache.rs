//! Answers that are kept for a while, so many at most.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::model::RawJson;

/// Two generations: what is asked for moves to the young one; when that is full, it becomes the old
/// one, and what nobody asked for meanwhile is forgotten.
pub struct Cache {
    generations: Mutex<[HashMap<String, CachedAnswer>; 2]>,
    most: usize,
    found: SignedDuration,
    missing: SignedDuration,
}

#[derive(Clone)]
struct CachedAnswer {
    /// `None`: there is no answer, which is known, too.
    answer: Option<RawJson>,
    until: Timestamp,
}

impl Cache {
    pub fn new(most: usize, found: Duration, missing: Duration) -> Self {
        let signed = |it| SignedDuration::try_from(it).unwrap_or(SignedDuration::MAX);
        let (found, missing) = (signed(found), signed(missing));
        Self { generations: Mutex::default(), most: most / 2, found, missing }
    }

    /// `None`: it is not known.
    pub fn get(&self, key: &str, now: Timestamp) -> Option<Option<RawJson>> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = generations[0].get(key) {
            return (now < kept.until).then(|| kept.answer.clone());
        }
        let kept = generations[1].remove(key).filter(|it| now < it.until)?;
        let answer = kept.answer.clone();
        self.keep(&mut generations, key, kept);
        Some(answer)
    }

    pub fn put(&self, key: &str, answer: Option<RawJson>, now: Timestamp) {
        let so_long = if answer.is_some() { self.found } else { self.missing };
        let until = now.checked_add(so_long).unwrap_or(Timestamp::MAX);
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        self.keep(&mut generations, key, CachedAnswer { answer, until });
    }

    fn keep(
        &self,
        generations: &mut [HashMap<String, CachedAnswer>; 2],
        key: &str,
        kept: CachedAnswer,
    ) {
        if self.most == 0 {
            return;
        }
        if generations[0].len() >= self.most {
            generations[1] = std::mem::take(&mut generations[0]);
        }
        generations[0].insert(key.to_owned(), kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_answer_counts_for_its_time_and_that_there_is_none_for_another() {
        let cache = Cache::new(10, Duration::from_secs(10), Duration::from_secs(2));
        cache.put("a", Some(RawJson::NULL), at(0));
        cache.put("b", None, at(0));
        assert_eq!(cache.get("a", at(9)), Some(Some(RawJson::NULL)));
        assert_eq!(cache.get("a", at(10)), None);
        assert_eq!(cache.get("b", at(1)), Some(None));
        assert_eq!(cache.get("b", at(2)), None);
        assert_eq!(cache.get("c", at(0)), None);
    }

    #[test]
    fn entries_in_use_stay_cached() {
        let cache = Cache::new(8, Duration::from_secs(10), Duration::from_secs(10));
        cache.put("wanted", None, at(0));
        for number in 0..100 {
            cache.put(&number.to_string(), None, at(0));
            assert!(cache.get("wanted", at(1)).is_some(), "{number}");
        }
        assert!(cache.get("0", at(1)).is_none());
        let generations = cache.generations.lock().unwrap();
        assert!(generations.iter().map(HashMap::len).sum::<usize>() <= 8);
    }
}
