//! Endpoints that fail in every way that matters to the scheduler.

use std::time::Duration;

use jiff::Timestamp;
use tidegate::model::{Class, DeliverySeq, Outcome};

use super::chance::Chance;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Healthy,
    Dead,
    /// Half of each period it is up.
    Flapping {
        period: Duration,
    },
    /// Fails in so many of a hundred.
    Flaky(u64),
    /// Answers after seconds, or too late.
    Slow,
    /// 429 or 503, often with `Retry-After`.
    Busy,
    /// Says that it is gone, now and then.
    Leaving,
    /// Its certificate is wrong.
    Untrusted,
    /// Refuses requests that carry more than so many.
    Small(usize),
}

pub struct Endpoint {
    pub mode: Mode,
    /// One in so many deliveries is refused for ever; 0: none.
    pub poison_in: u64,
}

pub const TIMEOUT: Duration = Duration::from_secs(15);

impl Endpoint {
    pub fn random_mode(chance: &mut Chance) -> Mode {
        match chance.between(0, 11) {
            0 | 1 => Mode::Healthy,
            2 | 3 => Mode::Dead,
            4 => Mode::Flapping { period: chance.seconds(2, 3_600) },
            5 => Mode::Flaky(chance.between(5, 70)),
            6 => Mode::Slow,
            7 => Mode::Busy,
            8 if chance.happens(30) => Mode::Leaving,
            8 => Mode::Untrusted,
            9 => Mode::Small(chance.size(0, 4)),
            _ => Mode::Healthy,
        }
    }

    pub fn is_poison(&self, delivery: DeliverySeq) -> bool {
        self.poison_in > 0
            && delivery.bits().wrapping_mul(0x9e37_79b9) >> 7 & 0xfff_ffff
                < (1 << 28) / self.poison_in
    }

    /// The answer to a request that carries these.
    pub fn answer(
        &self,
        deliveries: &[DeliverySeq],
        now: Timestamp,
        chance: &mut Chance,
    ) -> Outcome {
        let is_poison = deliveries.iter().any(|it| self.is_poison(*it));
        let quick = chance.millis(1, 80);
        let (class, status, retry_after, duration) = match self.mode {
            _ if is_poison && chance.happens(3) => (Class::Abort, Some(400), None, quick),
            Mode::Healthy | Mode::Leaving | Mode::Slow if is_poison => {
                (Class::Status, Some(422), None, quick)
            }
            Mode::Healthy => (Class::Accepted, Some(200), None, quick),
            Mode::Dead => match chance.between(0, 2) {
                0 => (Class::Connect, None, None, quick),
                1 => (Class::Dns, None, None, quick),
                _ => (Class::Timeout, None, None, TIMEOUT),
            },
            Mode::Flapping { period } => {
                let phase = now.as_millisecond() as u128 % period.as_millis();
                if phase * 2 < period.as_millis() {
                    (Class::Accepted, Some(204), None, quick)
                } else {
                    (Class::Broken, None, None, quick)
                }
            }
            Mode::Flaky(percent) if chance.happens(percent) => {
                (Class::Status, Some(500), None, quick)
            }
            Mode::Flaky(_) => (Class::Accepted, Some(200), None, quick),
            Mode::Slow => match chance.between(0, 3) {
                0 => (Class::Timeout, None, None, TIMEOUT),
                _ => (Class::Accepted, Some(200), None, chance.seconds(1, 14)),
            },
            Mode::Busy => {
                let status = *chance.of(&[429, 503]);
                let asked = match chance.between(0, 9) {
                    0..=2 => None,
                    3 => Some(Duration::from_secs(1_000_000_000)),
                    4 => Some(Duration::ZERO),
                    _ => Some(chance.seconds(1, 600)),
                };
                match chance.happens(70) {
                    true => (Class::Status, Some(status), asked, quick),
                    false => (Class::Accepted, Some(200), None, quick),
                }
            }
            Mode::Leaving if chance.happens(10) => (Class::Gone, Some(410), None, quick),
            Mode::Leaving => (Class::Accepted, Some(200), None, quick),
            Mode::Small(most) if deliveries.len() > most => (Class::Status, Some(413), None, quick),
            Mode::Small(_) => (Class::Accepted, Some(200), None, quick),
            Mode::Untrusted => (Class::Tls, None, None, quick),
        };
        let reason = format!("{class:?} {status:?}");
        Outcome { class, status, reason, retry_after, duration, response: None }
    }
}
