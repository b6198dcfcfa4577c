//! One keep-alive connection to the gateway.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::gateway::{KEY, PROJECT};

/// What came of a request.
#[derive(Debug)]
pub enum Failure {
    /// Nobody listens: nothing was sent.
    NotSent,
    /// The connection broke, or no answer came: the other side may have heard it or not.
    NoAnswer,
}

pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    pub address: SocketAddr,
    /// Whose events it posts.
    pub project: &'static str,
    /// How long it waits for an answer.
    pub patience: Duration,
}

impl Connection {
    #[allow(clippy::disallowed_methods, reason = "the gateway that this very suite has started")]
    pub async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await.map_err(|_| Failure::NotSent)?;
        stream.set_nodelay(true).map_err(|_| Failure::NotSent)?;
        let handshake = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|_| Failure::NotSent)?;
        tokio::spawn(connection);
        const PATIENCE: Duration = Duration::from_secs(20);
        Ok(Self { sender, address, project: PROJECT, patience: PATIENCE })
    }

    /// Posts JSON, and returns the status and the body of the answer.
    pub async fn post(&mut self, path: &str, body: String) -> Result<(u16, Bytes), Failure> {
        self.post_as("application/json", path, body).await
    }

    pub async fn post_as(
        &mut self,
        content_type: &str,
        path: &str,
        body: String,
    ) -> Result<(u16, Bytes), Failure> {
        let request = Request::post(path)
            .header("host", "localhost")
            .header("content-type", content_type)
            .header("authorization", format!("Bearer {KEY}"))
            .header("tidegate-project", self.project)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        self.send(request).await
    }

    /// The status and the body of a GET, as whoever may do everything.
    pub async fn read(&mut self, path: &str) -> Result<(u16, Bytes), Failure> {
        let request = Request::get(path)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {KEY}"))
            .header("tidegate-project", self.project)
            .body(Full::default())
            .unwrap();
        self.send(request).await
    }

    /// The status of a GET over a connection of its own.
    pub async fn get(address: SocketAddr, path: &str) -> Result<u16, Failure> {
        Self::fetch(address, path).await.map(|(status, _)| status)
    }

    /// The status and the body of a GET over a connection of its own.
    pub async fn fetch(address: SocketAddr, path: &str) -> Result<(u16, Bytes), Failure> {
        let mut connection = Self::open(address).await?;
        let request = Request::get(path).header("host", "localhost").body(Full::default()).unwrap();
        connection.send(request).await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), Failure> {
        let answer = async {
            // The answer before may be read, and its connection not yet be free again.
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status().as_u16();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(Failure::NoAnswer),
        }
    }
}
