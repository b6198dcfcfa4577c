//! What all stages stand on: metrics, vault, store and catalogue, opened in this order.

use std::{fs, path::Path, sync::Arc};

use metrics_exporter_prometheus::PrometheusHandle;

use super::{HINTED_BYTES, HINTS, Parts, StartError, apply, weigh_events};
use crate::{
    catalog::Registrar,
    config::Config,
    crypto::{Random, Vault},
    hint,
    model::Event,
    resources::File,
    store::{self, Database, StoreError, sqlite::SqliteStore},
    telemetry,
};

/// What all stages stand on.
pub(super) struct Ground {
    pub metrics: PrometheusHandle,
    pub vault: Arc<Vault>,
    pub database: Arc<dyn Database>,
    pub registrar: Arc<Registrar>,
    /// Events as they are accepted, for the pipelines.
    pub events: hint::Receiver<Vec<Arc<Event>>, bool>,
}

impl Ground {
    pub async fn open(
        config: &Config,
        parts: &Parts,
        resources: Option<&File>,
    ) -> Result<Self, StartError> {
        let metrics = telemetry::start_metrics()?;
        let vault = open_vault(&config.data, parts)?;
        let (accepted, events) = hint::weighed_channel(HINTS, HINTED_BYTES, weigh_events);
        let database = open_store(config, parts, accepted).await?;
        let registrar = Registrar::open(database.clone()).await;
        let registrar = Arc::new(registrar.map_err(|source| at(&config.data, source))?);
        if let Some(file) = resources {
            apply(file, &registrar, &vault, parts, config.resources)
                .await
                .map_err(StartError::Resources)?;
        }
        Ok(Self { metrics, vault, database, registrar, events })
    }
}

fn open_vault(data: &Path, parts: &Parts) -> Result<Arc<Vault>, StartError> {
    let failed = |source| StartError::Folder { path: data.to_owned(), source };
    fs::create_dir_all(data).map_err(failed)?;
    let file = data.join("master.key");
    let vault = Vault::load_or_create(&file, parts.master_key.as_ref(), parts.random.clone());
    vault.map(Arc::new).map_err(StartError::MasterKey)
}

async fn open_store(
    config: &Config,
    parts: &Parts,
    accepted: hint::Sender<Vec<Arc<Event>>, bool>,
) -> Result<Arc<dyn Database>, StartError> {
    let (path, options) = (config.data.clone(), config.store.clone());
    let (clock, random) = (parts.clock.clone(), parts.random.clone());
    let open = move || {
        let random = in_stock(random);
        SqliteStore::open(&path, options, clock, random, accepted)
    };
    let opened = tokio::task::spawn_blocking(open).await.unwrap_or(Err(StoreError::Closed));
    Ok(Arc::new(opened.map_err(|source| at(&config.data, source))?))
}

/// Asks for a good many numbers at once: each question is a call of the system.
fn in_stock(random: Arc<dyn Random>) -> store::sqlite::Random {
    const NUMBERS: usize = 32;
    let mut stock: Vec<u64> = Vec::with_capacity(NUMBERS);
    Box::new(move || match stock.pop() {
        Some(number) => number,
        None => {
            let mut bytes = [0; NUMBERS * 8];
            random.fill(&mut bytes);
            let (numbers, _) = bytes.as_chunks();
            stock.extend(numbers.iter().copied().map(u64::from_le_bytes));
            stock.pop().unwrap_or_else(|| random.u64())
        }
    })
}

fn at(path: &Path, source: StoreError) -> StartError {
    StartError::Store { path: path.to_owned(), source }
}
