//! When events of one key stop coming: a pure function of what is remembered and of what happens.

use std::time::Duration;

use crate::model::{AbsenceMemory, TypeName};

/// What is too late.
#[derive(Clone, Debug, PartialEq)]
pub struct AbsenceRule {
    /// How long after an event the next one is expected.
    pub every: Duration,
    /// How much later it may come.
    pub grace: Duration,
    /// The type of the event that is made of an absence.
    pub event_type: TypeName,
    /// The type that an event gets which ends an absence. `None`: it goes no further, like the others.
    pub recovery: Option<TypeName>,
    /// Keys of which events are expected though there never was one.
    pub keys: Vec<String>,
}

/// Times are milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbsenceInput {
    /// The key was declared.
    Declared(i64),
    /// There is an event.
    Seen(i64),
    /// The time of the interval is over that began then.
    Over { since: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbsenceVerdict {
    /// Nothing is wrong.
    Expected { due: i64 },
    /// An event ends the absence of which this was remembered.
    Back { before: AbsenceMemory },
    /// It did not come, which is reported now, and once.
    Absent { before: Option<i64>, due: i64 },
    /// It came meanwhile, or its absence was reported before.
    Outdated,
}

impl AbsenceRule {
    /// Until when an event is expected, if the interval began then.
    pub fn due(&self, since: i64) -> i64 {
        let millis = (self.every + self.grace).as_millis();
        since.saturating_add(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

/// What is remembered afterwards (`None`: as before), and what is to be done.
pub fn step(
    rule: &AbsenceRule,
    before: Option<AbsenceMemory>,
    input: AbsenceInput,
) -> (Option<AbsenceMemory>, AbsenceVerdict) {
    let fresh = |since, is_seen| AbsenceMemory { since, is_seen, missed: None };
    match (input, before) {
        (AbsenceInput::Declared(at), None) => (Some(fresh(at, false)), expected(rule, at)),
        (AbsenceInput::Declared(_), Some(it)) => (None, expected(rule, it.since)),
        (AbsenceInput::Seen(at), None) => (Some(fresh(at, true)), expected(rule, at)),
        (AbsenceInput::Seen(at), Some(it)) => {
            // One that was late on its way moves nothing back; but behind an absence that was reported, a new
            // interval begins in any case.
            let after = fresh(at.max(it.since + i64::from(it.missed.is_some())), true);
            let verdict = match it.missed {
                Some(_) => AbsenceVerdict::Back { before: it },
                None => expected(rule, after.since),
            };
            (Some(after), verdict)
        }
        (AbsenceInput::Over { since }, Some(it)) if it.since == since && it.missed.is_none() => {
            let due = rule.due(since);
            let last_seen = it.is_seen.then_some(since);
            (
                Some(AbsenceMemory { missed: Some(due), ..it }),
                AbsenceVerdict::Absent { before: last_seen, due },
            )
        }
        (AbsenceInput::Over { .. }, Some(_) | None) => (None, AbsenceVerdict::Outdated),
    }
}

fn expected(rule: &AbsenceRule, since: i64) -> AbsenceVerdict {
    AbsenceVerdict::Expected { due: rule.due(since) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> AbsenceRule {
        AbsenceRule {
            every: Duration::from_millis(90),
            grace: Duration::from_millis(10),
            event_type: TypeName::trusted("absence.detected"),
            recovery: None,
            keys: Vec::new(),
        }
    }

    #[test]
    fn an_absence_is_told_once_and_ends_with_the_next_event() {
        let mut memory = None;
        let missed = AbsenceMemory { since: 50, is_seen: true, missed: Some(150) };
        for (input, expected) in [
            (AbsenceInput::Over { since: 0 }, AbsenceVerdict::Outdated),
            (AbsenceInput::Declared(0), AbsenceVerdict::Expected { due: 100 }),
            (AbsenceInput::Declared(5), AbsenceVerdict::Expected { due: 100 }),
            (AbsenceInput::Seen(50), AbsenceVerdict::Expected { due: 150 }),
            // It was late on its way
            (AbsenceInput::Seen(40), AbsenceVerdict::Expected { due: 150 }),
            // It came while the end of the interval was on its way
            (AbsenceInput::Over { since: 0 }, AbsenceVerdict::Outdated),
            (
                AbsenceInput::Over { since: 50 },
                AbsenceVerdict::Absent { before: Some(50), due: 150 },
            ),
            (AbsenceInput::Over { since: 50 }, AbsenceVerdict::Outdated),
            (AbsenceInput::Seen(200), AbsenceVerdict::Back { before: missed }),
            (AbsenceInput::Seen(210), AbsenceVerdict::Expected { due: 310 }),
        ] {
            let (after, verdict) = step(&rule(), memory, input);
            assert_eq!(verdict, expected, "{input:?}");
            memory = after.or(memory);
        }
    }

    #[test]
    fn a_key_that_was_declared_and_never_came_is_absent_too() {
        let (memory, _) = step(&rule(), None, AbsenceInput::Declared(7));
        let (after, verdict) = step(&rule(), memory, AbsenceInput::Over { since: 7 });
        assert_eq!(verdict, AbsenceVerdict::Absent { before: None, due: 107 });
        assert_eq!(after.and_then(|it| it.missed), Some(107));
    }
}
