//! From a file to edits of the catalogue: all of them, or none.

use std::{collections::HashSet, sync::Arc};

use serde::Serialize;

use super::{
    DestinationSpec, EventTypeSpec, FailingTests, File, FileError, Invalid, LookupSpec, Means,
    PipelineSpec, ProjectSpec, Scope, SourceSpec, Spec,
    cases::failing_tests,
    diff::{Difference, Shown},
    fan_out,
    file::ProjectEntry,
};
use crate::{
    catalog::{Catalog, CatalogWriter, Edit, Resource},
    model::{IdSequence, Name, Project, ProjectId, TypeName},
    store::StoreError,
};

/// What a file would change, and the edits that do it.
pub struct FilePlan {
    pub difference: Difference,
    pub edits: Vec<Edit>,
    pub project: ProjectId,
    /// The resources as they would be.
    pub catalog: Catalog,
}

/// Why a file was not applied. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("the file is not valid")]
    Invalid(#[source] FileError),
    /// Nobody is there to confirm it.
    #[error("the pipelines do not pass their own tests")]
    Tests(#[source] FailingTests),
    #[error("the changes could not be kept")]
    Store(
        #[from]
        #[source]
        StoreError,
    ),
}

/// Compares a file with the catalogue. Resources that it does not name stay, unless `prune`.
pub fn plan(
    file: &File,
    catalog: &Catalog,
    means: Means<'_>,
    prune: bool,
) -> Result<FilePlan, FileError> {
    let mut planner = Planner {
        // What was decided so far, so that a pipeline sees the destinations of its own file.
        catalog: catalog.clone(),
        project: ProjectId::from_bits(0),
        means,
        ids: IdSequence::default(),
        refused: HashSet::new(),
        difference: Difference::default(),
        edits: Vec::new(),
        wrong: Vec::new(),
    };
    planner.project(&file.content.project);
    // Without its project, nothing else can be judged.
    if planner.wrong.is_empty() {
        if prune {
            planner.prune(file);
        }
        planner.all(&file.content.event_types, "event_types");
        planner.all(&file.content.sources, "sources");
        planner.all(&file.content.lookups, "lookups");
        planner.all(&file.content.destinations, "destinations");
        planner.all(&file.content.pipelines, "pipelines");
        planner.count_left_alone(file);
    }
    if planner.wrong.is_empty() {
        planner.rehearse();
        planner.warn();
    }
    let Planner { difference, edits, wrong, project, catalog, .. } = planner;
    if wrong.is_empty() {
        Ok(FilePlan { difference, edits, project, catalog })
    } else {
        Err(file.explain(wrong))
    }
}

/// Plans and keeps, in one transaction. Where a test case fails, nothing is changed.
pub async fn apply(
    file: &File,
    catalog_writer: &CatalogWriter,
    means: Means<'_>,
    prune: bool,
) -> Result<Difference, ApplyError> {
    catalog_writer
        .edit(|catalog| {
            let planned = plan(file, catalog, means, prune).map_err(ApplyError::Invalid)?;
            if !planned.difference.failing_tests.is_empty() {
                let failing = planned.difference.failing_tests;
                return Err(ApplyError::Tests(FailingTests(failing)));
            }
            Ok((planned.edits, planned.difference))
        })
        .await
}

struct Planner<'a> {
    catalog: Catalog,
    project: ProjectId,
    means: Means<'a>,
    ids: IdSequence,
    /// Kinds and names of what was wrong so far.
    refused: HashSet<(&'static str, String)>,
    difference: Difference,
    edits: Vec<Edit>,
    wrong: Vec<Invalid>,
}

/// A kind of resource that stands in a file as a list.
trait Listed: Shown<Model: Clone + PartialEq> + Serialize {
    fn name(&self) -> &str;
    fn existing(&self, catalog: &Catalog, project: ProjectId) -> Option<Arc<Self::Model>>;
    fn put(model: Self::Model, catalog: &mut Catalog) -> Resource;
}

impl Planner<'_> {
    fn project(&mut self, entry: &ProjectEntry) {
        let old: Option<Arc<Project>> = self.catalog.project_named(entry.name().as_str()).cloned();
        let spec = match (entry, &old) {
            (ProjectEntry::Full(spec), _) => spec.clone(),
            (ProjectEntry::Named(_), Some(old)) => ProjectSpec::of(old),
            (ProjectEntry::Named(name), None) => {
                ProjectSpec { name: name.clone(), retention: None }
            }
        };
        let scope = Scope::new(&self.catalog, self.project, self.means);
        match spec.check(&scope, old.as_deref()) {
            Ok(project) => {
                self.project = project.id;
                self.difference.note::<ProjectSpec>(old.as_deref(), Some(&project));
                if old.as_deref() != Some(&project) {
                    self.edits.push(Edit::Put(Resource::Project(project.clone())));
                    self.catalog.projects.insert(project.id, Arc::new(project));
                }
            }
            Err(wrong) => self.wrong.extend(wrong.into_iter().map(|it| it.within("project"))),
        }
    }

    fn all<S: Listed>(&mut self, specs: &[S], field: &str) {
        let mut names = HashSet::new();
        for (place, spec) in specs.iter().enumerate() {
            let path = format!("{field}[{place}]");
            if !names.insert(spec.name()) {
                let rule = "must be a name that stands once in this file";
                self.wrong.push(Invalid::new(format!("{path}.name"), rule, "it again"));
                continue;
            }
            let old = spec.existing(&self.catalog, self.project);
            let ids = std::mem::take(&mut self.ids);
            let scope =
                Scope::continuing(&self.catalog, self.project, self.means, ids, &self.refused);
            let checked = spec.check(&scope, old.as_deref());
            self.ids = scope.into_ids();
            match checked {
                Ok(new) => {
                    self.difference.note::<S>(old.as_deref(), Some(&new));
                    if old.as_deref() != Some(&new) {
                        let resource = S::put(new, &mut self.catalog);
                        self.edits.push(Edit::Put(resource));
                    }
                }
                Err(wrong) => {
                    self.refused.insert((S::KIND, spec.name().to_owned()));
                    self.wrong.extend(wrong.into_iter().map(|it| it.within(&path)));
                }
            }
        }
    }

    /// Deletes what the file does not name.
    fn prune(&mut self, file: &File) {
        let Planner { catalog, difference, edits, project, .. } = self;
        let kept = FileNames::of(file);
        catalog.pipelines.retain(|id, it| {
            let stays = it.project != *project || kept.pipelines.contains(&it.name);
            if !stays {
                difference.note::<PipelineSpec>(Some(it), None);
                edits.push(Edit::DeletePipeline(*id));
            }
            stays
        });
        catalog.destinations.retain(|id, it| {
            let stays = it.project != *project || kept.destinations.contains(&it.name);
            if !stays {
                difference.note::<DestinationSpec>(Some(it), None);
                edits.push(Edit::DeleteDestination(*id));
            }
            stays
        });
        catalog.sources.retain(|id, it| {
            let stays = it.project != *project || kept.sources.contains(&it.name);
            if !stays {
                difference.note::<SourceSpec>(Some(it), None);
                edits.push(Edit::DeleteSource(*id));
            }
            stays
        });
        catalog.lookups.retain(|id, it| {
            let stays = it.project != *project || kept.lookups.contains(&it.name);
            if !stays {
                difference.note::<LookupSpec>(Some(it), None);
                edits.push(Edit::DeleteLookup(*id));
            }
            stays
        });
        catalog.event_types.retain(|id, it| {
            let stays = it.project != *project || kept.event_types.contains(&it.name);
            if !stays {
                difference.note::<EventTypeSpec>(Some(it), None);
                edits.push(Edit::DeleteEventType(*id));
            }
            stays
        });
    }

    /// Runs the test cases of what is changed, when all of it is there.
    fn rehearse(&mut self) {
        for edit in &self.edits {
            let Edit::Put(Resource::Pipeline(it)) = edit else { continue };
            let Some(pipeline) = self.catalog.pipelines.get(&it.id) else { continue };
            let failing = failing_tests(pipeline, &self.catalog, self.means);
            self.difference.failing_tests.extend(failing);
        }
    }

    /// Says what will not work, although each resource is valid.
    fn warn(&mut self) {
        if self.edits.iter().any(|it| matches!(it, Edit::Put(Resource::Pipeline(_)))) {
            self.difference.warnings.extend(fan_out::warning(&self.catalog, self.project));
        }
    }

    fn count_left_alone(&mut self, file: &File) {
        let (catalog, project) = (&self.catalog, self.project);
        let kept = FileNames::of(file);
        let sources = catalog.sources.values().filter(|it| it.project == project);
        let destinations = catalog.destinations.values().filter(|it| it.project == project);
        let pipelines = catalog.pipelines.values().filter(|it| it.project == project);
        let lookups = catalog.lookups.values().filter(|it| it.project == project);
        let event_types = catalog.event_types.values().filter(|it| it.project == project);
        self.difference.left_alone = sources.filter(|it| !kept.sources.contains(&it.name)).count()
            + destinations.filter(|it| !kept.destinations.contains(&it.name)).count()
            + pipelines.filter(|it| !kept.pipelines.contains(&it.name)).count()
            + lookups.filter(|it| !kept.lookups.contains(&it.name)).count()
            + event_types.filter(|it| !kept.event_types.contains(&it.name)).count();
    }
}

