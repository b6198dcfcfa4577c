//! This process as one node of many: it says that it lives, hears what the others tell, and looks now
//! and then for what nobody announced.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::StartError;
use crate::{
    api,
    catalog::CatalogWriter,
    cluster::{self, ClusterSnapshot, Duty, LeaseSet, Member, MemberId},
    dispatch::{self, Spilled},
    store::{
        ClusterCommand, NodeMessage, OwedQuery, PlanProgress, ReceivedMessage, Store as _,
        postgres::{Accepts, PostgresStore},
    },
};

/// What a node has before it takes part.
pub(super) struct JoiningMember {
    pub store: Arc<PostgresStore>,
    /// The hints of each shard's events.
    pub accepts: Vec<Accepts>,
    pub id: MemberId,
}

/// This node among others.
pub(super) type Membership = (JoiningMember, ClusterNode);

/// Takes part, where there are others.
pub(super) async fn join(
    newcomer: Option<JoiningMember>,
    options: cluster::Options,
    address: SocketAddr,
) -> Result<Option<Membership>, StartError> {
    let Some(newcomer) = newcomer else { return Ok(None) };
    let node = ClusterNode::start(&newcomer, options, address.to_string()).await?;
    Ok(Some((newcomer, node)))
}

/// Waits until it is certain that no other node of this name lives. One that says that it lives is not made a
/// second of; one that is ending is waited for; and one that has ended without a word says nothing more.
async fn be_the_only_one(
    store: &PostgresStore,
    me: &Member,
    beat: Duration,
) -> Result<(), StartError> {
    const STEP: Duration = Duration::from_millis(50);
    /// How long one that ends may take.
    const ENDING: Duration = Duration::from_secs(20);
    let begun = Instant::now();
    let (mut known, mut heard) = (None, begun);
    while let Some(other) = store.namesake(me).await.map_err(StartError::Node)? {
        let is_silent = known.as_ref() == Some(&(other.id, other.seen_at));
        if !is_silent {
            let lives = known.is_some_and(|it: (MemberId, i64)| it.0 == other.id);
            if lives && (other.works || begun.elapsed() > ENDING) {
                return Err(StartError::NameTaken {
                    name: me.name.clone(),
                    address: other.address,
                });
            }
            (known, heard) = (Some((other.id, other.seen_at)), Instant::now());
        } else if heard.elapsed() > beat * 5 / 2 {
            break;
        }
        tokio::time::sleep(STEP).await;
    }
    store.succeed(me).await.map_err(StartError::Node)
}

/// How long it may take to say that a node has ended.
const LEAVE: Duration = Duration::from_secs(2);

/// A node that takes part.
pub(super) struct ClusterNode {
    pub handles: cluster::Handles,
    /// Turned when it is to give everything back.
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    store: Arc<PostgresStore>,
    id: MemberId,
}

impl ClusterNode {
    /// Takes over from a process of the same name that has ended, and takes part from now on.
    pub async fn start(
        newcomer: &JoiningMember,
        options: cluster::Options,
        address: String,
    ) -> Result<Self, StartError> {
        let me = Member {
            id: newcomer.id,
            name: options.name.clone().unwrap_or_else(|| name(&address)),
            roles: options.roles.clone(),
            address: options.address.clone().unwrap_or(address),
            ..Member::default()
        };
        be_the_only_one(&newcomer.store, &me, options.beat).await?;
        tracing::info!(name = me.name, "takes part as a node");
        let stop = watch::Sender::new(false);
        let parts =
            cluster::Parts { store: newcomer.store.clone(), me, options, stop: stop.subscribe() };
        let (node, handles) = cluster::NodeLoop::new(parts);
        let task = tokio::spawn(node.run());
        let JoiningMember { store, id, .. } = newcomer;
        Ok(Self { handles, stop, task, store: store.clone(), id: *id })
    }

    pub fn for_the_api(&self) -> api::NodePlacement {
        api::NodePlacement { me: self.id, view: self.handles.view.clone() }
    }

    /// Takes on nothing more, and gives back what the stages end to work on.
    pub fn retire(&self) {
        self.stop.send_replace(true);
    }

    /// Returns when everything is given back; the stages have ended.
    pub async fn leave(mut self) {
        self.retire();
        if tokio::time::timeout(LEAVE, &mut self.task).await.is_err() {
            // Something could not be ended in order. It writes nothing from here on.
            self.task.abort();
            let _ = tokio::time::timeout(LEAVE, self.store.leave(self.id)).await;
        }
    }
}

/// The host's name and the port: the same after a restart.
fn name(address: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = Some(host.trim()).filter(|it| !it.is_empty()).unwrap_or("node").to_owned();
    let port = address.rsplit(':').next().unwrap_or_default();
    format!("{host}:{port}")
}

