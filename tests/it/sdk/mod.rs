//! The TypeScript SDK, as it is packed, against the real program. `tests/sdk/install.sh`, which `make
//! test` runs, builds it and puts it where a user would have it.

mod package;
mod types;
mod emit;
mod deliveries;
mod runtimes;
mod next;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

use crate::crash::{
    gateway::{Gateway, KEY, PROJECT, Setup},
    http::Connection,
};

/// Where everything is installed.
fn folder() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    std::path::absolute(target.join("sdk")).unwrap()
}

/// Where the SDK is installed as a dependency.
fn consumer() -> PathBuf {
    let folder = folder().join("consumer");
    assert!(folder.join("run").exists(), "`make setup` installs the SDK");
    folder
}

/// The real program on a folder of its own, whose data outlives its end.
struct World {
    setup: Setup,
    gateway: Option<Gateway>,
    _folder: tempfile::TempDir,
}

impl World {
    /// With a source, and what else is given as YAML.
    async fn start(resources: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resources.yaml");
        let sources = "sources: [{ name: app, kind: api }]";
        std::fs::write(&file, format!("version: 1\nproject: {PROJECT}\n{sources}\n{resources}\n"))
            .unwrap();
        let setup = Setup {
            data: folder.path().join("data"),
            resources: file,
            log: folder.path().join("log"),
            environment: Vec::new(),
        };
        let gateway = Some(Gateway::start(&setup).await);
        Self { setup, gateway, _folder: folder }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.as_ref().unwrap().address
    }

    fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// `kill -9`, and a start on another port.
    async fn restart(&mut self) {
        self.gateway.take().unwrap().kill();
        self.gateway = Some(Gateway::start(&self.setup).await);
    }

    async fn publish(&self, event_type: &str, payload: Value) {
        let event = serde_json::json!({ "type": event_type, "payload": payload });
        let mut connection = Connection::open(self.address()).await.unwrap();
        let (status, _) = connection.post("/api/v1/events", event.to_string()).await.unwrap();
        assert_eq!(status, 202);
    }

    /// Every event that is kept, in the order in which they were.
    async fn events(&self) -> Vec<Value> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = Request::get(format!("{}/api/v1/events/export", self.url()))
            .header("authorization", format!("Bearer {KEY}"))
            .header("tidegate-project", PROJECT)
            .body(Full::<Bytes>::default());
        let answer = client.request(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let lines = std::str::from_utf8(&body).unwrap().lines();
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The payloads of such events, once there are so many.
    async fn payloads(&self, count: usize) -> Vec<Value> {
        let look = async {
            loop {
                let events = self.events().await;
                if events.len() >= count {
                    return events.into_iter().map(|it| it["payload"].clone()).collect();
                }
                // There is nothing to wait on: what is awaited is another program's doing.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(crate::harness::PATIENCE, look).await;
        waited.unwrap_or_else(|_| panic!("there are never {count} events"))
    }
}

/// A program in the consumer's folder, with what the SDK reads of its environment.
fn command(program: impl AsRef<Path>, words: &[&str], url: &str) -> Command {
    // So that a program that hangs fails its test.
    let mut command = Command::new("timeout");
    command.arg("300").arg(program.as_ref()).args(words).current_dir(consumer());
    command.env("TIDEGATE_URL", url).env("TIDEGATE_API_KEY", KEY).env("TIDEGATE_PROJECT", PROJECT);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end.
async fn ended(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// What it says, if it succeeds.
async fn output(command: Command) -> String {
    let output = ended(command).await;
    let [said, remarked] =
        [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    assert!(output.status.success(), "{:?}\n{said}\n{remarked}", output.status);
    said
}
