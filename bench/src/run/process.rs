//! The processes that are measured and what can be asked of them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{Result, load, sink::Stats};

/// The admin key of every gateway that is started here.
pub const KEY: &str = "bench-admin-key-of-32-characters";

/// A process that listens.
pub struct Server {
    child: Child,
    /// What it works on, which must not go before it.
    _folder: Option<Arc<Folder>>,
    pub address: SocketAddr,
    /// From its start until it was ready.
    pub startup: Duration,
}

/// Resident memory, in MiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub now: f64,
    pub peak: f64,
}

impl Server {
    pub async fn relay(to: &[String], concurrency: usize) -> Result<Self> {
        let mut arguments = vec!["relay".to_owned(), format!("--concurrency={concurrency}")];
        arguments.extend(to.iter().map(|url| format!("--to={url}")));
        Self::ours(&arguments).await
    }

    /// Starts this very program with other arguments.
    async fn ours(arguments: &[String]) -> Result<Self> {
        let start = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("stdout was piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await??;
        let line = line.ok_or("it ended before it listened")?;
        let address = line.strip_prefix("listening on ").ok_or("no address")?.parse()?;
        Ok(Self { child, _folder: None, address, startup: start.elapsed() })
    }

    pub fn memory(&self) -> Memory {
        let path = format!("/proc/{}/status", self.child.id().unwrap_or_default());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
            kib.unwrap_or_default() / 1024.0
        };
        Memory { now: field("VmRSS:"), peak: field("VmHWM:") }
    }

    /// The processor time that it has used. What else runs on the machine hardly changes it, so it
    /// means something when the times on the wall do not.
    pub fn cpu(&self) -> Duration {
        /// `USER_HZ`, which is the same on every Linux that people run.
        const TICKS_PER_SECOND: f64 = 100.0;
        let path = format!("/proc/{}/stat", self.child.id().unwrap_or_default());
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        // The name, in brackets, may hold anything; user and system time are 12th and 13th behind it.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: f64 = fields.skip(11).take(2).filter_map(|it| it.parse::<f64>().ok()).sum();
        Duration::from_secs_f64(ticks / TICKS_PER_SECOND)
    }

    /// Asks it to stop and waits; a stop that takes longer than it should is an error.
    pub async fn stop(mut self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(30);
        if let Some(id) = self.child.id() {
            Command::new("kill").args(["-TERM", &id.to_string()]).status().await?;
        }
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .map_err(|_| "it did not stop within 30 s of SIGTERM")??;
        Ok(())
    }

    /// Ends it as a crash does.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}

/// Runs the load generator as a process of its own.
pub async fn load(options: &load::Options) -> Result<load::Report> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("load")
        .arg(format!("--to={}", options.to))
        .arg(format!("--connections={}", options.connections))
        .arg(format!("--seconds={}", options.seconds))
        .arg(format!("--count={}", options.count))
        .arg(format!("--types={}", options.types))
        .arg(format!("--batch={}", options.batch))
        .arg(format!("--projects={}", options.projects))
        .env("TIDEGATE_ADMIN_KEY", KEY)
        .kill_on_drop(true);
    if let Some(rate) = options.rate {
        command.arg(format!("--rate={rate}"));
    }
    let output = command.stderr(Stdio::inherit()).output().await?;
    if !output.status.success() {
        return Err("the load generator failed".into());
    }
    let report: load::Report = serde_json::from_slice(&output.stdout)?;
    if report.accepted == 0 {
        return Err(format!("nothing was accepted: {report:?}").into());
    }
    Ok(report)
}

/// Load over so many connections for so long, as fast as it goes.
pub fn closed(to: SocketAddr, connections: usize, time: Duration) -> load::Options {
    load::Options {
        to,
        connections,
        rate: None,
        seconds: time.as_secs_f64(),
        count: 50_000_000,
        key: KEY.to_owned(),
        project: "bench".to_owned(),
        projects: 1,
        no_keys: false,
        types: 1,
        batch: 1,
    }
}

/// The sink, which lives through the whole comparison.
pub struct Sink(Server);

