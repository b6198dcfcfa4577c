//! The part of the loop that keeps what steps remember in step with the store, and tells of absences.

use std::{future::pending, ops::ControlFlow};

use jiff::{SignedDuration, Timestamp};

use super::Runner;
use crate::{
    clock::Clock,
    hint::Loss,
    model::{Message, Owed, Remembered},
    pipeline::compile::Compiled,
    store::StoreError,
};

/// Absences that are reported at once.
const AT_ONCE: usize = 256;
/// When they could not be reported, they are reported so much later.
const LATER: SignedDuration = SignedDuration::from_secs(5);

impl<L: Loss<Vec<(Owed, Message)>>> Runner<L> {
    /// Reads what the steps remember. No plan is on its way.
    pub(super) async fn recollect(&mut self) -> ControlFlow<()> {
        match self.parts.store.memories().await {
            Ok(kept) => {
                let store = self.parts.store.clone();
                let (is_ours, now) = (|it| store.plans_for(it), self.parts.clock.now());
                let changes = self.memories.load(kept, &self.compiled, is_ours, now);
                self.is_forgetful = false;
                self.remember(changes).await
            }
            Err(StoreError::Closed) => ControlFlow::Break(()),
            Err(error) => {
                self.wait_after(&error).await;
                ControlFlow::Continue(())
            }
        }
    }

    /// Takes over how the resources are now. `false`: nothing can be planned at the moment.
    pub(super) async fn look_at_catalog(&mut self) -> bool {
        if self.parts.catalog.has_changed().unwrap_or(false) {
            self.take_catalog().await;
        }
        !self.is_forgetful
    }

    pub(super) async fn take_catalog(&mut self) {
        let catalog = self.parts.catalog.borrow_and_update().clone();
        let compiled = Compiled::of(&catalog, &self.compiled, &self.parts.tools);
        let before = std::mem::replace(&mut self.compiled, compiled);
        if !self.parked.is_empty() && self.compiled.has_new_era(&before) {
            self.claim_anew();
        }
        let store = self.parts.store.clone();
        let (is_ours, now) = (|it| store.plans_for(it), self.parts.clock.now());
        let changes = self.memories.follow(&self.compiled, is_ours, now);
        // It comes to the store behind the plans before it, and before those behind it. When it
        // fails, what there is to plan comes again from the store.
        let _ = self.remember(changes).await;
    }

    async fn remember(&mut self, changes: Vec<Remembered>) -> ControlFlow<()> {
        if changes.is_empty() {
            return ControlFlow::Continue(());
        }
        match self.parts.store.remember(changes).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.is_forgetful = true;
                self.behind = true;
                if matches!(error, StoreError::Closed) {
                    return ControlFlow::Break(());
                }
                self.wait_after(&error).await;
                ControlFlow::Continue(())
            }
        }
    }

    /// Makes the events that tell of what is missing. They come back as all others do.
    pub(super) async fn tell_absences(&mut self) {
        let now = self.parts.clock.now();
        let due = self.memories.due(now, AT_ONCE, &self.parts.tools.pseudonyms);
        if due.is_empty() {
            return;
        }
        let events = due.iter().map(|it| it.event.clone()).collect();
        match self.parts.store.append(events).await {
            Ok(_) => metrics::counter!("tidegate_absences_total").increment(due.len() as u64),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "absences could not be reported yet");
                self.memories.tell_later(due, now.saturating_add(LATER).unwrap_or(Timestamp::MAX));
            }
        }
    }
}

/// Ends when the time has come; never, where there is none.
pub(super) async fn until(clock: &dyn Clock, due: Option<Timestamp>) {
    match due {
        Some(due) => clock.sleep_until(due).await,
        None => pending().await,
    }
}
