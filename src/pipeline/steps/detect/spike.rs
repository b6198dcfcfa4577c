//! When events of one key come too often: a pure function of what is remembered and of the event's time.

use jiff::{Timestamp, tz::TimeZone};

use crate::model::SpikeMemory;

/// What is too often. Times are milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct SpikeRule {
    /// Events within the window, at least one.
    pub threshold: u64,
    pub window: Window,
    /// How long it is quiet after it fired. `None`: for the window, or until the window's end.
    pub cool_down: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last so many milliseconds. It moves on in steps of a sixtieth.
    Sliding(i64),
    /// Windows of so many milliseconds, one behind the other, counted from 1970 in UTC.
    Tumbling(i64),
    /// The months of the calendar, in UTC.
    Month,
}

/// What is to be done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpikeVerdict {
    /// It reaches the threshold. The window so far began at `since`.
    Reached { count: u64, since: i64 },
    /// There are not enough of them.
    Below { count: u64 },
    /// There are enough, and that was reported already.
    Quiet { count: u64, until: i64 },
}

/// Steps of a sliding window.
const STEPS: i64 = 60;
/// An event that comes so much earlier than the latest is no straggler: the clock was wrong then.
const IMPOSSIBLE: i64 = 25 * 60 * 60 * 1000;

/// What is remembered after an event at this time, and what is to be done with it.
///
/// Time does not run back: an event that is behind the latest counts at the time of the latest. So none is
/// lost, whatever order they come in.
pub fn step(
    rule: &SpikeRule,
    before: Option<&SpikeMemory>,
    at: i64,
) -> (SpikeMemory, SpikeVerdict) {
    let mut memory = match before {
        Some(it) if it.latest.saturating_sub(at) <= IMPOSSIBLE => it.clone(),
        Some(_) | None => SpikeMemory { latest: at, quiet_until: i64::MIN, slots: Vec::new() },
    };
    memory.latest = memory.latest.max(at);
    let at = memory.latest;
    let now = rule.window.slot(at);
    let first = now - (rule.window.slots() - 1);
    memory.slots.retain(|it| (first..=now).contains(&it.0));
    match memory.slots.last_mut() {
        Some((slot, count)) if *slot == now => *count += 1,
        Some(_) | None => memory.slots.push((now, 1)),
    }
    let count = memory.slots.iter().map(|it| it.1).sum();
    let verdict = if count < rule.threshold {
        SpikeVerdict::Below { count }
    } else if at < memory.quiet_until {
        SpikeVerdict::Quiet { count, until: memory.quiet_until }
    } else {
        memory.quiet_until = match rule.cool_down {
            Some(cool_down) => at.saturating_add(cool_down),
            None => rule.window.end_of_silence(at),
        };
        let since = memory.slots.first().map_or(at, |it| rule.window.start(it.0));
        SpikeVerdict::Reached { count, since }
    };
    (memory, verdict)
}

impl Window {
    /// How many slots of time it covers.
    fn slots(self) -> i64 {
        match self {
            Self::Sliding(_) => STEPS,
            Self::Tumbling(_) | Self::Month => 1,
        }
    }

    /// The slot of a moment. Slots are numbered in the order of time.
    fn slot(self, at: i64) -> i64 {
        match self {
            Self::Sliding(length) => {
                (i128::from(at) * i128::from(STEPS)).div_euclid(i128::from(length.max(1))) as i64
            }
            Self::Tumbling(length) => at.div_euclid(length.max(1)),
            Self::Month => {
                let day =
                    Timestamp::from_millisecond(at).unwrap_or_default().to_zoned(TimeZone::UTC);
                i64::from(day.year()) * 12 + i64::from(day.month()) - 1
            }
        }
    }

    /// The first moment of a slot.
    fn start(self, slot: i64) -> i64 {
        match self {
            Self::Sliding(length) => {
                let (slot, length) = (i128::from(slot), i128::from(length.max(1)));
                // Up, so that the moment lies in the slot.
                (slot * length).div_euclid(i128::from(STEPS)) as i64
                    + i64::from((slot * length).rem_euclid(i128::from(STEPS)) != 0)
            }
            Self::Tumbling(length) => slot.saturating_mul(length.max(1)),
            Self::Month => {
                let (year, month) = (slot.div_euclid(12) as i16, slot.rem_euclid(12) as i8 + 1);
                jiff::civil::Date::new(year, month, 1)
                    .and_then(|it| it.to_zoned(TimeZone::UTC))
                    .map_or(0, |it| it.timestamp().as_millisecond())
            }
        }
    }

