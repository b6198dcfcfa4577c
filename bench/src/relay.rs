//! The bare relay: takes a body, forwards it with hyper-util's pooled client, and keeps nothing.
//!
//! It is the mark that the gateway is measured by, so it does no more than it must: no store, no
//! signature, no retry, and one copy of a body for all of its targets.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::sync::Semaphore;

use crate::{Result, serve::serve};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where each body goes. Given several times, it goes to all of them.
    #[arg(long = "to", required = true)]
    to: Vec<Uri>,
    /// Answer when the body has been forwarded, instead of at once.
    #[arg(long)]
    wait: bool,
    /// Requests on their way to one target at once. When there are as many, senders wait.
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
}

struct Relay {
    client: Client<HttpConnector, Full<Bytes>>,
    targets: Vec<Target>,
    wait: bool,
}

struct Target {
    url: Uri,
    room: Arc<Semaphore>,
}

pub async fn run(options: Options) -> Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(options.concurrency)
        .build(connector);
    let targets = options.to.into_iter();
    let targets = targets
        .map(|url| Target { url, room: Arc::new(Semaphore::new(options.concurrency)) })
        .collect();
    let relay = Arc::new(Relay { client, targets, wait: options.wait });
    serve(options.listen, move |request| {
        let relay = relay.clone();
        async move { relay.take(request).await }
    })
    .await
}

impl Relay {
    async fn take(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let Ok(body) = request.into_body().collect().await else {
            return answer(StatusCode::BAD_REQUEST);
        };
        let body = body.to_bytes();
        let mut forwards = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            let Ok(room) = target.room.clone().acquire_owned().await else {
                return answer(StatusCode::SERVICE_UNAVAILABLE);
            };
            let (client, url, body) = (self.client.clone(), target.url.clone(), body.clone());
            forwards.push(tokio::spawn(async move {
                let _room = room;
                forward(&client, url, body).await
            }));
        }
        if self.wait {
            for forward in forwards {
                if !matches!(forward.await, Ok(Ok(()))) {
                    return answer(StatusCode::BAD_GATEWAY);
                }
            }
        }
        answer(StatusCode::ACCEPTED)
    }
}

async fn forward(client: &Client<HttpConnector, Full<Bytes>>, url: Uri, body: Bytes) -> Result<()> {
    let request =
        Request::post(url).header(CONTENT_TYPE, "application/json").body(Full::new(body))?;
    let response = client.request(request).await?;
    // Read to its end, so that the connection can be used again.
    response.into_body().collect().await?;
    Ok(())
}

fn answer(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"{\"id\":\"evt_0\"}")));
    *response.status_mut() = status;
    response
}
