//! Pipelines: what they plan for an event, what steps make of it, and that the loop plans each event once, in order.

mod plan;
mod hostile;
mod run;
mod shapes;
mod twice;
mod waiting;
mod memory;

use std::sync::Arc;

use jiff::Timestamp;
use tidegate::{
    catalog::{Catalog, Edit, Resource},
    crypto::{SeededRandom, Vault},
    model::{ProjectId, SourceId},
    pipeline,
    resources::{self, File, Means},
};

/// What steps are made with.
pub fn tools() -> pipeline::Tools {
    pipeline::Tools::new(&Vault::ephemeral(Arc::new(SeededRandom::new(1))))
}

/// The catalogue of a file.
pub fn catalog(text: &str) -> Catalog {
    let vault = Vault::ephemeral(Arc::new(SeededRandom::new(1)));
    let random = SeededRandom::new(2);
    let options = resources::Options::default();
    let author = tidegate::model::Author::File;
    let means =
        Means { vault: &vault, random: &random, now: Timestamp::UNIX_EPOCH, author, options };
    let file = File::read("test.yaml", text, &|_| None).unwrap_or_else(|error| panic!("{error}"));
    let mut catalog = Catalog::default();
    let planned = resources::plan(&file, &catalog, means, false);
    for edit in planned.unwrap_or_else(|error| panic!("{error}")).edits {
        let Edit::Put(resource) = edit else { panic!("a first file deletes nothing") };
        match resource {
            Resource::Project(it) => drop(catalog.projects.insert(it.id, Arc::new(it))),
            Resource::Source(it) => drop(catalog.sources.insert(it.id, Arc::new(it))),
            Resource::Destination(it) => drop(catalog.destinations.insert(it.id, Arc::new(it))),
            Resource::Pipeline(it) => drop(catalog.pipelines.insert(it.id, Arc::new(it))),
            Resource::EventType(it) => drop(catalog.event_types.insert(it.id, Arc::new(it))),
            Resource::Lookup(it) => drop(catalog.lookups.insert(it.id, Arc::new(it))),
            Resource::Key(_)
            | Resource::Replay(_)
            | Resource::Deletion(_)
            | Resource::PipelineVersion(_) => {
                panic!("a file holds no such thing")
            }
        }
    }
    catalog
}

pub fn project_of(catalog: &Catalog) -> ProjectId {
    catalog.project_named("acme").unwrap().id
}

pub fn source_of(catalog: &Catalog, name: &str) -> SourceId {
    catalog.source_named(project_of(catalog), name).unwrap().id
}