    fn end_of_silence(self, at: i64) -> i64 {
        match self {
            Self::Sliding(length) => at.saturating_add(length),
            Self::Tumbling(_) | Self::Month => self.start(self.slot(at) + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(threshold: u64, window: Window, cool_down: Option<i64>) -> SpikeRule {
        SpikeRule { threshold, window, cool_down }
    }

    /// The verdicts of events at these times.
    fn run(rule: &SpikeRule, times: &[i64]) -> Vec<SpikeVerdict> {
        let mut memory = None;
        let next = |&at: &i64| {
            let (after, verdict) = step(rule, memory.as_ref(), at);
            memory = Some(after);
            verdict
        };
        times.iter().map(next).collect()
    }

    fn fired(verdicts: &[SpikeVerdict]) -> Vec<usize> {
        let is_fired = |it: &SpikeVerdict| matches!(it, SpikeVerdict::Reached { .. });
        (0..verdicts.len()).filter(|&it| is_fired(&verdicts[it])).collect()
    }

    #[test]
    fn it_fires_when_the_threshold_is_reached_and_then_is_quiet() {
        let rule = rule(3, Window::Sliding(60_000), Some(100_000));
        let found = run(&rule, &[0, 1000, 2000, 3000, 101_000, 101_500, 102_000, 103_000]);
        let expected = [
            SpikeVerdict::Below { count: 1 },
            SpikeVerdict::Below { count: 2 },
            SpikeVerdict::Reached { count: 3, since: 0 },
            SpikeVerdict::Quiet { count: 4, until: 102_000 },
            SpikeVerdict::Below { count: 1 },
            SpikeVerdict::Below { count: 2 },
            SpikeVerdict::Reached { count: 3, since: 101_000 },
            SpikeVerdict::Quiet { count: 4, until: 202_000 },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_window_slides_and_one_that_tumbles_begins_again() {
        let times = [0, 30_000, 59_000, 61_000, 62_000];
        assert_eq!(fired(&run(&rule(3, Window::Sliding(60_000), Some(1)), &times)), [2, 3, 4]);
        assert_eq!(fired(&run(&rule(3, Window::Tumbling(60_000), None), &times)), [2]);
        // What is in the cool-down goes on counting
        let times = [0, 1, 2, 10_000, 30_000];
        assert_eq!(fired(&run(&rule(2, Window::Sliding(60_000), Some(20_000)), &times)), [1, 4]);
    }

    #[test]
    fn a_month_ends_with_the_calendar_and_so_does_its_silence() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap().as_millisecond();
        let times = [
            "2026-01-30T00:00:00Z",
            "2026-01-31T23:59:59Z",
            "2026-02-01T00:00:00Z",
            "2026-02-01T00:00:01Z",
            "2026-02-28T00:00:01Z",
        ];
        let verdicts = run(&rule(2, Window::Month, None), &times.map(at));
        assert_eq!(fired(&verdicts), [1, 3]);
        assert_eq!(
            verdicts[1],
            SpikeVerdict::Reached { count: 2, since: at("2026-01-01T00:00:00Z") }
        );
        assert_eq!(
            verdicts[4],
            SpikeVerdict::Quiet { count: 3, until: at("2026-03-01T00:00:00Z") }
        );
    }

    #[test]
    fn late_events_count_and_wrong_clocks_are_tolerated() {
        let rule = rule(3, Window::Sliding(1000), None);
        assert_eq!(fired(&run(&rule, &[5000, 0, 4999])), [2]);
        let year = 365 * 24 * 60 * 60 * 1000;
        assert_eq!(fired(&run(&rule, &[year, year, year, 0, 1, 2])), [2, 5]);
    }

    /// The same, from all events that there were.
    fn naive(rule: &SpikeRule, times: &[i64]) -> Vec<usize> {
        let (mut fired, mut seen, mut quiet_until) = (Vec::new(), Vec::new(), i64::MIN);
        for (place, &at) in times.iter().enumerate() {
            let at = at.max(seen.last().copied().unwrap_or(i64::MIN));
            seen.push(at);
            let is_within = |it: i64| match rule.window {
                Window::Sliding(length) => at * 60 / length - it * 60 / length < 60,
                Window::Tumbling(length) => at / length == it / length,
                Window::Month => true,
            };
            let count = seen.iter().filter(|it| is_within(**it)).count() as u64;
            if count >= rule.threshold && at >= quiet_until {
                fired.push(place);
                quiet_until = match (rule.cool_down, rule.window) {
                    (Some(it), _) => at + it,
                    (None, Window::Sliding(length)) => at + length,
                    (None, Window::Tumbling(length)) => (at / length + 1) * length,
                    (None, Window::Month) => i64::MAX,
                };
            }
        }
        fired
    }

    proptest! {
        #[test]
        fn it_agrees_with_whoever_remembers_every_event(
            steps in prop::collection::vec(-3000_i64..9000, 1..200),
            threshold in 1_u64..8,
            length in 1_i64..100_000,
            tumbles: bool,
            cool_down in prop::option::of(0_i64..50_000),
        ) {
            let window =
                if tumbles { Window::Tumbling(length) } else { Window::Sliding(length) };
            let rule = rule(threshold, window, cool_down);
            let mut at = 1_000_000_i64;
            let times: Vec<i64> = steps.iter().map(|it| { at += it; at }).collect();
            prop_assert_eq!(fired(&run(&rule, &times)), naive(&rule, &times));
        }

        #[test]
        fn the_start_of_a_slot_lies_in_it(at in 0_i64..4_000_000_000_000, length in 1_i64..1_000_000_000) {
            for window in [Window::Sliding(length), Window::Tumbling(length), Window::Month] {
                let start = window.start(window.slot(at));
                prop_assert!(start <= at);
                prop_assert_eq!(window.slot(start), window.slot(at));
            }
        }
    }
}
