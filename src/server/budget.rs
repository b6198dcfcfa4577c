//! How the files that a process may have open are shared: what it needs for itself, connections of clients, and
//! connections to destinations. So idle clients never take what the store or an attempt needs.

use rustix::process::{Resource, getrlimit, setrlimit};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConnectionBudget {
    /// Clients at once.
    pub connections: usize,
    /// Attempts at once.
    pub attempts: usize,
    /// Connections to destinations that are kept for the next attempt.
    pub kept: usize,
    /// Files of the store that are kept open for readers.
    pub readers: usize,
}

impl ConnectionBudget {
    pub fn of(files: usize) -> Self {
        // The store, logs, timers, the listener; look-ups and the resolver.
        let own = (files * 3 / 8).clamp(40, 160);
        let rest = files.saturating_sub(own).max(8);
        let outgoing = rest * 3 / 8;
        let kept = outgoing / 3;
        Self { connections: rest - outgoing, attempts: outgoing - kept, kept, readers: own / 8 }
    }

    /// What there is for this process.
    pub fn of_this_process() -> Self {
        Self::of(open_files())
    }
}

/// The files that the process may open at once.
fn open_files() -> usize {
    const UNLIMITED: usize = 1 << 20;
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(UNLIMITED, |it| usize::try_from(it).unwrap_or(UNLIMITED)).min(UNLIMITED)
}

/// Allows as many files as may be, within reason: many systems begin with 1,024 and let a process have more.
pub fn raise() {
    const ENOUGH: u64 = 16_384;
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if limit.current.is_some_and(|it| it < most) {
        limit.current = Some(most);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "no more files may be open");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_shared_without_remainder() {
        for files in [48, 64, 128, 256, 1024, 4096, 16_384, 1 << 20] {
            let it = ConnectionBudget::of(files);
            assert!(it.connections + it.attempts + it.kept <= files - 40, "{files}: {it:?}");
            assert!(it.connections > 0 && it.attempts > 0 && it.readers >= 4, "{files}: {it:?}");
        }
        let expected = ConnectionBudget { connections: 15, attempts: 6, kept: 3, readers: 5 };
        assert_eq!(ConnectionBudget::of(64), expected);
        assert_eq!(ConnectionBudget::of(16_384).attempts, 4056);
    }
}