/// The names that a file has.
struct FileNames<'a> {
    sources: HashSet<&'a Name>,
    destinations: HashSet<&'a Name>,
    pipelines: HashSet<&'a Name>,
    lookups: HashSet<&'a Name>,
    event_types: HashSet<&'a TypeName>,
}

impl<'a> FileNames<'a> {
    fn of(file: &'a File) -> Self {
        Self {
            sources: file.content.sources.iter().map(|it| &it.name).collect(),
            destinations: file.content.destinations.iter().map(|it| &it.name).collect(),
            pipelines: file.content.pipelines.iter().map(|it| &it.name).collect(),
            lookups: file.content.lookups.iter().map(|it| &it.name).collect(),
            event_types: file.content.event_types.iter().map(|it| &it.name).collect(),
        }
    }
}

impl Listed for SourceSpec {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn existing(&self, catalog: &Catalog, project: ProjectId) -> Option<Arc<Self::Model>> {
        catalog.source_named(project, self.name.as_str()).cloned()
    }

    fn put(model: Self::Model, catalog: &mut Catalog) -> Resource {
        catalog.sources.insert(model.id, Arc::new(model.clone()));
        Resource::Source(model)
    }
}

impl Listed for DestinationSpec {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn existing(&self, catalog: &Catalog, project: ProjectId) -> Option<Arc<Self::Model>> {
        catalog.destination_named(project, self.name.as_str()).cloned()
    }