impl Sink {
    pub async fn start() -> Result<Self> {
        Ok(Self(Server::ours(&["sink".to_owned()]).await?))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.0.address)
    }

    pub async fn reset(&self) -> Result<()> {
        call(self.0.address, Method::POST, "/reset").await.map(|_| ())
    }

    pub async fn stats(&self) -> Result<Stats> {
        let (_, body) = call(self.0.address, Method::GET, "/stats").await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Waits until so many have arrived. Nothing new for a while is an error: something was lost.
    pub async fn wait_for(&self, count: u64) -> Result<Stats> {
        const PATIENCE: Duration = Duration::from_secs(30);
        let mut last = (0, Instant::now());
        loop {
            let stats = self.stats().await?;
            if stats.count >= count {
                return Ok(stats);
            }
            if stats.count > last.0 {
                last = (stats.count, Instant::now());
            }
            if last.1.elapsed() > PATIENCE {
                return Err(format!("{} of {count} were delivered", stats.count).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A gateway's data folder and how it is started.
pub struct Tidegate {
    binary: PathBuf,
    folder: Arc<Folder>,
    environment: Vec<(&'static str, String)>,
}

impl Tidegate {
    pub fn new(binary: &Path, data: &Path, resources: &str) -> Result<Self> {
        let name = format!("{}-{}", std::process::id(), crate::clock::now_ns());
        let folder = Arc::new(Folder(data.join(name)));
        std::fs::create_dir_all(folder.0.join("data"))?;
        std::fs::write(folder.0.join("resources.yaml"), resources)?;
        Ok(Self { binary: binary.to_owned(), folder, environment: Vec::new() })
    }

    /// One of several on this database, which can open each other's secrets.
    pub fn of_many(mut self, number: usize, store: &str) -> Self {
        const MASTER_KEY: &str = "bmV2ZXIgdXNlIHRoaXMga2V5IG91dHNpZGUgYSBsYWI=";
        self.environment.extend([
            ("TIDEGATE_STORE", store.to_owned()),
            ("TIDEGATE_MASTER_KEY", MASTER_KEY.to_owned()),
            ("TIDEGATE_CLUSTER__NAME", format!("node-{number}")),
        ]);
        self
    }

    /// Starts it and waits until it is ready. May be called again on the same data when it has ended.
    pub async fn start(&self) -> Result<Server> {
        const PATIENCE: Duration = Duration::from_secs(60);
        const LOOK_EVERY: Duration = Duration::from_millis(2);
        let address = free_address()?;
        let log = self.folder.0.join("log");
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let start = Instant::now();
        let mut child = Command::new(&self.binary)
            .arg("serve")
            .arg("--data")
            .arg(self.folder.0.join("data"))
            .args(["--listen", &address.to_string(), "--allow-net", "127.0.0.0/8", "--apply"])
            .arg(self.folder.0.join("resources.yaml"))
            .env("TIDEGATE_ADMIN_KEY", KEY)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        loop {
            if matches!(call(address, Method::GET, "/readyz").await, Ok((StatusCode::OK, _))) {
                let _folder = Some(self.folder.clone());
                return Ok(Server { child, _folder, address, startup: start.elapsed() });
            }
            let ended = child.try_wait()?.is_some();
            if ended || start.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.folder.0.join("log")).unwrap_or_default();
                return Err(format!("tidegate did not become ready:\n{log}").into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Bytes of its data on the disk.
    pub fn disk(&self) -> Result<u64> {
        size_of(&self.folder.0.join("data"))
    }
}

/// A folder that goes when nobody needs it any more.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over lies in the target folder, where it harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes that the files below a folder take on the disk.
fn size_of(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;

    let mut size = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        size += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(size)
}

/// A port that the system has just handed out, and that nobody holds at this moment.
pub fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// One request over a connection of its own.
pub async fn call(to: SocketAddr, method: Method, path: &str) -> Result<(StatusCode, Bytes)> {
    call_with(to, method, path, "application/json", String::new()).await
}

/// The same with a body, which may take a while.
pub async fn call_with(
    to: SocketAddr,
    method: Method,
    path: &str,
    content_type: &str,
    body: String,
) -> Result<(StatusCode, Bytes)> {
    /// A hundred thousand rows take some seconds.
    const PATIENCE: Duration = Duration::from_secs(30);
    let answer = async {
        let mut sender = load::connect(to).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {KEY}"))
            .header("tidegate-project", "bench")
            .header("content-type", content_type)
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    tokio::time::timeout(PATIENCE, answer).await?
}
