//! Gateways that share a database, each with threads of its own, so that one can end as a killed
//! process does.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tidegate::{
    app::{App, Parts, StartError},
    clock::SystemClock,
    cluster,
    config::Config,
    crypto::SystemRandom,
    destinations::egress::SystemResolver,
    model::Secret,
    store::{Role, postgres::Address},
};

use crate::harness::{
    PATIENCE,
    caller::Caller,
    gateway::{ADMIN_KEY, file},
};

/// A key that nodes share.
const MASTER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

pub struct Node {
    pub caller: Caller,
    pub name: &'static str,
    app: Option<App>,
    runtime: Option<tokio::runtime::Runtime>,
    _folder: tempfile::TempDir,
}

impl Node {
    pub async fn start(name: &'static str, database: &Address) -> Self {
        Self::with_roles(name, database, &Role::ALL).await
    }

    pub async fn with_roles(name: &'static str, database: &Address, roles: &[Role]) -> Self {
        Self::try_start(name, database, roles).await.unwrap()
    }

    pub async fn try_start(
        name: &'static str,
        database: &Address,
        roles: &[Role],
    ) -> Result<Self, StartError> {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            data: folder.path().to_owned(),
            database: Some(database.clone()),
            cluster: cluster::Options {
                name: Some(name.to_owned()),
                roles: roles.to_vec(),
                // Tests need not wait long for what a dead node held.
                lease: Duration::from_millis(2_000),
                beat: Duration::from_millis(200),
                ..cluster::Options::default()
            },
            ..Config::default()
        };
        config.egress.allow_nets.push("127.0.0.0/8".parse().unwrap());
        let parts = Parts {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            resolver: Arc::new(SystemResolver::default()),
            admin_key: Some(Secret::new(ADMIN_KEY)),
            master_key: Some(Secret::new(MASTER_KEY)),
        };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let started = runtime.spawn(async move { App::start(config, parts, None).await });
        let app = match started.await.unwrap() {
            Ok(app) => app,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let caller = Caller::at(app.address, Some(ADMIN_KEY));
        Ok(Self { caller, name, app: Some(app), runtime: Some(runtime), _folder: folder })
    }

    /// Resources of a YAML text, in which `URL` and `SECRET` are filled in.
    pub async fn apply(&self, resources: &str, url: &str) {
        self.app().apply(&file(resources, url)).await.unwrap();
    }

    pub fn app(&self) -> &App {
        self.app.as_ref().unwrap()
    }

    /// Posts an event, and gives its id.
    pub async fn post(&self, number: usize) -> String {
        let event = json!({
            "type": "order.paid", "payload": { "n": number }, "idempotency_key": format!("o-{number}"),
        });
        let answer = self.caller.post("/api/v1/events?project=acme", &event).await.expect(202);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub async fn cluster(&self) -> Value {
        self.caller.get("/api/v1/cluster").await.expect(200).json()
    }

    /// Which shards a node holds of a duty, as this one sees it.
    pub async fn shards_of(&self, name: &str, duty: &str) -> Vec<u64> {
        let view = self.cluster().await;
        let nodes = view["nodes"].as_array().unwrap();
        let Some(node) = nodes.iter().find(|it| it["name"] == name) else { return Vec::new() };
        let shards = node["shares"][duty].as_array().cloned().unwrap_or_default();
        shards.iter().map(|it| it.as_u64().unwrap()).collect()
    }

    /// Waits until the node holds so many shards of each duty that comes in many.
    pub async fn holds(&self, count: usize) {
        eventually(&format!("{} holds {count}", self.name), async || {
            self.shards_of(self.name, "pipeline").await.len() == count
                && self.shards_of(self.name, "dispatch").await.len() == count
        })
        .await;
    }

    /// Ends it as a killed process ends: nobody hears of it.
    pub fn kill(mut self) {
        std::mem::forget(self.app.take());
        self.runtime.take().unwrap().shutdown_background();
    }

    pub async fn stop(mut self) {
        let app = self.app.take().unwrap();
        let runtime = self.runtime.take().unwrap();
        runtime.spawn(app.stop()).await.unwrap();
        runtime.shutdown_background();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            std::mem::forget(self.app.take());
            runtime.shutdown_background();
        }
    }
}

/// Asks again and again until it holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited {PATIENCE:?} in vain: {what}");
}
