//! What nodes tell each other, by `NOTIFY`: that there is something new. All of it are hints, since the
//! tables hold the truth; so what is lost is found a moment later by those who look now and then.
//!
//! A notification is sent after the commit that it is about, and not in it: commits that notify take turns in
//! PostgreSQL, sync included. Words of a few milliseconds go together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    future::poll_fn,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{Notify, mpsc};
use tokio_postgres::{AsyncMessage, Client, Notification};

use super::{core::Core, lock};
use crate::{
    model::{DeliverySeq, DestinationId},
    store::{NodeMessage, OwedFrom, ReceivedMessage, Result, StoreError},
};

const LISTEN: &str = "LISTEN tidegate";
const TELL: &str = "SELECT pg_notify('tidegate', $1)";
/// A payload may have 8000 bytes.
const LONGEST: usize = 7_000;
/// Notifications that are sent together come within this time.
const GATHER: Duration = Duration::from_millis(3);
/// Destinations of which something waits to be announced; more are announced as "anything".
const MOST: usize = 20_000;
/// Words that were heard and not looked at; more are heard as "anything".
const HEARD: usize = 1_024;
const PAUSE: Duration = Duration::from_millis(500);

/// What waits to be announced.
#[derive(Default)]
pub(super) struct Notifier {
    waiting: Mutex<PendingNotifications>,
    rung: Notify,
}

#[derive(Default)]
struct PendingNotifications {
    events: BTreeSet<u16>,
    owed: BTreeMap<DestinationId, (Option<DeliverySeq>, Option<i64>)>,
    resources: bool,
    orders: bool,
    anything: bool,
}

impl Notifier {
    /// Never waits.
    pub fn notify(&self, word: NodeMessage) {
        lock(&self.waiting).add(word);
        self.rung.notify_one();
    }
}

impl PendingNotifications {
    fn add(&mut self, word: NodeMessage) {
        match word {
            NodeMessage::Events(shard) => drop(self.events.insert(shard)),
            NodeMessage::Owed(owed) => {
                for it in owed {
                    let known = self.owed.entry(it.destination).or_default();
                    known.0 = known.0.into_iter().chain(it.loose).min();
                    known.1 = known.1.into_iter().chain(it.laned).min();
                }
                if self.owed.len() > MOST {
                    self.owed.clear();
                    self.anything = true;
                }
            }
            NodeMessage::Resources => self.resources = true,
            NodeMessage::Orders => self.orders = true,
        }
    }

    /// What is announced, in pieces that fit.
    fn payloads(self) -> Vec<String> {
        let mut payloads = Vec::new();
        let flags = [(self.anything, "*"), (self.resources, "r"), (self.orders, "x")];
        payloads.extend(flags.iter().filter(|it| it.0).map(|it| it.1.to_owned()));
        let mut add = |begin: &str, word: String| match payloads.last_mut() {
            Some(last) if last.starts_with(begin) && last.len() + word.len() < LONGEST => {
                last.push_str(&word);
            }
            _ => payloads.push(format!("{begin}{word}")),
        };
        for shard in self.events {
            add("e", format!(" {shard}"));
        }
        for (destination, (loose, laned)) in self.owed {
            let mut word = format!(" {:x},", destination.bits());
            // Writing to a text does not fail.
            let _ = loose.map_or(Ok(()), |it| write!(word, "{}", it.bits()));
            word.push(',');
            let _ = laned.map_or(Ok(()), |it| write!(word, "{it}"));
            add("o", word);
        }
        payloads
    }
}

/// What a payload means; what a newer program says may be anything.
fn received(payload: &str) -> Vec<ReceivedMessage> {
    let parsed = match payload.split_at_checked(1) {
        Some(("r", "")) => Some(vec![NodeMessage::Resources]),
        Some(("x", "")) => Some(vec![NodeMessage::Orders]),
        Some(("e", rest)) => {
            rest.split_whitespace().map(|it| it.parse().ok().map(NodeMessage::Events)).collect()
        }
        Some(("o", rest)) => {
            let owed: Option<Vec<_>> = rest.split_whitespace().map(owed_from).collect();
            owed.map(|it| vec![NodeMessage::Owed(it)])
        }
        _ => None,
    };
    parsed.map_or(vec![ReceivedMessage::Anything], |it| {
        it.into_iter().map(ReceivedMessage::Word).collect()
    })
}

