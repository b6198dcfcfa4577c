//! What every part of the store shares.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    NodeIdentity, Options, RandomSource,
    address::Address,
    append::PendingEvent,
    connect::{Connector, Loan, Session, SessionPool},
    gate::GateHashes,
    intake,
    leases::{self, Leases},
    lock, migrate,
    notifier::Notifier,
    values::{self, Uuid},
};
use crate::{
    clock::Clock,
    model::{EventId, IdSequence, IdempotencyKey, NewEvent, ProjectId},
    store::{Duty, Result, StoreError},
};

pub(super) struct Core {
    pub connector: Arc<Connector>,
    pub pool: Arc<SessionPool>,
    pub shards: u16,
    pub node: NodeIdentity,
    pub leases: Leases,
    pub notifier: Arc<Notifier>,
    pub clock: Arc<dyn Clock>,
    pub partition_events: i64,
    /// Keys the hashes of idempotency keys.
    secret: [u8; 32],
    ids: Mutex<(IdSequence, RandomSource)>,
    is_closed: AtomicBool,
    is_full: AtomicBool,
    /// Partitions of which too little may go, and until when they are not looked at again.
    pub unworthy: Mutex<HashMap<String, Timestamp>>,
}

impl Core {
    pub async fn open(
        address: &Address,
        options: &Options,
        node: NodeIdentity,
        clock: Arc<dyn Clock>,
        mut random: RandomSource,
    ) -> Result<Self> {
        let connector = Arc::new(Connector::new(address)?);
        let mut connection = connector.connect().await?;
        connection.be_patient();
        migrate::migrate(&mut connection).await?;
        intake::check_whole(&mut connection).await?;
        warn_without_checksums(&connection).await?;
        let secret = secret(&mut connection, &mut random).await?;
        let shards = shards(&mut connection, options.shards).await?;
        if node.is_alone {
            register(&mut connection, &node).await?;
        }
        let leases = Leases::default();
        if node.is_alone {
            for (duty, shard, epoch) in leases::take_all(&mut connection, node.id).await? {
                leases.hold(duty, shard, epoch);
            }
        }
        Ok(Self {
            pool: SessionPool::new(connector.clone(), options.readers),
            connector,
            shards,
            node,
            leases,
            notifier: Arc::default(),
            clock,
            // Bounds of partitions must fit the seqs of their deliveries.
            partition_events: i64::try_from(options.partition_events)
                .unwrap_or(i64::MAX)
                .clamp(1, 1 << 30),
            secret,
            ids: Mutex::new((IdSequence::default(), random)),
            is_closed: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            unworthy: Mutex::default(),
        })
    }

    /// What can be worked out about an event before a writer takes it.
    pub fn offer(&self, event: NewEvent) -> PendingEvent {
        let hashes = self.gate_hashes(event.project, event.key.as_ref(), event.id);
        let mut ids = lock(&self.ids);
        let (sequence, random) = &mut *ids;
        let random = random();
        let id = sequence.next(self.clock.now(), random);
        PendingEvent {
            // 0 stands for a body that is erased.
            digest: xxh3_64(event.payload.bytes()).max(1) as i64,
            shard: values::shard_of_project(event.project, self.shards),
            hashes,
            id,
            event,
        }
    }

    /// What makes an event unique in its project: its key, and the id that its sender gave it.
    pub fn gate_hashes(
        &self,
        project: ProjectId,
        key: Option<&IdempotencyKey>,
        given: Option<EventId>,
    ) -> GateHashes {
        const KEY: u8 = 0;
        const GIVEN_ID: u8 = 1;
        let hash = |namespace: u8, key: &str| {
            let digest = Sha256::new()
                .chain_update(self.secret)
                .chain_update([namespace])
                .chain_update(project.bits().to_be_bytes())
                .chain_update(key)
                .finalize();
            Uuid(u128::from_be_bytes(digest.as_chunks().0[0]))
        };
        GateHashes {
            key: key.map(|it| hash(KEY, it.as_str())),
            id: given.map(|it| hash(GIVEN_ID, &it.to_string())),
        }
    }

    /// A session to read with, or to write with now and then.
    pub async fn session(&self) -> Result<Loan> {
        self.check_open()?;
        self.pool.get().await
    }

