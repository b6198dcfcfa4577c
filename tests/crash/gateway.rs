//! The real program, started on a data folder and killed.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::http::Connection;

pub const KEY: &str = "crash-suite-admin-key-of-enough-length";
pub const PROJECT: &str = "crash";

/// How a gateway is started.
pub struct Setup {
    pub data: PathBuf,
    /// What it applies on its first start.
    pub resources: PathBuf,
    /// What it says goes here.
    pub log: PathBuf,
    pub environment: Vec<(&'static str, String)>,
}

/// A running gateway. It is killed when this is dropped.
pub struct Gateway {
    child: Child,
    pub address: SocketAddr,
}

impl Gateway {
    /// Starts it, and does not wait.
    pub fn spawn(setup: &Setup) -> Self {
        // Handed out by the system a moment ago, and free again.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = File::options().create(true).append(true).open(&setup.log).unwrap();
        // Another build may be tried with the same suite.
        let binary = std::env::var_os("TIDEGATE_BINARY");
        let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_tidegate").into());
        let child = Command::new(binary)
            .arg("serve")
            .arg("--data")
            .arg(&setup.data)
            .args(["--listen", &address.to_string(), "--allow-net", "127.0.0.0/8", "--apply"])
            .arg(&setup.resources)
            .env("TIDEGATE_ADMIN_KEY", KEY)
            .envs(setup.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, address }
    }

    /// Waits until it is ready. `false`: it ended, or it is not ready for as long as it may take.
    async fn ready(&mut self) -> bool {
        const PATIENCE: Duration = Duration::from_secs(30);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if matches!(Connection::get(self.address, "/readyz").await, Ok(200)) {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        false
    }

    /// Starts it and waits until it is ready. Another process may have taken the port meanwhile, so
    /// there are a few tries.
    pub async fn start(setup: &Setup) -> Self {
        const TRIES: u32 = 3;
        for _ in 0..TRIES {
            let mut gateway = Self::spawn(setup);
            if gateway.ready().await {
                return gateway;
            }
        }
        let log = std::fs::read_to_string(&setup.log).unwrap_or_default();
        let tail = log.len().saturating_sub(4000);
        panic!("the gateway does not become ready; it said: …{}", &log[tail..]);
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to it: `STOP`, `CONT`, `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status();
        assert!(sent.unwrap().success(), "the gateway is gone");
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.end();
    }
}
