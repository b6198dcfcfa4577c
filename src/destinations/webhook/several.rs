//! One outcome of an attempt at several URLs. Pure.

use std::time::Duration;

use crate::model::{Class, Outcome};

/// What came of one attempt, whose messages went to each of these URLs.
///
/// One that accepts is enough. When none did, the outcome is the one that gives the most reason to
/// try again, and of equal ones that with the shortest wait. The reason names what each URL said.
pub(super) fn joined(outcomes: Vec<(&str, Outcome)>, duration: Duration) -> Outcome {
    let said: Vec<_> = (outcomes.iter().enumerate())
        .map(|(place, (origin, it))| format!("{} ({origin}): {}", place + 1, it.reason))
        .collect();
    let reason = said.join("; ");
    let best = outcomes
        .into_iter()
        .map(|(_, outcome)| outcome)
        .min_by_key(|it| (hopelessness(it), it.retry_after.unwrap_or_default()));
    match best {
        Some(best) => Outcome { reason, duration, ..best },
        None => super::refused(Class::Config, "the destination has no URL"),
    }
}

/// 0 for success; the higher, the less is to be expected of another attempt.
fn hopelessness(outcome: &Outcome) -> u8 {
    match outcome.class {
        Class::Accepted => 0,
        Class::Timeout | Class::Connect | Class::Dns | Class::Broken | Class::Unknown => 1,
        Class::Status => match outcome.status.unwrap_or_default() {
            501 => 4,
            500.. => 2,
            408 | 423 | 425 | 429 => 3,
            0..500 => 5,
        },
        Class::Tls | Class::Denied => 6,
        Class::Config => 7,
        Class::Abort => 8,
        Class::Gone => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(class: Class, status: u16, retry_after: Option<u64>) -> Outcome {
        Outcome {
            class,
            status: (status > 0).then_some(status),
            reason: format!("{class:?}"),
            retry_after: retry_after.map(Duration::from_secs),
            duration: Duration::from_secs(1),
            response: None,
        }
    }

    #[test]
    fn one_success_is_enough_and_otherwise_the_most_hopeful_failure_counts() {
        use Class::{Abort, Accepted, Broken, Config, Denied, Gone, Status, Timeout, Tls};
        let ordered = [
            outcome(Accepted, 204, None),
            outcome(Timeout, 0, None),
            outcome(Status, 503, None),
            outcome(Status, 503, Some(60)),
            outcome(Status, 429, Some(5)),
            outcome(Status, 501, None),
            outcome(Status, 404, None),
            outcome(Tls, 0, None),
            outcome(Config, 0, None),
            outcome(Abort, 422, None),
            outcome(Gone, 410, None),
        ];
        let duration = Duration::from_secs(5);
        for (place, best) in ordered.iter().enumerate() {
            for other in &ordered[place..] {
                for pair in [[best, other], [other, best]] {
                    let given = pair.map(|it| ("https://a.com", it.clone())).to_vec();
                    let found = joined(given, duration);
                    assert_eq!((found.class, found.status), (best.class, best.status));
                    assert_eq!((found.retry_after, found.duration), (best.retry_after, duration));
                }
            }
        }
        let same = [outcome(Broken, 0, None), outcome(Denied, 0, None)];
        let given = same.into_iter().map(|it| ("https://b.com", it)).collect();
        let expected = "1 (https://b.com): Broken; 2 (https://b.com): Denied";
        assert_eq!(joined(given, duration).reason, expected);
    }
}
