//! Rows of people, companies and things, by project, table and key.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{
    PostgresStore,
    connect::Session,
    values::{self, Uuid, limit_to_row},
};
use crate::{
    model::{Name, ProjectId, RawJson},
    store::{Directory, Entity, EntityKey, Result, Upsert, fields::merged},
};

const PUT: &str = "INSERT INTO entities (project, tab, key, fields, updated_at) \
     SELECT $1, $2, k, f, u FROM unnest($3::bytea[], $4::bytea[], $5::bigint[]) AS w (k, f, u) \
     ON CONFLICT (project, tab, key) DO UPDATE \
     SET fields = excluded.fields, updated_at = excluded.updated_at";
/// Who merges must see what whoever was first has written, also where there was no row to lock.
const ALONE: &str = "SELECT pg_advisory_xact_lock(7234004, hashtext($1))";

#[async_trait]
impl Directory for PostgresStore {
    async fn put_entities(
        &self,
        project: ProjectId,
        table: &Name,
        entities: Vec<Entity>,
        how: Upsert,
    ) -> Result<()> {
        let mut loan = self.core.session().await?;
        let session = loan.session()?;
        let result = put(session, project, table, &entities, how).await;
        if result.is_err() {
            session.roll_back().await;
        }
        result
    }

    async fn find_entities(
        &self,
        project: ProjectId,
        keys: Vec<EntityKey>,
    ) -> Result<Vec<Option<RawJson>>> {
        let sql = "SELECT w.place, e.fields FROM unnest($2::bytea[], $3::bytea[]) \
                   WITH ORDINALITY AS w (tab, key, place) \
                   JOIN entities e ON e.project = $1 AND e.tab = w.tab AND e.key = w.key";
        let tables: Vec<&[u8]> = keys.iter().map(|it| it.0.as_str().as_bytes()).collect();
        let names: Vec<&[u8]> = keys.iter().map(|it| it.1.as_bytes()).collect();
        let mut found = vec![None; keys.len()];
        let mut loan = self.core.session().await?;
        let values: super::connect::Values<'_> = &[&Uuid::from(project), &tables, &names];
        for row in loan.session()?.query(sql, values).await? {
            let place: i64 = row.try_get(0)?;
            if let Some(found) = found.get_mut(place as usize - 1) {
                *found = Some(RawJson::trusted(row.try_get::<_, Vec<u8>>(1)?));
            }
        }
        Ok(found)
    }

    async fn list_entities(
        &self,
        project: ProjectId,
        table: &Name,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Entity>> {
        let sql = "SELECT key, fields, updated_at FROM entities \
                   WHERE project = $1 AND tab = $2 AND key > $3 ORDER BY key LIMIT $4";
        let (project, table) = (Uuid::from(project), table.as_str().as_bytes());
        let (after, limit) = (after.as_bytes(), limit_to_row(limit));
        let mut loan = self.core.session().await?;
        let mut entities = Vec::new();
        for row in loan.session()?.query(sql, &[&project, &table, &after, &limit]).await? {
            let key: Vec<u8> = row.try_get(0)?;
            entities.push(Entity {
                key: String::from_utf8_lossy(&key).into_owned(),
                fields: RawJson::trusted(row.try_get::<_, Vec<u8>>(1)?),
                updated_at: values::time(row.try_get(2)?)?,
            });
        }
        Ok(entities)
    }

    async fn remove_entities(
        &self,
        project: ProjectId,
        table: &Name,
        keys: Vec<String>,
    ) -> Result<u64> {
        let sql = "DELETE FROM entities WHERE project = $1 AND tab = $2 AND key = ANY($3)";
        let keys: Vec<&[u8]> = keys.iter().map(|it| it.as_bytes()).collect();
        let (project, table) = (Uuid::from(project), table.as_str().as_bytes());
        let mut loan = self.core.session().await?;
        loan.session()?.execute(sql, &[&project, &table, &keys]).await
    }
}

async fn put(
    session: &mut Session,
    project: ProjectId,
    table: &Name,
    entities: &[Entity],
    how: Upsert,
) -> Result<()> {
    session.begin().await?;
    let (project, tab) = (Uuid::from(project), table.as_str().as_bytes());
    let mut rows: BTreeMap<&[u8], (RawJson, i64)> = BTreeMap::new();
    match how {
        Upsert::Replace => (),
        Upsert::Merge => {
            session.query(ALONE, &[&format!("{:032x} {table}", project.0)]).await?;
            let keys: Vec<&[u8]> = entities.iter().map(|it| it.key.as_bytes()).collect();
            let sql = "SELECT w.place, e.fields FROM unnest($3::bytea[]) WITH ORDINALITY \
                       AS w (key, place) JOIN entities e \
                       ON e.project = $1 AND e.tab = $2 AND e.key = w.key";
            for row in session.query(sql, &[&project, &tab, &keys]).await? {
                let place: i64 = row.try_get(0)?;
                let fields = RawJson::trusted(row.try_get::<_, Vec<u8>>(1)?);
                if let Some(key) = keys.get(place as usize - 1) {
                    rows.insert(key, (fields, 0));
                }
            }
        }
    }
    for entity in entities {
        let before = rows.get(entity.key.as_bytes()).map(|it| &it.0);
        let fields = match how {
            Upsert::Replace => entity.fields.clone(),
            Upsert::Merge => merged(before, &entity.fields),
        };
        rows.insert(entity.key.as_bytes(), (fields, values::micros(entity.updated_at)));
    }
    let keys: Vec<&[u8]> = rows.keys().copied().collect();
    let fields: Vec<&[u8]> = rows.values().map(|it| &it.0.bytes()[..]).collect();
    let times: Vec<i64> = rows.values().map(|it| it.1).collect();
    session.execute(PUT, &[&project, &tab, &keys, &fields, &times]).await?;
    session.commit().await
}
