//! A PostgreSQL of our own, as an operator would run it: every commit is on the disk before it counts.
//! And what it says about the work it did.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::process::Folder;
use crate::Result;

const USER: &str = "tidegate";
/// A name among the sockets of its folder, and no more.
const PORT: &str = "5432";
const SETTINGS: [&str; 8] = [
    "listen_addresses=",
    "fsync=on",
    "shared_buffers=512MB",
    "max_wal_size=8GB",
    "max_connections=300",
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.track=top",
    "log_min_messages=fatal",
];

pub struct Database {
    server: Child,
    /// Short, since the path of a socket has 107 bytes at most.
    sockets: PathBuf,
    _folder: Folder,
}

/// What it had done by some moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub statements: f64,
    pub transactions: f64,
    pub wal_bytes: f64,
    pub disk_bytes: f64,
    /// Processor time of all its processes.
    pub cpu: Duration,
}

impl Database {
    /// Makes one below this folder, on the disk that is to be measured.
    pub fn start(data: &Path) -> Result<Self> {
        let name = format!("postgres-{}", std::process::id());
        let folder = Folder::new(std::path::absolute(data)?.join(&name));
        let sockets = std::env::temp_dir().join(format!("tg-bench-{}", std::process::id()));
        for it in [folder.path(), &sockets] {
            fs::create_dir_all(it)?;
            if is_root() {
                run(Command::new("chown").arg("postgres").arg(it))?;
            }
        }
        let data = folder.path().join("data");
        let mut initdb = command("initdb")?;
        initdb.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "-U", USER]);
        run(initdb.arg("-D").arg(&data))?;
        let mut postgres = command("postgres")?;
        postgres.arg("-D").arg(&data).args(["-p", PORT]);
        let folder_of_sockets = format!("unix_socket_directories={}", sockets.display());
        for setting in SETTINGS.into_iter().chain([folder_of_sockets.as_str()]) {
            postgres.args(["-c", setting]);
        }
        let log = fs::File::create(folder.path().join("log"))?;
        postgres.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let database = Self { server: postgres.spawn()?, sockets, _folder: folder };
        let begun = Instant::now();
        while let Err(error) = database.sql("postgres", "SELECT 1") {
            if begun.elapsed() > Duration::from_secs(20) {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(database)
    }

    /// Makes a new, empty database: the address that a gateway is given.
    pub fn create(&self, name: &str) -> Result<String> {
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        self.sql(name, "CREATE EXTENSION pg_stat_statements")?;
        let sockets = self.sockets.display().to_string().replace('/', "%2F");
        Ok(format!("postgres://{USER}@{sockets}:{PORT}/{name}"))
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        self.sql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)")).map(|_| ())
    }

    /// What it has done so far, in this database and, of WAL and processor time, in all.
    pub fn done(&self, name: &str) -> Result<Done> {
        let sql = format!(
            "SELECT (SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d \
             ON d.oid = s.dbid WHERE d.datname = '{name}'), \
             (SELECT xact_commit FROM pg_stat_database WHERE datname = '{name}'), \
             pg_current_wal_lsn() - '0/0', pg_database_size('{name}')"
        );
        let text = self.sql(name, &sql)?;
        let fields: Vec<f64> = text.split('|').filter_map(|it| it.parse().ok()).collect();
        let [statements, transactions, wal_bytes, disk_bytes] = fields.as_slice() else {
            return Err(format!("the database says {text}").into());
        };
        Ok(Done {
            statements: *statements,
            transactions: *transactions,
            wal_bytes: *wal_bytes,
            disk_bytes: *disk_bytes,
            cpu: self.cpu(),
        })
    }

    /// What it was asked most often, for people: calls, rows, milliseconds, and the statement.
    pub fn statements(&self, name: &str) -> Result<String> {
        let sql = format!(
            "SELECT calls, rows, round(total_exec_time), left(regexp_replace(query, '\\s+', ' ', 'g'), 150) \
             FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = '{name}' \
             ORDER BY calls DESC LIMIT 25"
        );
        self.sql(name, &sql)
    }

    /// Of the server, of its processes, and of those that have ended.
    fn cpu(&self) -> Duration {
        /// `USER_HZ`, which is the same on every Linux that people run.
        const TICKS_PER_SECOND: f64 = 100.0;
        let server = self.server.id();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ticks: f64 = processes
            .filter_map(|it| {
                let id: u32 = it.file_name().to_str()?.parse().ok()?;
                let stat = fs::read_to_string(it.path().join("stat")).ok()?;
                // The name, in brackets, may hold anything. Behind it: state, parent, …
                let fields: Vec<f64> = stat
                    .rsplit(')')
                    .next()?
                    .split_whitespace()
                    .map(|it| it.parse().unwrap_or(0.0))
                    .collect();
                let time = |places: std::ops::Range<usize>| -> Option<f64> {
                    Some(fields.get(places)?.iter().sum())
                };
                match id == server {
                    true => time(11..15),
                    false if fields.get(1) == Some(&f64::from(server)) => time(11..13),
                    false => None,
                }
            })
            .sum();
        Duration::from_secs_f64(ticks / TICKS_PER_SECOND)
    }

    fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = command("psql")?;
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", database]);
        run(psql.args(["-p", PORT, "-h"]).arg(&self.sockets).args(["-c", sql]))
    }
}

impl Done {
    pub fn since(self, before: Self) -> Self {
        Self {
            statements: self.statements - before.statements,
            transactions: self.transactions - before.transactions,
            wal_bytes: self.wal_bytes - before.wal_bytes,
            disk_bytes: self.disk_bytes - before.disk_bytes,
            cpu: self.cpu.saturating_sub(before.cpu),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-QUIT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

/// A program of PostgreSQL, which ends with us and is not root.
fn command(program: &str) -> Result<Command> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.max_by_key(|it| {
        it.file_name().to_str().and_then(|it| it.parse::<u32>().ok()).unwrap_or(0)
    });
    let debian = newest.map(|it| it.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = debian.into_iter().chain(std::env::split_paths(&path));
    let found = all.find(|it| it.join("initdb").exists());
    let found = found.ok_or("PostgreSQL is not installed: `make setup` does it")?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg("--").arg(found.join(program)).current_dir("/");
    Ok(command)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {text}").into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0)
}
