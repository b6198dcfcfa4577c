//! How others speak to the running dispatcher.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{DispatcherStatus, LineStatus, Spilled, outgoing::Outgoing};
use crate::model::{DestinationId, Owed, Person, ProjectId};

/// Speaks to the dispatcher. Cheap to clone. When the dispatcher has ended, nothing happens and
/// there is no answer: what is asked for is in the store, or is asked again after the next start.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    /// So nobody counts as a watcher who only looks now and then.
    pub(super) status: Arc<watch::Sender<DispatcherStatus>>,
    pub(super) outgoing: Arc<Outgoing>,
}

pub(super) enum Command {
    Cancel(Vec<Owed>),
    Spilled(Spilled),
    Poke(DestinationId),
    /// Another node has said so.
    Heard(Spilled),
    Anew,
    Line(DestinationId, oneshot::Sender<Option<LineStatus>>),
    Idle(oneshot::Sender<DispatcherStatus>),
}

impl Handle {
    /// Cancels deliveries, given as the store has them. One in flight is cancelled if its attempt
    /// fails. Returns when the dispatcher has taken it on, not when it is on disk.
    pub async fn cancel(&self, owed: Vec<Owed>) {
        let _ = self.commands.send(Command::Cancel(owed)).await;
    }

    /// How many attempts with events about this user are under way in this process.
    pub fn under_way_about(&self, project: ProjectId, person: &Person) -> u64 {
        self.outgoing.about(project, person)
    }

    /// The store owes more than the hints said, e.g. replays: to be read from there.
    pub async fn spilled(&self, lost: Spilled) {
        let _ = self.commands.send(Command::Spilled(lost)).await;
    }

    /// Tries an endpoint now that is left alone by its breaker or at its own request. Deliveries
    /// that failed keep their due times.
    pub async fn poke(&self, destination: DestinationId) {
        let _ = self.commands.send(Command::Poke(destination)).await;
    }

    /// Another node has announced what the store owes since lately.
    pub async fn heard(&self, lost: Spilled) {
        let _ = self.commands.send(Command::Heard(lost)).await;
    }

    /// Anything may have happened of which nothing was heard: all is to be read from the store.
    pub async fn replanned(&self) {
        let _ = self.commands.send(Command::Anew).await;
    }

    /// `None`: there is no such destination, it was deleted, or another node delivers to it.
    pub async fn line(&self, destination: DestinationId) -> Option<LineStatus> {
        let (answer, answered) = oneshot::channel();
        let _ = self.commands.send(Command::Line(destination, answer)).await;
        answered.await.ok().flatten()
    }

    pub fn status(&self) -> DispatcherStatus {
        *self.status.borrow()
    }

    /// Sees each change of the status.
    pub fn watch(&self) -> watch::Receiver<DispatcherStatus> {
        self.status.subscribe()
    }

    /// Waits until nothing is under way and nothing more happens at the clock's present time: every
    /// hint that was sent is taken in, every attempt has ended, every settlement is on disk. A test
    /// then sets its clock to `next_due`, and waits again.
    pub async fn idle(&self) -> DispatcherStatus {
        let (answer, answered) = oneshot::channel();
        let _ = self.commands.send(Command::Idle(answer)).await;
        answered.await.unwrap_or_else(|_| self.status())
    }
}
