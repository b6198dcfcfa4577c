//! Whether the reader of a long answer may go on reading: its key, its scopes and its project are looked
//! at again whenever the resources change, and when the key expires.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    Api,
    request::{Access, Right},
};
use crate::{
    catalog::Catalog,
    clock::Clock,
    ingest::Caller,
    model::{ProjectId, Scope},
};

/// What a reader was allowed when the answer began.
pub struct Stay {
    catalog: watch::Receiver<Arc<Catalog>>,
    clock: Arc<dyn Clock>,
    caller: Caller,
    project: ProjectId,
    scope: Scope,
}

impl Stay {
    pub fn of<R: Right>(api: &Api, access: &Access<R>) -> Self {
        Self {
            catalog: api.catalog_writer.watch(),
            clock: api.clock.clone(),
            caller: access.session.caller,
            project: access.project,
            scope: R::SCOPE,
        }
    }

    /// Why the reader may read no more; `None`: it may.
    pub fn refusal(&mut self) -> Option<String> {
        let catalog = self.catalog.borrow_and_update().clone();
        self.caller.refusal(&catalog, self.project, self.scope, self.clock.now())
    }

    /// Waits until the reader may read no more, and says why. Cancel-safe.
    pub async fn over(&mut self) -> String {
        loop {
            if let Some(reason) = self.refusal() {
                return reason;
            }
            let (clock, end) = (self.clock.clone(), self.caller.expires_at());
            let expiry = async move {
                match end {
                    Some(end) => clock.sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // An error means that nothing changes any more: the process is ending.
                changed = self.catalog.changed() => if changed.is_err() {
                    return "the gateway stops".to_owned();
                },
                () = expiry => (),
            }
        }
    }
}
