//! Forgetting old events.

use jiff::Timestamp;

use super::{SqliteStore, error::unavailable};
use crate::{model::ProjectId, store::Result};

impl SqliteStore {
    pub(super) async fn forget(&self, _horizons: &[(ProjectId, Timestamp)]) -> Result<u64> {
        Err(unavailable("this build cannot forget events yet"))
    }
}
