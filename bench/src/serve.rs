//! The accept loop of sink and relay: HTTP/1.1 by hyper, one task for each connection.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::Result;

/// A server that was forgotten ends by itself.
const LONGEST_LIFE: Duration = Duration::from_secs(4 * 3600);

/// Serves until the process is ended. The first line on stdout says where: `listening on ADDRESS`.
pub async fn serve<Handler, Answer, Body>(listen: SocketAddr, handler: Handler) -> Result<()>
where
    Handler: Fn(Request<Incoming>) -> Answer + Clone + Send + 'static,
    Answer: Future<Output = Response<Body>> + Send + 'static,
    Body: hyper::body::Body + Send + 'static,
    Body::Data: Send,
    Body::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    let accept = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, most likely; some will be free again soon.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            // Answers are small and waited for.
            drop(stream.set_nodelay(true));
            let handler = handler.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                // A peer that goes away in the middle is its own affair.
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    };
    drop(tokio::time::timeout(LONGEST_LIFE, accept).await);
    Ok(())
}
