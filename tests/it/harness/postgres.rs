//! A real PostgreSQL server on loopback, which ends with the tests.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio_postgres::NoTls;

use super::PATIENCE;

/// A server with data of its own.
pub struct Postgres {
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
    pid: Mutex<Option<u32>>,
}

impl Postgres {
    /// The server that all tests of this process share. Each makes a database of its own in it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    /// A server for a test that stops it, too.
    pub fn new() -> Self {
        Self::with(|_| Vec::new())
    }

    /// The same, with what is done to its data before it starts, and the settings that come of it.
    pub fn with(prepare: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let folder = folder();
        let made = as_user(&program("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=tidegate", "--encoding=UTF8"])
            .args(["--locale=C", "--pgdata"])
            .arg(folder.join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let settings = prepare(&folder.join("data"));
        own(&folder);
        Self::begin(folder, settings)
    }

    /// A server whose pages have no checksums, which is for initdb to say and differs by version.
    pub fn without_checksums() -> Self {
        Self::with(|data| {
            // It fails where there are none already.
            let disabling = as_user(&program("pg_checksums")).arg("--disable").arg(data).output();
            assert!(disabling.is_ok());
            Vec::new()
        })
    }

    /// A server that follows this one, until it is promoted.
    pub fn standby(&self) -> Self {
        let folder = folder();
        let made = as_user(&program("pg_basebackup"))
            .args(["--no-sync", "-U", "tidegate", "-h", "127.0.0.1", "-R", "-X", "stream"])
            .args(["-c", "fast", "-p", &self.port.to_string(), "-D"])
            .arg(folder.join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self::begin(folder, Vec::new())
    }

    /// Makes a standby one that can be written.
    pub fn promote(&self) {
        let promoted = as_user(&program("pg_ctl"))
            .args(["promote", "-w", "-D"])
            .arg(self.folder.join("data"))
            .output()
            .unwrap();
        assert!(promoted.status.success(), "{}", String::from_utf8_lossy(&promoted.stderr));
    }

    fn begin(folder: PathBuf, settings: Vec<String>) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let postgres = Self { folder, port, settings, pid: Mutex::new(None) };
        postgres.start();
        postgres
    }

    /// Starts it, and returns when it takes connections. After a crash the children of the one before may
    /// still hold its memory: then the server ends at once, and is started again.
    pub fn start(&self) {
        let begun = Instant::now();
        while let Err(log) = self.try_start() {
            let is_held = log.contains("pre-existing shared memory block");
            *self.pid.lock().unwrap() = None;
            assert!(is_held && begun.elapsed() < PATIENCE, "PostgreSQL does not start: {log}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// An error is what the server said before it ended.
    fn try_start(&self) -> Result<(), String> {
        let mut command = as_user(&program("postgres"));
        let sockets = format!("unix_socket_directories={}", self.folder.display());
        command.arg("-D").arg(self.folder.join("data")).args(["-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            &sockets,
            "fsync=off",
            "max_connections=300",
            "shared_buffers=64MB",
            "log_min_messages=fatal",
        ] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let log = fs::File::create(self.folder.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // The server ends with the thread that started it. Threads of tests end too early.
        let (sender, started) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let mut child = command.spawn().unwrap();
            sender.send(child.id()).unwrap();
            child.wait().unwrap();
        });
        let pid = started.recv().unwrap();
        *self.pid.lock().unwrap() = Some(pid);
        let begun = Instant::now();
        while !self.is_ready() {
            let has_ended = !Path::new(&format!("/proc/{pid}")).exists();
            if has_ended || begun.elapsed() >= PATIENCE {
                return Err(fs::read_to_string(self.folder.join("log")).unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends its sessions, as an administrator or a fail-over does.
    pub async fn terminate_sessions(&self) {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE application_name = 'tidegate'";
        self.run("postgres", sql).await;
    }

    /// Ends it: `INT` as an operator does, `QUIT` without any order, `KILL` as a crash would.
    pub fn stop(&self, signal: &str) {
        let Some(pid) = self.pid.lock().unwrap().take() else { return };
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
        assert!(sent.unwrap().success());
        let begun = Instant::now();
        // A killed one leaves its children behind, who notice; a new one waits for them.
        while Path::new(&format!("/proc/{pid}")).exists() {
            assert!(begun.elapsed() < PATIENCE, "PostgreSQL does not stop");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A new, empty database: its URL.
    pub async fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.run("postgres", &format!("CREATE DATABASE {name}")).await;
        self.url(&name)
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://tidegate@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL in a database, as its owner.
    pub async fn run(&self, database: &str, sql: &str) {
        run(&self.url(database), sql).await;
    }

    fn is_ready(&self) -> bool {
        let asked = Command::new(program("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .status();
        asked.unwrap().success()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop("QUIT");
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Runs SQL in the database of a URL.
pub async fn run(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

const PREFIX: &str = "tidegate-postgres-";
/// Debian's package makes it.
const USER: &str = "postgres";

/// A new one, which belongs to whom the server runs as.
fn folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    remove_leftovers();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("{PREFIX}{}-{number}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    own(&folder);
    folder
}

fn own(folder: &Path) {
    if is_root() {
        let owned = Command::new("chown").args(["-R", USER]).arg(folder).status().unwrap();
        assert!(owned.success(), "PostgreSQL does not run as root, and there is no user `{USER}`");
    }
}

/// The shared server of a test process has nobody who removes its folder: the next process does.
fn remove_leftovers() {
    for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|it| it.strip_prefix(PREFIX)?.split('-').next());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A program of PostgreSQL: in the path, or where Debian hides it.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = debian.map(|it| it.path().join("bin")).collect();
    versions.sort();
    let found = std::env::split_paths(&path).chain(versions.into_iter().rev());
    let found = found.map(|it| it.join(name)).find(|it| it.exists());
    found.unwrap_or_else(|| panic!("there is no `{name}`: run `make setup`"))
}

/// A command that ends with the thread that starts it, and is not root.
fn as_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if is_root() {
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]);
    }
    command.arg("--").arg(program).current_dir("/");
    command
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout.trim_ascii() == b"0"
}
