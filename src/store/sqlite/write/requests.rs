//! What is asked of the writer, and the way back to whoever asked.

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    model::{DeliverySeq, DestinationId, Ended, Entry, EventId, EventSeq, Owed, Plan, Remembered},
    store::{
        Appended, ReplayProgress, Result, Settlement,
        sqlite::{keys::gate::PendingEvent, segment::rows::DeliveryRow},
    },
};

pub struct Append {
    pub events: Vec<PendingEvent>,
    pub weight: usize,
    pub request: ReplyTo<Vec<Appended>>,
}

/// What the writer does beside accepting events.
pub enum WriteTask {
    Plan(Vec<Plan>),
    Settle(Vec<Settlement>),
    Replay(Prepared),
    /// Accepts an event, and so is answered once it is on disk.
    Record(Box<Recorded>),
    Remember(Vec<Remembered>),
}

impl WriteTask {
    pub fn items(&self) -> usize {
        match self {
            Self::Plan(plans) => plans.iter().map(|it| 1 + it.deliveries.len()).sum(),
            Self::Settle(settlements) => settlements.len(),
            Self::Replay(prepared) => prepared.items.len(),
            Self::Record(recorded) => 1 + recorded.entries.len(),
            Self::Remember(changes) => changes.len(),
        }
    }

    /// Outcomes of deliveries that it writes down.
    pub fn outcomes(&self) -> usize {
        match self {
            Self::Settle(settlements) => settlements.len(),
            Self::Plan(_) | Self::Replay(_) | Self::Record(_) | Self::Remember(_) => 0,
        }
    }

    /// Whether whoever asked hears that it is done only when no power cut can undo it. Plans and
    /// outcomes are made again.
    pub fn is_promised(&self) -> bool {
        match self {
            Self::Replay(_) | Self::Record(_) => true,
            Self::Plan(_) | Self::Settle(_) | Self::Remember(_) => false,
        }
    }

    pub fn weight(&self) -> usize {
        /// The fields of fixed size, and the bookkeeping around them.
        const FIXED: usize = 256;
        let copies: usize = match self {
            Self::Plan(plans) => plans
                .iter()
                .flat_map(|it| &it.deliveries)
                .filter_map(|it| it.copy.as_ref())
                .map(|it| it.weight())
                .sum(),
            // Texts of an outcome are short.
            Self::Settle(_) | Self::Remember(_) => 0,
            Self::Replay(prepared) => {
                prepared.items.iter().filter_map(|it| it.row.copy.as_ref()).map(Vec::len).sum()
            }
            Self::Record(recorded) => recorded.offered.event.weight(),
        };
        FIXED * (1 + self.items()) + copies
    }
}

pub struct WriteRequest {
    pub task: WriteTask,
    pub request: ReplyTo<Vec<Owed>>,
}

/// The way back to whoever asked. Room for the next request is made when it is dropped.
pub struct ReplyTo<T> {
    reply: oneshot::Sender<Result<T>>,
    _room: Option<OwnedSemaphorePermit>,
}

impl<T> ReplyTo<T> {
    /// `_room` is free again when it is dropped.
    pub fn new(reply: oneshot::Sender<Result<T>>, room: OwnedSemaphorePermit) -> Self {
        Self { reply, _room: Some(room) }
    }

    /// One that takes no room.
    #[cfg(test)]
    pub fn alone() -> (Self, oneshot::Receiver<Result<T>>) {
        let (reply, answer) = oneshot::channel();
        (Self { reply, _room: None }, answer)
    }

    pub fn answer(self, answer: Result<T>) {
        // Whoever asked may have gone.
        let _ = self.reply.send(answer);
    }
}

/// A recording, with what was worked out about it beside the writer.
pub struct Recorded {
    pub offered: PendingEvent,
    pub destination: DestinationId,
    pub entries: Vec<Entry>,
}

/// A step with what it takes over from old deliveries.
pub struct Prepared {
    pub items: Vec<PreparedItem>,
    pub replay: i64,
    pub at: Timestamp,
    pub cursor: Option<DeliverySeq>,
    pub progress: ReplayProgress,
    /// What was written to segments from this one on may not have been seen.
    pub unseen: EventSeq,
}

pub struct PreparedItem {
    pub destination: DestinationId,
    /// Complete but for the ordinal in `seq`.
    pub row: DeliveryRow,
    /// The lowest ordinal that may be free; [`DeliverySeq::PER_EVENT`] when there is none.
    pub ordinal: u16,
    pub like: Option<DeliverySeq>,
    /// Dead letters that are none any more with this delivery.
    pub replaced: Vec<DeadLetter>,
    pub was_replayed: bool,
    pub event: EventId,
}

/// A delivery that is dead or expired, and was not replayed yet as far as could be seen.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetter {
    pub seq: DeliverySeq,
    pub ended: Ended,
    /// Of its activity log.
    pub last: u16,
}