    pub fn check_open(&self) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }

    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    /// How the last commit of events went.
    pub fn set_full(&self, is_full: bool) {
        if self.is_full.swap(is_full, Ordering::AcqRel) != is_full {
            if is_full {
                tracing::error!("the database has no room: no events are accepted until it has");
            } else {
                tracing::info!("the database has room again: events are accepted");
            }
        }
    }
}

/// The session of a writer, made again when the last one broke.
pub(super) async fn session<'a>(
    core: &Core,
    kept: &'a mut Option<Session>,
) -> Result<&'a mut Session> {
    if !kept.as_ref().is_some_and(Session::is_usable) {
        *kept = None;
        *kept = Some(core.connector.connect().await?);
    }
    kept.as_mut().ok_or(StoreError::Closed)
}

/// A bit that changes on the disk of the database is reported by the database, if it looks.
async fn warn_without_checksums(connection: &Session) -> Result<()> {
    let row = connection.client.query_one("SHOW data_checksums", &[]).await?;
    if row.try_get::<_, &str>(0)? != "on" {
        tracing::warn!(
            "the database has no checksums of its pages, so a bit that changes on its disk goes unnoticed; \
             they are on after `pg_checksums --enable`, with the database stopped"
        );
    }
    Ok(())
}

async fn secret(connection: &mut Session, random: &mut RandomSource) -> Result<[u8; 32]> {
    let mut secret = [0_u8; 32];
    for part in secret.chunks_mut(8) {
        part.copy_from_slice(&random().to_le_bytes());
    }
    let kept = setting(connection, "key_hash", &secret).await?;
    kept.try_into().map_err(|_| StoreError::Damaged { what: "secret of key hashes" })
}

/// How many shards there are: as many as the first node wanted.
pub(super) async fn shards(connection: &mut Session, wanted: u16) -> Result<u16> {
    /// Few enough that seqs have room for them.
    const MOST: u16 = 1024;
    let wanted = wanted.clamp(1, MOST);
    let kept = setting(connection, "shards", &wanted.to_be_bytes()).await?;
    let kept = kept.try_into().map_err(|_| StoreError::Damaged { what: "number of shards" })?;
    let shards = u16::from_be_bytes(kept);
    let firsts: Vec<i64> = (0..shards).map(|it| values::seq_to_row(values::first_of(it))).collect();
    let numbers: Vec<i32> = (0..shards).map(i32::from).collect();
    let sqls = [
        "INSERT INTO logs (shard, last, room) SELECT shard, first, first \
         FROM unnest($1::int[], $2::bigint[]) AS w (shard, first) ON CONFLICT DO NOTHING",
        "INSERT INTO plans (shard, through) SELECT shard, first \
         FROM unnest($1::int[], $2::bigint[]) AS w (shard, first) ON CONFLICT DO NOTHING",
    ];
    for sql in sqls {
        connection.execute(sql, &[&numbers, &firsts]).await?;
    }
    let sql = "INSERT INTO leases (kind, shard) \
               SELECT * FROM unnest($1::text[], $2::int[]) ON CONFLICT DO NOTHING";
    let of = |duty: Duty| (0..duty.shards(shards)).map(move |it| (duty.as_str(), i32::from(it)));
    let (kinds, numbers): (Vec<&str>, Vec<i32>) = Duty::ALL.into_iter().flat_map(of).unzip();
    connection.execute(sql, &[&kinds, &numbers]).await?;
    Ok(shards)
}

/// A value of this database, given by whoever comes first.
pub(super) async fn setting(connection: &mut Session, name: &str, first: &[u8]) -> Result<Vec<u8>> {
    let sql = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    connection.execute(sql, &[&name, &first]).await?;
    let rows = connection.query("SELECT value FROM meta WHERE name = $1", &[&name]).await?;
    let row = rows.first().ok_or(StoreError::Damaged { what: "setting" })?;
    Ok(row.try_get(0)?)
}

async fn register(connection: &mut Session, node: &NodeIdentity) -> Result<()> {
    let sql = "INSERT INTO nodes (id, name, roles, address, version) VALUES ($1, $2, $3, $4, $5) \
               ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()";
    let version = env!("CARGO_PKG_VERSION");
    let (id, NodeIdentity { name, roles, address, .. }) = (Uuid(node.id), node);
    connection.execute(sql, &[&id, name, roles, address, &version]).await?;
    Ok(())
}
