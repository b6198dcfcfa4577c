//! A PostgreSQL of our own: one cluster for the test binary, on a unix socket that nobody else knows,
//! with one database for each test, copied from a template that has the schema already.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use tidegate::store::postgres::Address;

const USER: &str = "tidegate";
const TEMPLATE: &str = "template_tidegate";

/// A server that runs until it is dropped.
pub struct Cluster {
    folder: PathBuf,
    /// How careful it is with the disk.
    settings: &'static str,
}

/// The one that the tests of this binary share. A watcher stops it when the process is gone, however
/// it ends, since statics are never dropped.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| {
        let cluster = Cluster::start();
        stop_after_us(&cluster.folder);
        cluster
    })
}

impl Cluster {
    /// Makes a new, empty one and starts it. What kills the process loses nothing; a power cut would.
    pub fn start() -> Self {
        Self::with("-c fsync=off -c full_page_writes=off -c shared_buffers=64MB")
    }

    /// As an operator would run it, to be measured.
    pub fn durable() -> Self {
        Self::with("-c fsync=on -c full_page_writes=on -c shared_buffers=1GB")
    }

    fn with(settings: &'static str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short, since the path of a socket has 107 bytes at most.
        let folder = PathBuf::from(format!("/tmp/tg-pg-{}-{number}", std::process::id()));
        fs::create_dir(&folder).expect("the folder of the cluster");
        let cluster = Self { folder, settings };
        give_away(&cluster.folder);
        let data = cluster.folder.join("data");
        let mut initdb = command("initdb");
        initdb.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-U", USER]);
        run(initdb.arg("-D").arg(data));
        cluster.resume();
        cluster
    }

    /// Starts the server again after [`Self::stop`].
    pub fn resume(&self) {
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c max_connections=400 \
             -c max_wal_size=4GB {}",
            self.folder.display(),
            self.settings
        );
        let mut start = command("pg_ctl");
        start.arg("-D").arg(self.folder.join("data")).args(["-w", "-o", &options, "-l"]);
        run(start.arg(self.folder.join("log")).arg("start"));
    }

    /// Ends every session and the server. What was committed stays.
    pub fn stop(&self) {
        let mut stop = command("pg_ctl");
        run(stop.arg("-D").arg(self.folder.join("data")).args(["-m", "immediate", "-w", "stop"]));
    }

    /// An empty database.
    pub fn database(&self) -> Address {
        self.make("template0")
    }

    /// A database that has the schema and 1 shard.
    pub fn prepared(&self) -> Address {
        static PREPARED: OnceLock<()> = OnceLock::new();
        PREPARED.get_or_init(|| {
            self.sql("postgres", &format!("CREATE DATABASE {TEMPLATE} TEMPLATE template0"));
            let address = self.address(TEMPLATE);
            std::thread::spawn(move || prepare(&address)).join().expect("a template");
        });
        self.make(TEMPLATE)
    }

    fn make(&self, template: &str) -> Address {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        // One at a time: a template that is being copied must not be in use.
        static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(|it| it.into_inner());
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}"));
        self.address(&name)
    }

    pub fn url(&self, database: &str) -> String {
        let socket = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://{USER}@{socket}/{database}")
    }

    fn address(&self, database: &str) -> Address {
        self.url(database).parse().expect("an address")
    }

    /// Runs SQL as an administrator does, and gives what it prints.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = command("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", database]);
        run(psql.arg("-h").arg(&self.folder).args(["-c", sql]))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut stop = command("pg_ctl");
        let _ = stop
            .arg("-D")
            .arg(self.folder.join("data"))
            .args(["-m", "immediate", "-w", "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn prepare(address: &Address) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use tidegate::store::Store as _;
        let opened = crate::store::home::postgres(address, 1).await.unwrap();
        opened.0.close().await;
    });
}

/// A program of PostgreSQL, which refuses to run as root.
pub fn command(program: &str) -> Command {
    let program = bin().join(program);
    let mut command = match is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]);
            command.arg(program);
            command
        }
        false => Command::new(program),
    };
    command.current_dir("/tmp").env_remove("PGHOST").env_remove("PGDATABASE");
    command
}

/// Lets the server write to a folder.
pub fn give_away(folder: &Path) {
    if is_root() {
        run(Command::new("chown").arg("postgres").arg(folder));
    }
}

/// Leaves a process behind that waits for the end of this one, ends the servers whose data lies in a
/// folder, and removes it.
#[allow(clippy::zombie_processes, reason = "it outlives us: that is what it is for")]
pub fn stop_after_us(folder: &Path) {
    let script = "while kill -0 \"$1\" 2>/dev/null && [ -d \"$2\" ]; do sleep 0.2; done; \
                  for it in \"$2\"/*/postmaster.pid; do kill -QUIT \"$(head -1 \"$it\")\"; done 2>/dev/null; \
                  sleep 0.5; rm -rf \"$2\"";
    let mut watcher = Command::new("sh");
    watcher.args(["-c", script, "sh", &std::process::id().to_string()]).arg(folder);
    watcher.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    watcher.spawn().expect("a watcher");
}

/// Runs it to its end, and gives what it printed.
pub fn run(command: &mut Command) -> String {
    // A server that outlives the command must not hold its pipes.
    let out = tempfile::tempfile().expect("a file");
    let err = tempfile::tempfile().expect("a file");
    command.stdin(Stdio::null());
    command.stdout(out.try_clone().expect("a file")).stderr(err.try_clone().expect("a file"));
    let status = command.status().unwrap_or_else(|it| panic!("{command:?}: {it}"));
    let read = |mut file: fs::File| {
        use std::io::{Read as _, Seek as _};
        let mut text = String::new();
        file.rewind().expect("a file");
        file.read_to_string(&mut text).expect("text");
        text
    };
    assert!(status.success(), "{command:?}: {}", read(err));
    read(out).trim().to_owned()
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0)
}

/// Where the newest server is installed.
fn bin() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.max_by_key(|it| {
        it.file_name().to_str().and_then(|it| it.parse::<u32>().ok()).unwrap_or(0)
    });
    let debian = newest.map(|it| it.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = debian.into_iter().chain(std::env::split_paths(&path));
    all.find(|it| is_there(it)).expect("PostgreSQL is not installed: scripts/setup.sh does it")
}

fn is_there(folder: &Path) -> bool {
    folder.join("initdb").exists()
}
