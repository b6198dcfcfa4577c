//! A PostgreSQL that knows rows by a key: one query, in a transaction that can only read.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::Instant;
use tokio_postgres::{
    Client,
    error::SqlState,
    types::{Format, IsNull, ToSql, Type, to_sql_checked},
};

use super::Trouble;
use crate::{
    crypto::{SealContext, SecretField, Vault},
    destinations::egress::{Database, Egress, EgressFailure},
    model::{Lookup, PostgresLookup, RawJson},
};

pub(super) struct Postgres {
    database: Database,
    query: String,
    idle: Mutex<Vec<IdleSessions>>,
}

struct IdleSessions {
    client: Client,
    since: Instant,
}

/// A connection that nobody used for so long is not used again.
const IDLE_FOR: Duration = Duration::from_secs(60);

impl Postgres {
    pub fn new(
        lookup: &Lookup,
        settings: &PostgresLookup,
        vault: &Vault,
        egress: &Egress,
    ) -> Result<Self, String> {
        let context = SealContext::of_lookup(lookup.project, lookup.id, SecretField::LookupSecret);
        let opened = vault.open(&settings.database, &context).map_err(|error| error.to_string())?;
        let database = egress.database(&opened).map_err(|rule| format!("its URL {rule}"))?;
        Ok(Self { database, query: whole(&settings.query), idle: Mutex::default() })
    }

    /// `None`: there is no row.
    pub async fn ask(&self, key: &str, deadline: Instant) -> Result<Option<RawJson>, Trouble> {
        let asked = tokio::time::timeout_at(deadline, self.ask_in_time(key, deadline)).await;
        asked.unwrap_or(Err(Trouble::Timeout))
    }

    async fn ask_in_time(&self, key: &str, deadline: Instant) -> Result<Option<RawJson>, Trouble> {
        // A kept connection may be dead by now. To read again on a fresh one does no harm.
        if let Some(client) = self.take() {
            match self.read(&client, key, deadline).await {
                Err(error) if error.is_closed() || client.is_closed() => (),
                answered => return self.finish(client, answered),
            }
        }
        let client = self.database.connect(deadline).await.map_err(|error| match error {
            EgressFailure::Timeout(_) => Trouble::Timeout,
            failure => Trouble::Broken(failure.reason()),
        })?;
        let answered = self.read(&client, key, deadline).await;
        self.finish(client, answered)
    }

    fn take(&self) -> Option<Client> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|it| it.since.elapsed() < IDLE_FOR && !it.client.is_closed());
        idle.pop().map(|it| it.client)
    }

    fn finish(
        &self,
        client: Client,
        answered: Result<Option<String>, tokio_postgres::Error>,
    ) -> Result<Option<RawJson>, Trouble> {
        let row = answered.map_err(|error| trouble(&error))?;
        if !client.is_closed() {
            let since = Instant::now();
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(IdleSessions { client, since });
        }
        let refused = |what: &str| Trouble::Refused(what.to_owned());
        match row {
            None => Ok(None),
            Some(text) if text.is_empty() => Err(refused("its row is longer than 64 KiB")),
            Some(text) => match RawJson::parse(text) {
                Ok(row) => Ok(Some(row)),
                Err(_) => Err(refused("its row cannot be read")),
            },
        }
    }

    /// The row as JSON; empty when it is too long.
    async fn read(
        &self,
        client: &Client,
        key: &str,
        deadline: Instant,
    ) -> Result<Option<String>, tokio_postgres::Error> {
        // The server stops by itself when nobody waits any more.
        let left = deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
        let begin = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {left}");
        let key = LiteralText(key);
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&key, Type::UNKNOWN)];
        // All three are on their way before the first is answered.
        let (begun, rows, ended) = tokio::join!(
            biased;
            client.batch_execute(&begin),
            client.query_typed(&self.query, &parameters),
            client.batch_execute("COMMIT"),
        );
        begun?;
        let rows = rows?;
        ended?;
        rows.first().map(|row| row.try_get(0)).transpose()
    }
}

/// What is sent: at most one row of the user's query, as JSON of at most 64 KiB.
fn whole(query: &str) -> String {
    format!(
        "SELECT CASE WHEN octet_length(text) <= 65536 THEN text ELSE '' END FROM \
         (SELECT to_jsonb(found)::text AS text FROM (\n{query}\n) AS found LIMIT 1) AS row"
    )
}

/// A text for a parameter of any type, which the server reads as it reads a literal.
#[derive(Debug)]
struct LiteralText<'a>(&'a str);

impl ToSql for LiteralText<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// What went wrong, without anything that an event or a row says.
fn trouble(error: &tokio_postgres::Error) -> Trouble {
    let Some(database) = error.as_db_error() else {
        return Trouble::Broken("the connection broke".to_owned());
    };
    let code = database.code();
    match code {
        it if *it == SqlState::QUERY_CANCELED => Trouble::Timeout,
        it if *it == SqlState::READ_ONLY_SQL_TRANSACTION => {
            Trouble::Refused("its query writes, and may only read".to_owned())
        }
        // A key that the query cannot use, such as a word where it compares numbers.
        it if it.code().starts_with("22") => {
            Trouble::Refused(format!("the key does not fit its query (SQLSTATE {})", it.code()))
        }
        // Names and syntax of the query: they are the same for every event.
        it if it.code().starts_with("42") => {
            Trouble::Broken(format!("its query is wrong: {}", database.message()))
        }
        it => Trouble::Broken(format!("it refuses (SQLSTATE {})", it.code())),
    }
}
