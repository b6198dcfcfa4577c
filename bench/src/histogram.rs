//! Latencies, and their summary as it is printed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longer than any wait that is measured here; what is longer counts as this.
const LONGEST: u64 = 600_000_000_000;

/// Durations in nanoseconds, to three digits.
pub struct Histogram(hdrhistogram::Histogram<u64>);

/// In milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Histogram {
    pub fn new() -> Self {
        let histogram = hdrhistogram::Histogram::new_with_bounds(1, LONGEST, 3);
        Self(histogram.unwrap_or_else(|_| unreachable!("the bounds are constants that it takes")))
    }

    pub fn record(&mut self, duration: Duration) {
        self.0.saturating_record((duration.as_nanos() as u64).clamp(1, LONGEST));
    }

    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds, which is all that could fail.
        let _ = self.0.add(&other.0);
    }

    pub fn summary(&self) -> Latency {
        let at = |quantile| milliseconds(self.0.value_at_quantile(quantile) as f64);
        Latency {
            count: self.0.len(),
            mean: milliseconds(self.0.mean()),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: milliseconds(self.0.max() as f64),
        }
    }
}

/// To the microsecond, which is what the summary can mean.
fn milliseconds(nanoseconds: f64) -> f64 {
    (nanoseconds / 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_in_milliseconds_and_keeps_the_tail() {
        let mut histogram = Histogram::new();
        for _ in 0..990 {
            histogram.record(Duration::from_millis(2));
        }
        for _ in 0..10 {
            histogram.record(Duration::from_millis(500));
        }
        let summary = histogram.summary();
        assert_eq!(summary.count, 1000);
        assert!((summary.p50 - 2.0).abs() < 0.01, "{summary:?}");
        assert!((summary.p999 - 500.0).abs() < 1.0, "{summary:?}");
    }
}
