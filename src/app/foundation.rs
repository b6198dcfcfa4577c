//! What all stages stand on: metrics, vault, store and catalogue, opened in this order.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt as _, path::Path, sync::Arc};

use metrics_exporter_prometheus::PrometheusHandle;

use super::{
    HINTED_BYTES, HINTS, Parts, StartError, apply, master::MasterKeyFile, node::JoiningMember,
    seen::SeenFile, weigh_events,
};
use crate::{
    catalog::CatalogWriter,
    config::Config,
    crypto::{Random, Vault},
    destinations::egress::Egress,
    enrich::{self, CountryError, Enrichment},
    hint,
    model::Event,
    pipeline,
    resources::File,
    store::{
        self, Database, MemberId, Store, StoreError,
        postgres::{Address, NodeIdentity, PostgresStore},
        sqlite::SqliteStore,
    },
    telemetry,
};

/// What all stages stand on.
pub(super) struct Foundation {
    pub metrics: PrometheusHandle,
    pub vault: Arc<Vault>,
    pub database: Arc<dyn Database>,
    pub catalog_writer: Arc<CatalogWriter>,
    pub logs: Vec<ShardEvents>,
    /// Where many nodes share the database.
    pub newcomer: Option<JoiningMember>,
    pub seen: SeenFile,
}

/// Events in one order, for a pipeline of their own.
pub(super) struct ShardEvents {
    pub store: Arc<dyn Store>,
    /// As they are accepted.
    pub events: hint::Receiver<Vec<Arc<Event>>, bool>,
}

impl Foundation {
    pub async fn open(
        config: &Config,
        parts: &Parts,
        resources: Option<&File>,
    ) -> Result<Self, StartError> {
        let metrics = telemetry::start_metrics()?;
        make_folder(&config.data)?;
        let Opened { vault, database, logs, newcomer } = match &config.database {
            Some(address) => open_database(config, address, parts).await?,
            None => open_store(config, parts).await?,
        };
        let catalog_writer = CatalogWriter::open(database.clone()).await;
        let catalog_writer =
            Arc::new(catalog_writer.map_err(|source| cannot_open(config, source))?);
        if let Some(file) = resources {
            apply(file, &catalog_writer, &vault, parts, config.resources)
                .await
                .map_err(StartError::Resources)?;
        }
        let (catalog, clock) = (catalog_writer.current(), parts.clock.as_ref());
        let seen = SeenFile::look(&config.data, database.as_ref(), &catalog, clock).await;
        Ok(Self { metrics, vault, database, catalog_writer, logs, newcomer, seen })
    }

    /// What steps may ask, with whoever learns from events.
    pub fn lookups(
        &self,
        parts: &Parts,
        egress: &Egress,
        options: enrich::Options,
    ) -> Result<Arc<dyn pipeline::Lookups>, CountryError> {
        let (enrichment, learner) = Enrichment::new(enrich::Parts {
            database: self.database.clone(),
            catalog: self.catalog_writer.watch(),
            vault: self.vault.clone(),
            egress: egress.clone(),
            clock: parts.clock.clone(),
            options,
        })?;
        tokio::spawn(learner.run());
        Ok(Arc::new(enrichment))
    }
}

/// The data folder, which only its owner reads.
fn make_folder(data: &Path) -> Result<(), StartError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.map_err(|source| StartError::Folder { path: data.to_owned(), source })
}

struct Opened {
    vault: Arc<Vault>,
    database: Arc<dyn Database>,
    logs: Vec<ShardEvents>,
    newcomer: Option<JoiningMember>,
}

async fn open_store(config: &Config, parts: &Parts) -> Result<Opened, StartError> {
    let (accepted, events) = hint::weighed_channel(HINTS, HINTED_BYTES, weigh_events);
    let key = MasterKeyFile::find(&config.data, parts)?;
    let (path, options) = (config.data.clone(), config.store.clone());
    let (clock, random) = (parts.clock.clone(), parts.random.clone());
    let open = move || {
        let random = in_stock(random);
        SqliteStore::open(&path, options, clock, random, accepted)
    };
    let opened = tokio::task::spawn_blocking(open).await.unwrap_or(Err(StoreError::Closed));
    let store = Arc::new(opened.map_err(|source| cannot_open(config, source))?);
    let vault = key.of_store(&store).await?;
    let logs = vec![ShardEvents { store: store.clone(), events }];
    Ok(Opened { vault, database: store, logs, newcomer: None })
}

async fn open_database(
    config: &Config,
    address: &Address,
    parts: &Parts,
) -> Result<Opened, StartError> {
    let key = MasterKeyFile::find(&config.data, parts)?;
    let id = u128::from(parts.random.u64()) << 64 | u128::from(parts.random.u64());
    let (mut events, mut accepts) = (Vec::new(), Vec::new());
    let accept = |_| {
        let (accepted, hints) = hint::weighed_channel(HINTS, HINTED_BYTES, weigh_events);
        events.push(hints);
        accepts.push(accepted.clone());
        accepted
    };
    let (options, clock) = (config.postgres.clone(), parts.clock.clone());
    let random = in_stock(parts.random.clone());
    let node =
        NodeIdentity { id, name: String::new(), roles: vec![], address: None, is_alone: false };
    let opened = PostgresStore::open(address, options, node, clock, random, accept).await;
    let store = Arc::new(opened.map_err(|source| cannot_open(config, source))?);
    let vault = key.of_database(&store, address, |source| cannot_open(config, source)).await?;
    let log = |(shard, events)| ShardEvents { store: Arc::new(store.log(shard)), events };
    let logs = (0..).zip(events).map(log).collect();
    let newcomer = Some(JoiningMember { store: store.clone(), accepts, id: MemberId(id) });
    Ok(Opened { vault, database: store, logs, newcomer })
}

/// Asks for a good many numbers at once: each question is a call of the system.
fn in_stock(random: Arc<dyn Random>) -> store::sqlite::RandomSource {
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

pub(super) fn cannot_open(config: &Config, source: StoreError) -> StartError {
    match &config.database {
        Some(address) => StartError::Database { address: address.clone(), source },
        None => StartError::Store { path: config.data.clone(), source },
    }
}
