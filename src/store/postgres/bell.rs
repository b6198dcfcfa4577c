//! What nodes tell each other, by `NOTIFY`: that there is something new. All of it are hints, since the
//! tables hold the truth; so what is lost is found a moment later by those who look now and then.
//!
//! A word is told behind the commit that it is about, and not in it: commits that notify take turns in
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
    store::{Heard, OwedFrom, Result, StoreError, Word},
};

const LISTEN: &str = "LISTEN tidegate";
const TELL: &str = "SELECT pg_notify('tidegate', $1)";
/// A payload may have 8000 bytes.
const LONGEST: usize = 7_000;
/// Words that are told together come within this time.
const GATHER: Duration = Duration::from_millis(3);
/// Destinations of which something waits to be told; more are told as "anything".
const MOST: usize = 20_000;
/// Words that were heard and not looked at; more are heard as "anything".
const HEARD: usize = 1_024;
const PAUSE: Duration = Duration::from_millis(500);

/// What waits to be told.
#[derive(Default)]
pub(super) struct Bell {
    waiting: Mutex<Waiting>,
    rung: Notify,
}

#[derive(Default)]
struct Waiting {
    events: BTreeSet<u16>,
    owed: BTreeMap<DestinationId, (Option<DeliverySeq>, Option<i64>)>,
    resources: bool,
    orders: bool,
    anything: bool,
}

impl Bell {
    /// Never waits.
    pub fn ring(&self, word: Word) {
        lock(&self.waiting).add(word);
        self.rung.notify_one();
    }
}

impl Waiting {
    fn add(&mut self, word: Word) {
        match word {
            Word::Events(shard) => drop(self.events.insert(shard)),
            Word::Owed(owed) => {
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
            Word::Resources => self.resources = true,
            Word::Orders => self.orders = true,
        }
    }

    /// What is told, in pieces that fit.
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
fn heard(payload: &str) -> Vec<Heard> {
    let parsed = match payload.split_at_checked(1) {
        Some(("r", "")) => Some(vec![Word::Resources]),
        Some(("x", "")) => Some(vec![Word::Orders]),
        Some(("e", rest)) => {
            rest.split_whitespace().map(|it| it.parse().ok().map(Word::Events)).collect()
        }
        Some(("o", rest)) => {
            let owed: Option<Vec<_>> = rest.split_whitespace().map(owed_from).collect();
            owed.map(|it| vec![Word::Owed(it)])
        }
        _ => None,
    };
    parsed.map_or(vec![Heard::Anything], |it| it.into_iter().map(Heard::Word).collect())
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
pub(super) async fn run(core: Arc<Core>, listener: mpsc::Sender<Heard>) {
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
async fn session(core: &Core, listener: &mpsc::Sender<Heard>) -> Result<()> {
    core.check_open()?;
    let (sender, mut notifications) = mpsc::channel(HEARD);
    let client = core.connector.connect_to_listen(sender).await?;
    let own = client.query_one("SELECT pg_backend_pid()", &[]).await?;
    let own: i32 = own.try_get(0)?;
    client.batch_execute(LISTEN).await?;
    // What was told before is in the tables.
    if listener.send(Heard::Anything).await.is_err() {
        return Ok(());
    }
    loop {
        tokio::select! {
            notification = notifications.recv() => {
                let Some(notification) = notification else { return Ok(()) };
                if notification.process_id() != own {
                    for it in heard(notification.payload()) {
                        if listener.send(it).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
            () = core.bell.rung.notified() => {
                tokio::time::sleep(GATHER).await;
                tell(core, &client).await?;
            }
            () = listener.closed() => return Ok(()),
        }
    }
}

async fn tell(core: &Core, client: &Client) -> Result<()> {
    let waiting = std::mem::take(&mut *lock(&core.bell.waiting));
    let statement = client.prepare(TELL).await?;
    for payload in waiting.payloads() {
        if let Err(error) = client.execute(&statement, &[&payload]).await {
            // Nobody knows what was told of it.
            lock(&core.bell.waiting).anything = true;
            core.bell.rung.notify_one();
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

    fn all_heard(waiting: Waiting) -> Vec<Heard> {
        waiting.payloads().iter().flat_map(|it| heard(it)).collect()
    }

    #[test]
    fn what_is_told_is_heard() {
        let owed = |destination: u128, loose: Option<u64>, laned| OwedFrom {
            destination: DestinationId::from_bits(destination),
            loose: loose.map(DeliverySeq::from_bits),
            laned,
        };
        let mut waiting = Waiting::default();
        waiting.add(Word::Events(3));
        waiting.add(Word::Events(12));
        waiting.add(Word::Owed(vec![owed(7, Some(9), None), owed(u128::MAX, None, Some(-5))]));
        waiting.add(Word::Owed(vec![owed(7, Some(4), Some(1))]));
        waiting.add(Word::Resources);
        let told = vec![owed(7, Some(4), Some(1)), owed(u128::MAX, None, Some(-5))];
        let words =
            [Word::Resources, Word::Events(3), Word::Events(12), Word::Owed(told)].map(Heard::Word);
        assert_eq!(all_heard(waiting), words);
    }

    #[test]
    fn much_is_told_in_pieces_that_fit_and_too_much_as_anything() {
        let of = |count: u128| {
            let destination = |it| DestinationId::from_bits(u128::MAX - it);
            let (loose, laned) = (Some(DeliverySeq::from_bits(u64::MAX)), Some(i64::MIN));
            let owed = |it| OwedFrom { destination: destination(it), loose, laned };
            let mut waiting = Waiting::default();
            waiting.add(Word::Owed((0..count).map(owed).collect()));
            waiting.payloads()
        };
        let payloads = of(2_000);
        assert!(payloads.iter().all(|it| it.len() < 8_000));
        assert_eq!(payloads.iter().flat_map(|it| it[1..].split_whitespace()).count(), 2_000);
        assert_eq!(of(MOST as u128 + 1), ["*"]);
        assert_eq!(heard("of a later version"), [Heard::Anything]);
    }
}
