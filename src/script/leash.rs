//! The leash of a thread that runs scripts: it is cut when nobody waits for the thread any more.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use super::Shared;

/// Tells a thread that nobody waits for it any more.
#[derive(Default)]
pub struct Leash {
    is_cut: AtomicBool,
    /// What its thread is left behind with, once it is cut.
    pub(super) script: Mutex<Option<Arc<Shared>>>,
}

impl Leash {
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    pub(super) fn cut(&self, script: &Arc<Shared>) {
        *lock(&self.script) = Some(script.clone());
        self.is_cut.store(true, Ordering::Release);
    }
}

/// Locks, also after a thread has panicked: what these mutexes hold is never half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
