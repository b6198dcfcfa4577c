//! A whole gateway under test, over real sockets, whose time moves only when a test says so.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tidegate::{
    app::{App, Parts},
    clock::{Clock as _, ManualClock},
    config::Config,
    crypto::SystemRandom,
    destinations::egress::SystemResolver,
    model::{EventId, Secret},
    resources::File,
};

use super::PATIENCE;

pub const ADMIN_KEY: &str = "an admin key for tests";
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const START: &str = "2026-01-01T00:00:00Z";

/// The header that names the project.
pub const PROJECT: &str = "tidegate-project";

/// Resources of a YAML text, in which `URL` and `SECRET` are filled in.
pub fn file(resources: &str, url: &str) -> File {
    let variable = |name: &str| match name {
        "URL" => Some(Secret::new(url)),
        "SECRET" => Some(Secret::new(SECRET)),
        _ => None,
    };
    File::read("test.yaml", resources, &variable).unwrap()
}

pub struct Gateway {
    pub app: App,
    pub clock: Arc<ManualClock>,
    client: Client<HttpConnector, Full<Bytes>>,
    folder: tempfile::TempDir,
}

/// What the API answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Gateway {
    /// A gateway with the resources of a YAML text, in which `URL` and `SECRET` are filled in.
    pub async fn start(resources: &str, url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(START.parse().unwrap()));
        let gateway = Self::open(folder, clock).await;
        gateway.apply(resources, url).await;
        gateway
    }

    /// One destination named `sink`, with these settings, that gets everything.
    pub async fn delivering_to(url: &str, settings: &str) -> Self {
        let resources = format!(
            "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
             destinations:\n  - {{ name: sink, kind: webhook, url: \"${{URL}}\", \
             secret: \"${{SECRET}}\"{settings} }}\n\
             pipelines:\n  - {{ name: all, on: [\"*\"], routes: [{{ to: sink }}] }}\n"
        );
        Self::start(&resources, url).await
    }

    /// The same with other options.
    pub async fn configured(resources: &str, configure: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(START.parse().unwrap()));
        let gateway = Self::open_with(folder, clock, configure).await;
        gateway.apply(resources, "http://127.0.0.1:9/").await;
        gateway
    }

    async fn open(folder: tempfile::TempDir, clock: Arc<ManualClock>) -> Self {
        Self::open_with(folder, clock, |_| ()).await
    }

    async fn open_with(
        folder: tempfile::TempDir,
        clock: Arc<ManualClock>,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            data: folder.path().to_owned(),
            ..Config::default()
        };
        config.egress.allow_nets.push("127.0.0.0/8".parse().unwrap());
        configure(&mut config);
        let parts = Parts {
            clock: clock.clone(),
            random: Arc::new(SystemRandom),
            resolver: Arc::new(SystemResolver::default()),
            admin_key: Some(Secret::new(ADMIN_KEY)),
            master_key: None,
        };
        let app = App::start(config, parts, None).await.unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { app, clock, client, folder }
    }

    /// Stops in good order, and starts again on the same data.
    pub async fn restart(self) -> Self {
        let Self { app, clock, folder, .. } = self;
        app.stop().await;
        Self::open(folder, clock).await
    }

    /// The same, with something done to the data in between.
    pub async fn restart_after(self, between: impl AsyncFnOnce(&Path)) -> Self {
        let Self { app, clock, folder, .. } = self;
        app.stop().await;
        between(folder.path()).await;
        Self::open(folder, clock).await
    }

    /// The same, with so much time in between.
    pub async fn pause(self, span: SignedDuration) -> Self {
        let Self { app, clock, folder, .. } = self;
        app.stop().await;
        clock.advance(span);
        Self::open(folder, clock).await
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub async fn apply(&self, resources: &str, url: &str) {
        self.app.apply(&file(resources, url)).await.unwrap();
    }

    /// Posts an event and waits until its deliveries are planned.
    pub async fn publish(&self, event_type: &str, payload: Value) -> EventId {
        let answer = self.post("/api/v1/events", json!({ "type": event_type, "payload": payload }));
        let answer = answer.await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
        let id: EventId = answer.body["id"].as_str().unwrap().parse().unwrap();
        self.planned(id).await;
        id
    }

    /// Waits until the event has its plan.
    pub async fn planned(&self, id: EventId) {
        let project = *self.app.catalog_writer.current().projects.keys().next().unwrap();
        let record = self.app.database.event(project, id).await.unwrap().unwrap();
        let planned = self.app.planned.wait_for(record.event.seq);
        let waited = tokio::time::timeout(PATIENCE, planned).await;
        assert!(waited.expect("the event is never planned"), "the gateway ends");
    }

    /// Waits until nothing more happens at this time.
    pub async fn idle(&self) {
        let waited = tokio::time::timeout(PATIENCE, self.app.dispatch.idle());
        waited.await.expect("the dispatcher never comes to rest");
    }

    /// Lets time pass, and makes every attempt that falls due on the way.
    pub async fn run_for(&self, span: Duration) {
        let end = self.clock.now() + SignedDuration::try_from(span).unwrap();
        loop {
            let status = tokio::time::timeout(PATIENCE, self.app.dispatch.idle());
            let status = status.await.expect("the dispatcher never comes to rest");
            match status.next_due.filter(|it| *it <= end) {
                Some(due) => self.clock.set(due.max(self.clock.now())),
                None => break,
            }
        }
        self.clock.set(end);
        self.idle().await;
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[], Some(body)).await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.app.address))
            .header(header::AUTHORIZATION, format!("Bearer {ADMIN_KEY}"))
            .header(PROJECT, "acme");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // Whoever names another project means that one.
        if let Some((_, project)) = headers.iter().find(|it| it.0 == PROJECT)
            && let Some(all) = request.headers_mut()
        {
            all.insert(PROJECT, project.parse().unwrap());
        }
        let body = body.map_or_else(Bytes::new, |it| it.to_string().into());
        let response = self.client.request(request.body(Full::new(body)).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Answer { status: head.status, headers: head.headers, body }
    }

    /// The states of an event's deliveries.
    pub async fn states(&self, event: EventId) -> Vec<String> {
        let record = self.get(&format!("/api/v1/events/{event}")).await.body;
        let deliveries = record["deliveries"].as_array().unwrap().iter();
        deliveries.map(|it| it["state"].as_str().unwrap().to_owned()).collect()
    }

    /// The deliveries of the project, newest first.
    pub async fn deliveries(&self) -> Vec<Value> {
        self.get("/api/v1/deliveries").await.body["data"].as_array().unwrap().clone()
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
