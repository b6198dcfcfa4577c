//! TLS and passwords to the database: who asks for TLS gets it verified, and no password is repeated.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use tempfile::{NamedTempFile, TempDir};
use tidegate::store::{Store as _, StoreError, postgres::Address};

use super::home::postgres;
use crate::harness::{authority::Authority, postgres::Postgres};

const PASSWORD: &str = "pa55-w0rd-s3cret";
/// What the certificate is for.
const NAME: &str = "db.example.com";

/// A server that takes `secure` with a password under TLS only, and an administrator without either.
fn server(authority: &Authority) -> Postgres {
    let prepare = |data: &Path| {
        let (certificate, key) = authority.pems(NAME);
        fs::write(data.join("server.crt"), certificate).unwrap();
        fs::write(data.join("server.key"), key).unwrap();
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(data.join("server.key"), private).unwrap();
        let rules = "hostnossl all tidegate 127.0.0.1/32 trust\n\
                     hostssl all secure 127.0.0.1/32 scram-sha-256\n";
        fs::write(data.join("pg_hba.conf"), rules).unwrap();
        vec!["ssl=on".to_owned(), "password_encryption=scram-sha-256".to_owned()]
    };
    Postgres::with(prepare)
}

/// A file of roots that are believed.
fn roots(authority: &Authority) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), authority.pem()).unwrap();
    file
}

async fn opens(url: &str) -> Result<(), StoreError> {
    let address: Address = url.parse().unwrap();
    let (store, _, _) = postgres(&address, 1).await?;
    store.close().await;
    Ok(())
}

/// Everything that could be shown of an error.
fn told(error: &StoreError) -> String {
    let mut text = format!("{error:?} {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_verifies_the_server_and_hides_passwords() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (our_roots, their_roots) = (roots(&ours), roots(&theirs));
    let server = server(&ours);
    server.run("postgres", &format!("CREATE ROLE secure LOGIN PASSWORD '{PASSWORD}'")).await;
    server.run("postgres", "CREATE DATABASE events OWNER secure").await;
    let port = server.port();
    let url = |host: &str, password: &str, parameters: &str| {
        format!("postgres://secure:{password}@{host}:{port}/events?{parameters}")
    };
    let with = |roots: &NamedTempFile| format!("&sslrootcert={}", roots.path().display());
    // The name of the certificate, and where it is.
    let named = "&hostaddr=127.0.0.1";
    let verified = format!("sslmode=verify-full{}{named}", with(&our_roots));
    for (parameters, host) in [
        (verified.clone(), NAME),
        (format!("sslmode=require{}{named}", with(&our_roots)), NAME),
        // Nobody asked for it, so it is as good as what stands in its place.
        (String::new(), "127.0.0.1"),
        ("sslmode=prefer".to_owned(), "127.0.0.1"),
    ] {
        opens(&url(host, PASSWORD, &parameters)).await.unwrap();
    }
    for (parameters, host, password, reason) in [
        (format!("sslmode=require{named}"), NAME, PASSWORD, "UnknownIssuer"),
        (format!("sslmode=verify-full{named}"), NAME, PASSWORD, "UnknownIssuer"),
        (
            format!("sslmode=verify-full{named}{}", with(&their_roots)),
            NAME,
            PASSWORD,
            "certificate",
        ),
        (
            format!("sslmode=verify-full{}", with(&our_roots)),
            "127.0.0.1",
            PASSWORD,
            "not valid for",
        ),
        ("sslmode=disable".to_owned(), "127.0.0.1", PASSWORD, "no pg_hba.conf entry"),
        (verified.clone(), NAME, "wr0ng-pa55-s3cret", "password authentication failed"),
        (format!("sslmode=require{named}&sslrootcert=/nowhere"), NAME, PASSWORD, "No such file"),
    ] {
        let text = told(&opens(&url(host, password, &parameters)).await.unwrap_err());
        assert!(text.contains(reason), "{parameters}: {text}");
        assert!(!text.contains("s3cret"), "{parameters}: {text}");
    }
    // And what a whole gateway tells its operator
    let data = TempDir::new().unwrap();
    for (password, parameters) in [("wr0ng-pa55-s3cret", &verified), (PASSWORD, &String::new())] {
        let host = if parameters.is_empty() { "127.0.0.1:1,127.0.0.1" } else { NAME };
        let run = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data.path())
            .env("TIDEGATE_STORE", url(host, password, &format!("{parameters}&sslmode=require")))
            .env("RUST_LOG", "trace")
            .output()
            .unwrap();
        let text = [run.stdout, run.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(!run.status.success() && text.contains("cannot be used"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
