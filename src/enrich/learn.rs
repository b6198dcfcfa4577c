//! What events tell of the rows of tables, where a table says which. It follows the plans at a
//! distance: a crash, or more than can be written, may lose what an event reported, and never an event.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::{
    catalog::Catalog,
    clock::Clock,
    expr::{Condition, Expression, Facts, Mapping, Names},
    model::{Event, Learn, LookupSettings, Name, ProjectId, RawJson},
    store::{Database, Entity, Upsert},
};

/// Rows that wait to be written.
const WAITING: usize = 4096;
/// Rows that are written together.
const BATCH: usize = 256;

/// Reads events by the rules of the tables.
pub(super) struct FactReader {
    catalog: watch::Receiver<Arc<Catalog>>,
    rules: Mutex<(Option<Arc<Catalog>>, Arc<Rules>)>,
    learned: mpsc::Sender<LearnedFacts>,
}

/// Writes what was learned.
pub struct Learner {
    database: Arc<dyn Database>,
    clock: Arc<dyn Clock>,
    learned: mpsc::Receiver<LearnedFacts>,
}

type Rules = HashMap<ProjectId, Vec<LearnRule>>;

struct LearnRule {
    table: Name,
    when: Condition,
    key: Expression,
    fields: Mapping,
}

struct LearnedFacts {
    project: ProjectId,
    table: Name,
    key: String,
    fields: RawJson,
}

pub(super) fn pair(
    database: Arc<dyn Database>,
    clock: Arc<dyn Clock>,
    catalog: watch::Receiver<Arc<Catalog>>,
) -> (FactReader, Learner) {
    let (sender, learned) = mpsc::channel(WAITING);
    let reader = FactReader { catalog, rules: Mutex::default(), learned: sender };
    (reader, Learner { database, clock, learned })
}

impl FactReader {
    pub fn read(&self, event: &Arc<Event>) {
        let rules = self.rules();
        let Some(rules) = rules.get(&event.project) else { return };
        let source = self.catalog.borrow().sources.get(&event.source).map(|it| it.name.clone());
        let facts = Facts::new(event.clone(), source);
        for rule in rules {
            if let Some(learned) = rule.read(&facts)
                && self.learned.try_send(learned).is_err()
            {
                metrics::counter!("tidegate_learned_lost_total").increment(1);
            }
        }
    }

    /// The rules of the catalogue as it is, compiled once for each that there is.
    fn rules(&self) -> Arc<Rules> {
        let catalog = self.catalog.borrow().clone();
        let mut known = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.0.as_ref().is_some_and(|it| Arc::ptr_eq(it, &catalog)) {
            let mut rules = Rules::new();
            for lookup in catalog.lookups.values() {
                if let LookupSettings::Table(table) = &lookup.settings
                    && let Some(rule) =
                        table.learn.as_ref().and_then(|it| LearnRule::of(&lookup.name, it))
                {
                    rules.entry(lookup.project).or_default().push(rule);
                }
            }
            *known = (Some(catalog), Arc::new(rules));
        }
        known.1.clone()
    }
}

impl LearnRule {
    /// `None` where it does not compile, which was refused when it was saved.
    fn of(table: &Name, learn: &Learn) -> Option<Self> {
        let template = Value::String(format!("{{{{ {} }}}}", learn.fields));
        Some(Self {
            table: table.clone(),
            when: Condition::compile(&learn.when).ok()?,
            key: Expression::compile_with(&learn.key, &Names::default()).ok()?,
            fields: Mapping::compile(&template).ok()?,
        })
    }

    fn read(&self, facts: &Facts) -> Option<LearnedFacts> {
        /// No sensible key is longer.
        const LONGEST: usize = 512;
        if !self.when.holds(facts).ok()? {
            return None;
        }
        let key = self.key.text(facts).ok()??;
        let fields = self.fields.apply(facts).ok()?;
        let is_object = fields.bytes().first() == Some(&b'{');
        let project = facts.event().project;
        let key = super::normal_key(&self.table, &key);
        (is_object && key.len() <= LONGEST).then(|| LearnedFacts {
            project,
            table: self.table.clone(),
            key,
            fields,
        })
    }
}

impl Learner {
    /// Until nobody reads events any more, and everything is written.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.learned.recv_many(&mut batch, BATCH).await > 0 {
            let mut tables: HashMap<(ProjectId, Name), Vec<Entity>> = HashMap::new();
            let updated_at = self.clock.now();
            for LearnedFacts { project, table, key, fields } in batch.drain(..) {
                let entity = Entity { key, fields, updated_at };
                tables.entry((project, table)).or_default().push(entity);
            }
            for ((project, table), entities) in tables {
                let count = entities.len() as u64;
                let kept = self.database.put_entities(project, &table, entities, Upsert::Merge);
                match kept.await {
                    Ok(()) => metrics::counter!("tidegate_learned_total").increment(count),
                    Err(error) => {
                        metrics::counter!("tidegate_learned_lost_total").increment(count);
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "facts learned from events cannot be stored");
                    }
                }
            }
        }
    }
}
