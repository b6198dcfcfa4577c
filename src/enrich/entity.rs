//! A row of a table by its key, and the rows that it refers to, as far as the step follows them.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{COMPANIES, Failed, PEOPLE, Shared};
use crate::{
    model::{Name, ProjectId, RawJson},
    pipeline::{Entity, LookupAnswer, LookupStatus},
};

impl Shared {
    pub(super) async fn entity(&self, project: ProjectId, entity: &Entity) -> LookupAnswer {
        match self.resolve(project, entity).await {
            Ok(Some((fields, from))) => LookupAnswer::found(RawJson::of(&fields), from),
            Ok(None) => LookupAnswer::of(LookupStatus::NotFound),
            Err(failed) => LookupAnswer::failed(failed.status, &failed.from, failed.reason),
        }
    }

    async fn resolve(
        &self,
        project: ProjectId,
        entity: &Entity,
    ) -> Result<Option<(Value, String)>, Failed> {
        let Some(row) = self.row(project, &entity.table, &entity.key).await? else {
            return Ok(None);
        };
        let mut root = row.fields(&entity.table, &entity.key, entity.with_key);
        // In which table what stands at a path is a row.
        let mut tables: HashMap<&[String], Name> = HashMap::new();
        tables.insert(&[], entity.table.clone());
        for path in &entity.follow {
            let Some((field, before)) = path.split_last() else { continue };
            let Some(table) = tables.get(before).and_then(|it| self.reference(project, it, field))
            else {
                continue;
            };
            let Some(parent) = at(&mut root, before) else { continue };
            let key = match parent.get(field) {
                Some(Value::String(key)) => key.clone(),
                Some(Value::Number(key)) => key.to_string(),
                Some(_) | None => continue,
            };
            if let Some(row) = self.row(project, &table, &key).await?
                && let Some(parent) = at(&mut root, before)
            {
                parent.insert(field.clone(), row.fields(&table, &key, entity.with_key));
                tables.insert(path, table);
            }
        }
        Ok(Some((root, entity.table.to_string())))
    }

    /// The table that a field of a row refers to.
    fn reference(&self, project: ProjectId, table: &Name, field: &str) -> Option<Name> {
        let catalog = self.catalog();
        let declared = catalog
            .lookup_named(project, table.as_str())
            .and_then(|it| it.settings.references()?.get(field).cloned());
        let is_company = table.as_str() == PEOPLE && field == "company";
        declared.or_else(|| is_company.then(|| Name::trusted(COMPANIES)))
    }

    async fn row(
        &self,
        project: ProjectId,
        table: &Name,
        key: &str,
    ) -> Result<Option<DirectoryRow>, Failed> {
        let lookup = self.catalog().lookup_named(project, table.as_str()).cloned();
        if let Some(service) = lookup.and_then(|it| self.service(&it)) {
            let row = service.ask(key, "").await?;
            return Ok(row.map(|json| DirectoryRow { json, is_own: false }));
        }
        let key = super::normal_key(table, key);
        let rows = self.rows(project, vec![(table.clone(), key)]).await?;
        Ok(rows.into_iter().next().flatten().map(|json| DirectoryRow { json, is_own: true }))
    }
}

/// A row, and whether it is of the project's own directory.
struct DirectoryRow {
    json: RawJson,
    is_own: bool,
}

impl DirectoryRow {
    /// What an event gets of it. A key may be an e-mail address that a step takes out of the payload, so it comes
    /// only where it is asked for: then it is the row's `id`, unless it has one of its own.
    fn fields(self, table: &Name, key: &str, with_key: bool) -> Value {
        let mut fields = match self.json.to_value() {
            Value::Object(fields) => fields,
            // Rows are objects, by the check of who puts them.
            _ => Map::new(),
        };
        if with_key {
            fields.entry("id").or_insert_with(|| key.into());
        } else if self.is_own {
            super::without_key(table, key, &mut fields);
        }
        Value::Object(fields)
    }
}

/// The object at a path.
fn at<'a>(root: &'a mut Value, path: &[String]) -> Option<&'a mut Map<String, Value>> {
    let mut value = root;
    for field in path {
        value = value.get_mut(field)?;
    }
    value.as_object_mut()
}