/// Hears the others.
pub(super) struct Listener {
    pub store: Arc<PostgresStore>,
    pub catalog_writer: Arc<CatalogWriter>,
    pub dispatch: dispatch::Handle,
    pub accepts: Vec<Accepts>,
    pub holding: watch::Receiver<LeaseSet>,
    pub view: watch::Receiver<ClusterSnapshot>,
    pub stop: watch::Receiver<bool>,
}

impl Listener {
    /// Until the node ends.
    pub async fn run(self) {
        let (stop, mut views) = (self.stop.clone(), self.view.clone());
        let mut heard = self.store.listen();
        let mut before = ClusterSnapshot::default();
        let mut revision = 0;
        loop {
            tokio::select! {
                () = super::turned(stop.clone()) => return,
                word = heard.recv() => match word {
                    Some(word) => self.hear(word, &mut heard).await,
                    None => return,
                },
                changed = views.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let view = views.borrow_and_update().clone();
                    self.look(&before, &view).await;
                    if view.resources != revision && self.refresh().await {
                        revision = view.resources;
                    }
                    before = view;
                }
            }
        }
    }

    /// What was announced, and what else was announced already.
    async fn hear(&self, first: ReceivedMessage, more: &mut mpsc::Receiver<ReceivedMessage>) {
        let mut next = Some(first);
        let mut events = BTreeSet::new();
        let mut lost = Spilled::default();
        let (mut resources, mut orders, mut anything) = (false, false, false);
        while let Some(word) = next {
            match word {
                ReceivedMessage::Anything => anything = true,
                ReceivedMessage::Word(NodeMessage::Events(shard)) => drop(events.insert(shard)),
                ReceivedMessage::Word(NodeMessage::Owed(owed)) => {
                    for (destination, missed) in Spilled::of(&owed).0 {
                        lost.miss(destination, missed);
                    }
                }
                ReceivedMessage::Word(NodeMessage::Resources) => resources = true,
                ReceivedMessage::Word(NodeMessage::Orders) => orders = true,
            }
            next = more.try_recv().ok();
        }
        // First what the rest may depend on.
        if resources || anything {
            self.refresh().await;
        }
        let shards = 0..self.accepts.len() as u16;
        shards.filter(|it| anything || events.contains(it)).for_each(|it| self.wake(it));
        if !lost.0.is_empty() {
            self.dispatch.heard(lost).await;
        }
        if anything {
            self.dispatch.replanned().await;
        }
        if orders || anything {
            self.take_orders().await;
        }
    }

    /// What may not have been announced.
    async fn look(&self, before: &ClusterSnapshot, now: &ClusterSnapshot) {
        let lies = |shard: usize, it: &PlanProgress| {
            let was = before.logs.get(shard).map(|it| it.planned);
            it.planned < it.last && was == Some(it.planned)
        };
        for (shard, progress) in now.logs.iter().enumerate() {
            if lies(shard, progress) {
                self.wake(shard as u16);
            }
        }
        // Whoever has gone may have announced to nobody what it did last.
        let is_there = |id: MemberId| now.members.iter().any(|it| it.id == id);
        if before.members.iter().any(|it| !is_there(it.id)) {
            self.dispatch.replanned().await;
        }
        self.take_orders().await;
    }

    /// The pipeline of a shard, if it runs here, is to look for events.
    fn wake(&self, shard: u16) {
        if let Some(accepts) = self.accepts.get(usize::from(shard)) {
            accepts.lose(|it| *it = true);
        }
    }

    async fn refresh(&self) -> bool {
        let done = self.catalog_writer.refresh().await;
        if let Err(error) = &done {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "cannot read what other nodes have changed; trying again");
        }
        done.is_ok()
    }

    async fn take_orders(&self) {
        let shards: Vec<u16> = {
            let holding = self.holding.borrow();
            let ours = holding.shares.keys().filter(|it| it.duty == Duty::Dispatch);
            ours.map(|it| it.shard).collect()
        };
        if shards.is_empty() {
            return;
        }
        let orders = match self.store.take_orders(&shards).await {
            Ok(orders) => orders,
            // They stay where they are.
            Err(_) => return,
        };
        for order in orders {
            match order {
                ClusterCommand::Cancel(deliveries) => {
                    match self.store.owed(OwedQuery::These(deliveries)).await {
                        Ok(owed) => self.dispatch.cancel(owed).await,
                        Err(error) => tracing::warn!(%error, "deliveries were not cancelled"),
                    }
                }
                ClusterCommand::Poke(destination) => self.dispatch.poke(destination).await,
            }
        }
    }
}