fn owed_from(word: &str) -> Option<OwedFrom> {
    let mut parts = word.split(',');
    let destination = u128::from_str_radix(parts.next()?, 16).ok()?;
    let (loose, laned) = (parts.next()?, parts.next()?);
    let loose: Option<u64> = (!loose.is_empty()).then(|| loose.parse()).transpose().ok()?;
    Some(OwedFrom {
        destination: DestinationId::from_bits(destination),
        loose: loose.map(DeliverySeq::from_bits),
        laned: (!laned.is_empty()).then(|| laned.parse()).transpose().ok()?,
    })
}

/// Tells and listens until nobody wants to hear any more.
pub(super) async fn run(core: Arc<Core>, listener: mpsc::Sender<ReceivedMessage>) {
    while !listener.is_closed() {
        match session(&core, &listener).await {
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::debug!(%error, "cannot hear other nodes; trying again");
            }
            Ok(()) => (),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => (),
            () = listener.closed() => return,
        }
    }
}

/// One connection, until it breaks.
async fn session(core: &Core, listener: &mpsc::Sender<ReceivedMessage>) -> Result<()> {
    core.check_open()?;
    let (sender, mut notifications) = mpsc::channel(HEARD);
    let client = core.connector.connect_to_listen(sender).await?;
    let own = client.query_one("SELECT pg_backend_pid()", &[]).await?;
    let own: i32 = own.try_get(0)?;
    client.batch_execute(LISTEN).await?;
    // What was announced before is in the tables.
    if listener.send(ReceivedMessage::Anything).await.is_err() {
        return Ok(());
    }
    loop {
        tokio::select! {
            notification = notifications.recv() => {
                let Some(notification) = notification else { return Ok(()) };
                if notification.process_id() != own {
                    for it in received(notification.payload()) {
                        if listener.send(it).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
            () = core.notifier.rung.notified() => {
                tokio::time::sleep(GATHER).await;
                tell(core, &client).await?;
            }
            () = listener.closed() => return Ok(()),
        }
    }
}

async fn tell(core: &Core, client: &Client) -> Result<()> {
    let waiting = std::mem::take(&mut *lock(&core.notifier.waiting));
    let statement = client.prepare(TELL).await?;
    for payload in waiting.payloads() {
        if let Err(error) = client.execute(&statement, &[&payload]).await {
            // Nobody knows what was announced of it.
            lock(&core.notifier.waiting).anything = true;
            core.notifier.rung.notify_one();
            return Err(error.into());
        }
    }
    Ok(())
}

/// Passes on what a connection hears, until it ends. Where too much comes at once, the connection
/// is given up, and a new one hears that anything may have been missed.
pub(super) async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    notifications: mpsc::Sender<Notification>,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(it) = message
            && notifications.try_send(it).is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_received(waiting: PendingNotifications) -> Vec<ReceivedMessage> {
        waiting.payloads().iter().flat_map(|it| received(it)).collect()
    }

    #[test]
    fn notifications_arrive() {
        let owed = |destination: u128, loose: Option<u64>, laned| OwedFrom {
            destination: DestinationId::from_bits(destination),
            loose: loose.map(DeliverySeq::from_bits),
            laned,
        };
        let mut waiting = PendingNotifications::default();
        waiting.add(NodeMessage::Events(3));
        waiting.add(NodeMessage::Events(12));
        waiting
            .add(NodeMessage::Owed(vec![owed(7, Some(9), None), owed(u128::MAX, None, Some(-5))]));
        waiting.add(NodeMessage::Owed(vec![owed(7, Some(4), Some(1))]));
        waiting.add(NodeMessage::Resources);
        let reported = vec![owed(7, Some(4), Some(1)), owed(u128::MAX, None, Some(-5))];
        let words = [
            NodeMessage::Resources,
            NodeMessage::Events(3),
            NodeMessage::Events(12),
            NodeMessage::Owed(reported),
        ]
        .map(ReceivedMessage::Word);
        assert_eq!(all_received(waiting), words);
    }

    #[test]
    fn much_is_told_in_pieces_that_fit_and_too_much_as_anything() {
        let of = |count: u128| {
            let destination = |it| DestinationId::from_bits(u128::MAX - it);
            let (loose, laned) = (Some(DeliverySeq::from_bits(u64::MAX)), Some(i64::MIN));
            let owed = |it| OwedFrom { destination: destination(it), loose, laned };
            let mut waiting = PendingNotifications::default();
            waiting.add(NodeMessage::Owed((0..count).map(owed).collect()));
            waiting.payloads()
        };
        let payloads = of(2_000);
        assert!(payloads.iter().all(|it| it.len() < 8_000));
        assert_eq!(payloads.iter().flat_map(|it| it[1..].split_whitespace()).count(), 2_000);
        assert_eq!(of(MOST as u128 + 1), ["*"]);
        assert_eq!(received("of a later version"), [ReceivedMessage::Anything]);
    }
}
