//! The real program and the machine that it runs on: wrong folders, signals, few files, a database that is away.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tidegate::app::folder;
use tokio::net::TcpStream;

use crate::{
    cli::program::{Running, run, stderr, tidegate},
    crash::http::Connection,
    harness::postgres::Postgres,
};

fn serve(data: &Path, more: &[&str]) -> Command {
    let mut words = vec!["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    words.extend(more);
    tidegate(&words)
}

fn address(gateway: &Running) -> SocketAddr {
    let line: serde_json::Value = serde_json::from_str(&gateway.note("\"listening\"")).unwrap();
    line["address"].as_str().unwrap().parse().unwrap()
}

/// B20
#[test]
fn a_new_store_is_told_and_made_only_where_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("typo");
    let gateway = Running::start(&mut serve(&data, &[]));
    let said = gateway.note("creating a new, empty store in");
    assert!(said.contains(data.to_str().unwrap()) && said.contains("WARN"), "{said}");
    address(&gateway);
    assert_eq!(gateway.interrupt(), Some(0));

    let other = folder.path().join("photos");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("holiday.jpg"), "").unwrap();
    let refused = run(&mut serve(&other, &[]), b"");
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("`holiday.jpg` is not Tidegate's"), "{}", stderr(&refused));
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1, "something was made");
}

/// B16
#[test]
fn a_folder_whose_store_was_moved_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let address = "postgres://me:canary@db.acme.com/events".parse().unwrap();
    folder::mark_moved(folder.path(), &address).unwrap();
    let refused = run(&mut serve(folder.path(), &[]), b"");
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("db.acme.com") && said.contains("--force"), "{said}");
    assert!(!said.contains("canary"), "{said}");
    let gateway = Running::start(&mut serve(folder.path(), &["--force"]));
    gateway.note("\"listening\"");
    assert_eq!(gateway.interrupt(), Some(0));
}

/// B22
#[test]
fn a_database_that_is_away_at_a_start_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = format!("postgres://me@{nobody}/events");
    let refused = run(&mut serve(folder.path(), &["--store", &store]), b"");
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot be used") && !said.contains("is gone"), "{said}");
}

/// R3
#[test]
fn a_database_without_checksums_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let database = Postgres::without_checksums();
    let store = database.url("postgres");
    let gateway = Running::start(&mut serve(folder.path(), &["--store", &store]));
    let said = gateway.note("the database has no checksums of its pages");
    assert!(said.contains("WARN") && said.contains("pg_checksums --enable"), "{said}");
    address(&gateway);
    assert_eq!(gateway.interrupt(), Some(0));
}

/// B26
#[tokio::test]
async fn a_hangup_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Running::start(&mut serve(folder.path(), &[]));
    let address = address(&gateway);
    gateway.signal("HUP");
    gateway.note("SIGHUP is ignored");
    assert_eq!(Connection::get(address, "/healthz").await.unwrap(), 200);
    assert_eq!(gateway.interrupt(), Some(0));
}

/// R13
#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "a client of the gateway that this test has started")]
async fn with_few_files_idle_connections_take_nobodys_place() {
    for files in [64, 256] {
        // Given a gateway that may have few files open, and clients that hold connections for nothing,
        let folder = tempfile::tempdir().unwrap();
        let serve = serve(folder.path(), &[]);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files}; exec \"$@\""), "sh"]);
        command.arg(serve.get_program()).args(serve.get_args()).env_clear();
        let gateway = Running::start(command.env("PATH", "/usr/bin:/bin"));
        let address = address(&gateway);
        let mut idle = Vec::new();
        for _ in 0..files * 2 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }

        // then who asks is answered, within the second that others may pause,
        let begun = Instant::now();
        let mut answered = 0;
        while answered < 10 {
            assert!(begun.elapsed() < Duration::from_secs(8), "{answered} answers, {files} files");
            match Connection::get(address, "/healthz").await {
                Ok(200) => answered += 1,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        // and the store has its files.
        assert_eq!(Connection::get(address, "/readyz").await.unwrap(), 200);
        assert_eq!(gateway.interrupt(), Some(0));
    }
}
