//! For how long an endpoint got nothing new while something was waiting for it.

use std::collections::HashMap;

use crate::judge::Place;

/// A time in which something was waiting and nothing came, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub from: u64,
    pub until: u64,
}

/// Every gap between two arrivals, and between a post and an arrival when nothing had been waiting.
/// `taken` says when each first arrived. An event waits from its first post: that nobody could accept it
/// is part of the wait. Events that never arrived are missing, which is said elsewhere.
pub fn gaps(posted: &HashMap<Place, u64>, taken: &HashMap<Place, u64>) -> Vec<Gap> {
    let mut changes: Vec<(u64, Change)> = Vec::new();
    for (place, arrived) in taken {
        let Some(posted) = posted.get(place) else { continue };
        changes.push((*posted, Change::Posted));
        changes.push((*arrived, Change::Taken));
    }
    changes.sort_unstable();
    let mut gaps = Vec::new();
    let (mut waiting, mut since) = (0_u64, 0);
    for (at, change) in changes {
        match change {
            Change::Posted => {
                if waiting == 0 {
                    since = at;
                }
                waiting += 1;
            }
            Change::Taken => {
                gaps.push(Gap { from: since, until: at });
                waiting -= 1;
                since = at;
            }
        }
    }
    gaps
}

/// At one moment, what is posted comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Posted,
    Taken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_begins_with_a_post_or_with_the_arrival_before_it() {
        let times = |all: [(u64, u64); 3]| {
            let places = all.map(|(n, time)| (("lane", n), time));
            HashMap::from(places)
        };
        // The second is posted while the first waits; the third when nothing waits.
        let posted = times([(0, 10), (1, 20), (2, 500)]);
        let taken = times([(0, 100), (1, 130), (2, 510)]);
        let gap = |from, until| Gap { from, until };
        assert_eq!(gaps(&posted, &taken), [gap(10, 100), gap(100, 130), gap(500, 510)]);
    }
}
