//! The receivers of `tests/judges/receivers.mjs`, as a process that lives as long as the test.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
};

use crate::harness::sink::Received;

pub struct Receivers {
    port: u16,
    process: Child,
}

impl Receivers {
    /// All of them share this secret.
    pub fn with_secret(secret: &str) -> Self {
        let mut process = Command::new("node")
            .arg(folder().join("receivers.mjs"))
            .env("SECRET", secret)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("the receivers did not start");
        Self { port, process }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What the receiver answers to a request that was received elsewhere, with another body.
    pub async fn judge(&self, path: &str, request: &Received, body: &[u8]) -> u16 {
        let mut text = format!("{} {path} HTTP/1.1\r\n", request.method);
        for (name, value) in &request.headers {
            if name != "content-length" {
                text += &format!("{name}: {}\r\n", value.to_str().unwrap());
            }
        }
        text += &format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let socket = TcpSocket::new_v4().unwrap();
        let mut stream = socket.connect(([127, 0, 0, 1], self.port).into()).await.unwrap();
        stream.write_all(&[text.as_bytes(), body].concat()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let status = answer.get(9..12).expect("an answer");
        std::str::from_utf8(status).unwrap().parse().unwrap()
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

pub fn folder() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(target).join("judges");
    assert!(
        folder.join("installed").exists(),
        "the outside judges are not installed: run `make test`, or tests/judges/install.sh"
    );
    folder
}
