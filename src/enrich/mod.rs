//! The world outside, as the steps may ask it: the project's directory, and services.
//!
//! Whatever happens out there, an answer comes: what is late, broken or too much is an answer that
//! says so. Each service has its own cache, its own limits and its own breaker, so that one that is
//! dead costs nothing after a while.

mod cache;
mod breaker;
mod free_mail;
mod country;
mod person;
mod entity;
mod service;
mod learn;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    catalog::Catalog,
    clock::Clock,
    crypto::Vault,
    destinations::egress::Egress,
    model::{Event, Lookup, LookupId, LookupSettings, Name, ProjectId},
    pipeline::{LookupFuture, Lookups, Question},
    store::{Database, EntityKey},
};

pub use country::CountryError;
pub use learn::Learner;

use self::{country::Countries, service::Service};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// A MaxMind database file with the countries of IP addresses, such as GeoLite2-Country.mmdb.
    pub country_database: Option<PathBuf>,
    /// Domains whose mailboxes anybody can have, besides those that are known.
    pub free_mail: Vec<String>,
}

/// What it is given.
#[derive(Clone)]
pub struct Parts {
    pub database: Arc<dyn Database>,
    pub catalog: watch::Receiver<Arc<Catalog>>,
    pub vault: Arc<Vault>,
    pub egress: Egress,
    pub clock: Arc<dyn Clock>,
    pub options: Options,
}

/// Answers what steps ask. Cheap to clone.
#[derive(Clone)]
pub struct Enrichment(Arc<Shared>);

struct Shared {
    parts: Parts,
    countries: Option<Arc<Countries>>,
    services: Mutex<HashMap<LookupId, BuiltServices>>,
    /// Only of the world as it is saved: what is tried teaches nothing.
    reader: Option<learn::FactReader>,
}

#[derive(Clone)]
struct BuiltServices {
    /// What it was built from. A change in the catalogue makes another one, with an empty cache.
    from: Arc<Lookup>,
    service: Arc<Service>,
}

/// The tables that every project has.
pub const BUILT_IN: [&str; 2] = [PEOPLE, COMPANIES];
const PEOPLE: &str = "people";
const COMPANIES: &str = "companies";

impl Enrichment {
    /// With whoever writes what events tell.
    pub fn new(parts: Parts) -> Result<(Self, Learner), CountryError> {
        let file = parts.options.country_database.as_deref();
        let countries = file.map(Countries::open).transpose()?.map(Arc::new);
        let (reader, learner) =
            learn::pair(parts.database.clone(), parts.clock.clone(), parts.catalog.clone());
        let services = Mutex::default();
        let shared = Shared { parts, countries, services, reader: Some(reader) };
        Ok((Self(Arc::new(shared)), learner))
    }
}

impl Lookups for Enrichment {
    fn ask(&self, project: ProjectId, question: Arc<Question>) -> LookupFuture {
        let shared = self.0.clone();
        Box::pin(async move {
            match &*question {
                Question::Person(person) => shared.person(project, person).await,
                Question::Entity(entity) => shared.entity(project, entity).await,
            }
        })
    }

    fn tell(&self, event: &Arc<Event>) {
        if let Some(reader) = &self.0.reader {
            reader.read(event);
        }
    }

    fn under(&self, catalog: &Arc<Catalog>) -> Option<Arc<dyn Lookups>> {
        let Shared { parts, countries, services, .. } = &*self.0;
        // A look-up that is the same has its cache and its breaker in common with the saved one.
        let is_same = |id: &LookupId, it: &BuiltServices| {
            catalog.lookups.get(id).is_some_and(|of| Arc::ptr_eq(of, &it.from))
        };
        let built = services.lock().unwrap_or_else(PoisonError::into_inner);
        let same = built.iter().filter(|(id, it)| is_same(id, it));
        let same = same.map(|(id, it)| (*id, it.clone())).collect();
        let parts = Parts { catalog: watch::channel(catalog.clone()).1, ..parts.clone() };
        let countries = countries.clone();
        let shared = Shared { parts, countries, services: Mutex::new(same), reader: None };
        Some(Arc::new(Self(Arc::new(shared))))
    }
}

/// The key under which a row is kept and found: addresses and domains are the same in any case.
pub fn normal_key(table: &Name, key: &str) -> String {
    match table.as_str() {
        PEOPLE | COMPANIES => key.trim().to_lowercase(),
        _ => key.to_owned(),
    }
}

/// Takes the column with its key from a row of the directory: the usual one, or the first that has the key.
fn without_key(table: &Name, key: &str, fields: &mut serde_json::Map<String, serde_json::Value>) {
    use serde_json::Value;
    let key = normal_key(table, key);
    let is_key = |it: &Value| match it {
        Value::String(text) => normal_key(table, text) == key,
        Value::Number(number) => number.to_string() == key,
        _ => false,
    };
    let usual = match table.as_str() {
        PEOPLE => "email",
        COMPANIES => "domain",
        _ => "id",
    };
    let first = || fields.iter().find(|it| is_key(it.1)).map(|it| it.0.clone());
    let column = match fields.get(usual).is_some_and(is_key) {
        true => Some(usual.to_owned()),
        false => first(),
    };
    if let Some(column) = column {
        fields.shift_remove(&column);
    }
}

/// Why something is not known, in words for people.
struct Failed {
    status: crate::pipeline::LookupStatus,
    from: String,
    reason: String,
}

impl Shared {
    fn catalog(&self) -> Arc<Catalog> {
        self.parts.catalog.borrow().clone()
    }

    /// Rows of the project's own directory.
    async fn rows(
        &self,
        project: ProjectId,
        keys: Vec<EntityKey>,
    ) -> Result<Vec<Option<crate::model::RawJson>>, Failed> {
        self.parts.database.find_entities(project, keys).await.map_err(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the directory cannot be read");
            let reason = "the directory cannot be read".to_owned();
            Failed {
                status: crate::pipeline::LookupStatus::Failed,
                from: "directory".to_owned(),
                reason,
            }
        })
    }

    /// The service as the catalogue has it now; `None` where the look-up is none.
    fn service(&self, lookup: &Arc<Lookup>) -> Option<Arc<Service>> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(it) = services.get(&lookup.id).filter(|it| Arc::ptr_eq(&it.from, lookup)) {
            return Some(it.service.clone());
        }
        // A change is rare: a good moment to let go of what was deleted and never asked for again.
        let catalog = self.catalog();
        services.retain(|id, _| catalog.lookups.contains_key(id));
        let service = Arc::new(Service::new(lookup, &self.parts)?);
        services
            .insert(lookup.id, BuiltServices { from: lookup.clone(), service: service.clone() });
        Some(service)
    }

    /// The services that know people: those that are named, in that order, or all.
    fn services_for(&self, project: ProjectId, named: Option<&[Name]>) -> Vec<Arc<Service>> {
        let catalog = self.catalog();
        let knows_people = |it: &&Arc<Lookup>| matches!(it.settings, LookupSettings::Http(_));
        let own =
            || catalog.lookups.values().filter(|it| it.project == project).filter(knows_people);
        match named {
            Some(names) => names
                .iter()
                .filter_map(|name| own().find(|it| it.name == *name))
                .filter_map(|it| self.service(it))
                .collect(),
            None => own().filter_map(|it| self.service(it)).collect(),
        }
    }
}
