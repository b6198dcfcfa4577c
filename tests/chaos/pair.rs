//! Two PostgreSQL servers: one that takes writes, and a standby that has every commit before it counts.
//!
//! This is how an operator has to set it up if a promotion is to lose nothing that was acknowledged; what
//! is done here by hand, a tool such as Patroni does. Both listen on sockets of a folder that nobody else
//! knows, under ports that are only names.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::harness::cluster::{command, give_away, run, stop_after_us};

const USER: &str = "tidegate";
const DATABASE: &str = "tidegate";
const PORTS: [u16; 2] = [5001, 5002];
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Pair {
    folder: PathBuf,
    /// Which of the two takes writes.
    primary: usize,
}

impl Pair {
    pub fn start() -> Self {
        // Short, since the path of a socket has 107 bytes at most.
        let folder = PathBuf::from(format!("/tmp/tg-pair-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        give_away(&folder);
        stop_after_us(&folder);
        let pair = Self { folder, primary: 0 };
        let mut initdb = command("initdb");
        initdb.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-U", USER]);
        run(initdb.arg("-D").arg(pair.data(0)));
        pair.control(0, &["-w", "start"]);
        pair.sql("postgres", &format!("CREATE DATABASE {DATABASE}"));
        pair.join();
        pair
    }

    /// What a gateway is told: it finds out by itself which of them takes writes.
    pub fn url(&self) -> String {
        let socket = self.folder.display().to_string().replace('/', "%2F");
        let [one, other] = PORTS;
        format!(
            "postgres://{USER}@{socket}:{one},{socket}:{other}/{DATABASE}?target_session_attrs=read-write"
        )
    }

    /// As after a crash of the server: what was committed is read back from its log.
    pub fn restart(&self) {
        self.control(self.primary, &["-m", "immediate", "-w", "restart"]);
    }

    /// Ends every session of a gateway.
    pub fn terminate(&self) {
        let sessions = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        self.sql(DATABASE, sessions);
    }

    /// The server that takes writes is gone for ever, and the other one takes its place. Until
    /// [`Self::join`] it is alone.
    pub fn promote(&mut self) {
        self.control(self.primary, &["-m", "immediate", "-w", "stop"]);
        self.primary = 1 - self.primary;
        self.control(self.primary, &["-w", "promote"]);
    }

    /// Makes a new standby, and from then on a commit counts when both have it.
    pub fn join(&self) {
        let standby = 1 - self.primary;
        let data = self.data(standby);
        let _ = fs::remove_dir_all(&data);
        let mut copy = command("pg_basebackup");
        copy.args([
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-sync",
            "--write-recovery-conf",
        ]);
        copy.args(["-U", USER, "-p", &PORTS[self.primary].to_string(), "-h"]);
        run(copy.arg(&self.folder).arg("-D").arg(&data));
        self.control(standby, &["-w", "start"]);
        let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        self.wait_for(streaming, "1", "the standby does not follow");
        // Not before: a server that waits for a standby that is not there commits nothing.
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.sql("postgres", "SELECT pg_reload_conf()");
        let synchronous = "SELECT sync_state FROM pg_stat_replication";
        self.wait_for(synchronous, "sync", "the standby does not become synchronous");
    }

    fn wait_for(&self, sql: &str, wanted: &str, otherwise: &str) {
        let begun = Instant::now();
        while self.sql("postgres", sql) != wanted {
            assert!(begun.elapsed() < PATIENCE, "{otherwise}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// `pg_ctl` on one of them.
    fn control(&self, server: usize, arguments: &[&str]) {
        // What kills the process loses nothing without fsync, either; a power cut would. A standby that
        // lost its server asks for it again at once: until it is back, nothing can be committed.
        let options = format!(
            "-p {} -c listen_addresses= -c unix_socket_directories={} -c max_connections=400 \
             -c fsync=off -c full_page_writes=off -c shared_buffers=64MB -c max_wal_size=4GB \
             -c wal_retrieve_retry_interval=200ms",
            PORTS[server],
            self.folder.display(),
        );
        let mut control = command("pg_ctl");
        control.arg("-D").arg(self.data(server)).arg("-l").arg(self.folder.join("log"));
        run(control.args(["-o", &options]).args(arguments));
    }

    /// Runs SQL as an administrator does, where writes are taken.
    fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = command("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", database]);
        psql.args(["-p", &PORTS[self.primary].to_string(), "-h"]).arg(&self.folder);
        run(psql.args(["-c", sql]))
    }

    fn data(&self, server: usize) -> PathBuf {
        self.folder.join(["one", "other"][server])
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for server in 0..PORTS.len() {
            let mut stop = command("pg_ctl");
            stop.arg("-D").arg(self.data(server)).args(["-m", "immediate", "-w", "stop"]);
            // One of them may be down already.
            let _ = stop.output();
        }
        let _ = fs::remove_dir_all::<&Path>(&self.folder);
    }
}
