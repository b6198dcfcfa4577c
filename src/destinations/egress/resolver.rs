//! Names to addresses.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::sync::Semaphore;

/// Looks names up. What it answers is judged before anything is dialled, and nothing is looked up
/// a second time in between.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// Every address of the name, in the order in which they should be tried.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The machine's resolver, with its hosts file and search order.
pub struct SystemResolver {
    /// A look-up holds a thread until the system answers, also after whoever asked has given up.
    threads: Arc<Semaphore>,
}

impl SystemResolver {
    const THREADS: usize = 64;
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { threads: Arc::new(Semaphore::new(Self::THREADS)) }
    }
}

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let permit = self.threads.clone().acquire_owned().await.map_err(io::Error::other)?;
        let name = name.to_owned();
        let lookup = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            (name.as_str(), 0).to_socket_addrs().map(|found| found.map(|it| it.ip()).collect())
        });
        lookup.await.map_err(io::Error::other)?
    }
}
