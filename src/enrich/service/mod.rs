//! One look-up outside: its cache, its turns, its breaker, and what is asked in the end.

mod http;
mod postgres;

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{FutureExt as _, Shared as SharedFuture, WeakShared};
use tokio::{sync::Semaphore, time::Instant};

use self::{http::Http, postgres::Postgres};
use super::{Failed, Parts, breaker::ServiceBreaker, cache::Cache};
use crate::{
    clock::Clock,
    model::{Lookup, LookupSettings, Name, RawJson},
    pipeline::LookupStatus,
};

/// Why there is no answer, without anything that may be secret.
#[derive(Clone, Debug, PartialEq)]
enum Trouble {
    Timeout,
    /// It answered, but not what was asked: a fault of one question, not of the service.
    Refused(String),
    Broken(String),
}

pub struct Service {
    name: Name,
    inner: Arc<Inner>,
    asked: Mutex<HashMap<String, WeakShared<ServiceAnswer>>>,
}

struct Inner {
    /// Or why it cannot be asked at all.
    client: Result<Client, String>,
    cache: Cache,
    turns: Semaphore,
    breaker: ServiceBreaker,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

/// Who is asked.
enum Client {
    Http(Box<Http>),
    Postgres(Box<Postgres>),
}

type ServiceAnswer =
    Pin<Box<dyn Future<Output = Result<Option<RawJson>, (LookupStatus, String)>> + Send>>;

impl Service {
    /// Opens its secrets. Where that fails, each question says why. `None`: it is no service.
    pub fn new(lookup: &Lookup, parts: &Parts) -> Option<Self> {
        let (vault, egress) = (&parts.vault, &parts.egress);
        let (client, limits) = match &lookup.settings {
            LookupSettings::Table(_) => return None,
            LookupSettings::Http(it) => {
                let http = Http::new(lookup, it, vault, egress);
                (http.map(|it| Client::Http(Box::new(it))), &it.limits)
            }
            LookupSettings::Postgres(it) => {
                let postgres = Postgres::new(lookup, it, vault, egress);
                (postgres.map(|it| Client::Postgres(Box::new(it))), &it.limits)
            }
        };
        let inner = Inner {
            client,
            cache: Cache::new(limits.cache.entries, limits.cache.found, limits.cache.missing),
            turns: Semaphore::new(limits.concurrency.get() as usize),
            breaker: ServiceBreaker::default(),
            timeout: limits.timeout,
            clock: parts.clock.clone(),
        };
        let name = lookup.name.clone();
        Some(Self { name, inner: Arc::new(inner), asked: Mutex::default() })
    }

    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// What it knows. Who asks the same at the same time shares the question.
    pub async fn ask(&self, key: &str, domain: &str) -> Result<Option<RawJson>, Failed> {
        if let Some(known) = self.inner.cache.get(key, self.inner.clock.steady()) {
            metrics::counter!("tidegate_enrichment_cached_total", "lookup" => self.name.to_string())
                .increment(1);
            return Ok(known);
        }
        let answered = self.shared(key, domain).await;
        answered.map_err(|(status, reason)| Failed { status, from: self.name.to_string(), reason })
    }

    fn shared(&self, key: &str, domain: &str) -> SharedFuture<ServiceAnswer> {
        /// From here on, questions that nobody waits for any more are looked for.
        const MANY: usize = 1024;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = asked.get(key).and_then(WeakShared::upgrade) {
            return shared;
        }
        if asked.len() >= MANY {
            asked.retain(|_, it| it.upgrade().is_some());
        }
        let (inner, name) = (self.inner.clone(), self.name.to_string());
        let (owned, domain) = (key.to_owned(), domain.to_owned());
        let question: ServiceAnswer =
            Box::pin(async move { inner.ask(&name, &owned, &domain).await });
        let shared = question.shared();
        asked.extend(shared.downgrade().map(|it| (key.to_owned(), it)));
        shared
    }
}

impl Inner {
    async fn ask(
        &self,
        name: &str,
        key: &str,
        domain: &str,
    ) -> Result<Option<RawJson>, (LookupStatus, String)> {
        let client = self.client.as_ref().map_err(|it| (LookupStatus::Failed, it.clone()))?;
        let deadline = Instant::now() + self.timeout;
        let waited = tokio::time::timeout_at(deadline, self.turns.acquire()).await;
        let Ok(_turn) = waited else {
            return Err((
                LookupStatus::Overloaded,
                "too many questions wait for their turn".to_owned(),
            ));
        };
        if !self.breaker.allows(self.clock.steady()) {
            let reason = "it failed again and again, and is left alone for a while".to_owned();
            return Err((LookupStatus::Failed, reason));
        }
        let begun = Instant::now();
        let answered = match client {
            Client::Http(it) => it.ask(key, domain, deadline).await,
            Client::Postgres(it) => it.ask(key, deadline).await,
        };
        let now = self.clock.steady();
        let word = match &answered {
            Ok(Some(_)) => "found",
            Ok(None) => "not_found",
            Err(Trouble::Timeout) => "timeout",
            Err(Trouble::Refused(_) | Trouble::Broken(_)) => "failed",
        };
        let labels = [("lookup", name.to_owned()), ("status", word.to_owned())];
        metrics::counter!("tidegate_enrichment_asked_total", &labels).increment(1);
        metrics::histogram!("tidegate_enrichment_seconds", "lookup" => name.to_owned())
            .record(begun.elapsed());
        match answered {
            Ok(answer) => {
                self.breaker.succeeded();
                self.cache.put(key, answer.clone(), now);
                Ok(answer)
            }
            Err(Trouble::Refused(reason)) => {
                self.breaker.succeeded();
                Err((LookupStatus::Failed, reason))
            }
            Err(Trouble::Timeout) => {
                self.breaker.failed(now);
                Err((LookupStatus::Timeout, "no answer in time".to_owned()))
            }
            Err(Trouble::Broken(reason)) => {
                self.breaker.failed(now);
                Err((LookupStatus::Failed, reason))
            }
        }
    }
}
