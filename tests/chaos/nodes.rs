//! Gateways beside each other on one database, each a process of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::sync::watch;

use crate::crash::{
    UNSETTLED_AT_MOST,
    gateway::{Gateway, Setup},
};

/// Of nodes that can open each other's secrets.
const MASTER_KEY: &str = "dGhyZWUgbm9kZXMgb24gb25lIGRhdGFiYXNlISAhISE=";

pub struct Nodes {
    setups: Vec<Setup>,
    /// `None` while it is dead.
    running: Vec<Option<Gateway>>,
    /// Where those are that are not dead. One that is frozen is among them: who posts has to find out.
    at: watch::Sender<Vec<SocketAddr>>,
}

impl Nodes {
    /// Starts all of them at once, as a deployment does.
    pub async fn start(count: usize, folder: &Path, resources: &Path, store: &str) -> Self {
        let setups: Vec<_> = (0..count).map(|it| setup(it, folder, resources, store)).collect();
        let running = futures_util::future::join_all(setups.iter().map(Gateway::start)).await;
        let running = running.into_iter().map(Some).collect();
        let (at, _) = watch::channel(Vec::new());
        let nodes = Self { setups, running, at };
        nodes.tell();
        nodes
    }

    /// Where those are that are not dead.
    pub fn addresses(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.at.subscribe()
    }

    /// `kill -9`.
    pub fn kill(&mut self, node: usize) {
        if let Some(gateway) = self.running[node].take() {
            gateway.kill();
        }
        self.tell();
    }

    /// Starts one that was killed, and returns when it takes events.
    pub async fn revive(&mut self, node: usize) {
        self.running[node] = Some(Gateway::start(&self.setups[node]).await);
        self.tell();
    }

    /// It does nothing from now on, and is not gone either: its connections stay.
    pub fn freeze(&self, node: usize) {
        self.node(node).signal("STOP");
    }

    pub fn wake(&self, node: usize) {
        self.node(node).signal("CONT");
    }

    /// Whether all of them still run: a fault elsewhere must not end one.
    pub fn are_alive(&mut self) -> bool {
        self.running.iter_mut().flatten().all(|it| !it.has_ended())
    }

    fn node(&self, node: usize) -> &Gateway {
        self.running[node].as_ref().unwrap()
    }

    fn tell(&self) {
        self.at.send_replace(self.running.iter().flatten().map(|it| it.address).collect());
    }
}

fn setup(node: usize, folder: &Path, resources: &Path, store: &str) -> Setup {
    let name = format!("node-{node}");
    let data: PathBuf = folder.join(&name);
    Setup {
        log: folder.join(format!("{name}.txt")),
        data,
        resources: resources.to_owned(),
        environment: vec![
            ("TIDEGATE_STORE", store.to_owned()),
            ("TIDEGATE_MASTER_KEY", MASTER_KEY.to_owned()),
            ("TIDEGATE_CLUSTER__NAME", name),
            ("TIDEGATE_DISPATCH__UNSETTLED_AT_MOST", UNSETTLED_AT_MOST.to_string()),
            // New partitions are made all the time.
            ("TIDEGATE_POSTGRES__PARTITION_EVENTS", "2000".to_owned()),
        ],
    }
}