    fn put(model: Self::Model, catalog: &mut Catalog) -> Resource {
        catalog.destinations.insert(model.id, Arc::new(model.clone()));
        Resource::Destination(model)
    }
}

impl Listed for PipelineSpec {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn existing(&self, catalog: &Catalog, project: ProjectId) -> Option<Arc<Self::Model>> {
        catalog.pipeline_named(project, self.name.as_str()).cloned()
    }

    fn put(model: Self::Model, catalog: &mut Catalog) -> Resource {
        catalog.pipelines.insert(model.id, Arc::new(model.clone()));
        Resource::Pipeline(model)
    }
}

impl Listed for LookupSpec {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn existing(&self, catalog: &Catalog, project: ProjectId) -> Option<Arc<Self::Model>> {
        catalog.lookup_named(project, self.name.as_str()).cloned()
    }

    fn put(model: Self::Model, catalog: &mut Catalog) -> Resource {
        catalog.lookups.insert(model.id, Arc::new(model.clone()));
        Resource::Lookup(model)
    }
}

impl Listed for EventTypeSpec {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn existing(&self, catalog: &Catalog, project: ProjectId) -> Option<Arc<Self::Model>> {
        let mut all = catalog.event_types.values();
        all.find(|it| it.project == project && it.name == self.name).cloned()
    }

    fn put(model: Self::Model, catalog: &mut Catalog) -> Resource {
        catalog.event_types.insert(model.id, Arc::new(model.clone()));
        Resource::EventType(model)
    }
}
