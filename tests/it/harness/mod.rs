//! What tests need to play the world around Tidegate. No mocks: real sockets on loopback.

#![allow(dead_code, reason = "each suite uses a part of it")]

pub mod sink;
pub mod small_disk;
pub mod chaos;
pub mod outlet;
pub mod authority;
pub mod gateway;
pub mod caller;
pub mod postgres;
pub mod cluster;
pub mod wire;

use std::time::Duration;

/// How long a test waits for what must happen before it fails. Nothing waits for this in vain when
/// all is well, so it may be long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the condition holds, looking again whenever `changed` moves.
pub async fn until(
    mut changed: tokio::sync::watch::Receiver<u64>,
    what: &str,
    mut holds: impl FnMut() -> bool,
) {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            changed.borrow_and_update();
            if holds() {
                return;
            }
            changed.changed().await.expect("the endpoint is gone");
        }
    });
    assert!(waited.await.is_ok(), "waited {PATIENCE:?} in vain: {what}");
}
