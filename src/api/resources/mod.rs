//! Resources: made, changed and deleted one at a time, each by the same rules.

/// How resources of a kind are found: all kinds alike, but for their names.
macro_rules! kept {
    ($model:ident, $word:literal, $all:ident) => {
        impl $crate::api::resources::ProjectResource for $model {
            type Tag = $crate::model::kind::$model;
            const WORD: &'static str = $word;

            fn all(
                catalog: &Catalog,
            ) -> &std::collections::BTreeMap<$crate::model::Id<Self::Tag>, std::sync::Arc<Self>>
            {
                &catalog.$all
            }

            fn id(&self) -> $crate::model::Id<Self::Tag> {
                self.id
            }

            fn project(&self) -> $crate::model::ProjectId {
                self.project
            }

            fn name(&self) -> &str {
                self.name.as_str()
            }
        }
    };
}

pub mod projects;
pub mod keys;
pub mod lookups;
pub mod sources;
pub mod event_types;
pub mod learned;
pub mod pipelines;
pub mod versions;
pub mod destinations;
pub mod kinds;
pub mod profiles;
pub mod rotation;
pub mod trial;
pub mod verify;
pub mod file;
mod deleted;

use std::{collections::BTreeMap, sync::Arc};

use serde::de::DeserializeOwned;

pub use self::{
    destinations::{
        create_destination, delete_destination, disable_destination, enable_destination,
        get_destination, list_destinations, pause_destination, put_destination, resume_destination,
    },
    event_types::{
        create_event_type, delete_event_type, get_event_type, list_event_types, put_event_type,
    },
    file::{apply_file, export_file, plan_file},
    keys::{create_key, delete_key, list_keys},
    kinds::list_destination_kinds,
    learned::{adopt_event_type, event_type_fields},
    lookups::{create_lookup, delete_lookup, get_lookup, list_lookups, put_lookup},
    pipelines::{create_pipeline, delete_pipeline, get_pipeline, list_pipelines, put_pipeline},
    profiles::list_profiles,
    projects::{create_project, delete_project, get_project, list_projects, put_project},
    rotation::rotate_secret,
    sources::{
        create_source, delete_source, forget_source_traffic, get_source, list_sources, put_source,
        source_traffic,
    },
    trial::test_destination,
    verify::verify_destination,
    versions::{compare_versions, get_version, list_versions, rollback_pipeline},
};
use super::{
    Api,
    page::{self, Page},
    request::{Access, Administer, Body, Query},
};
use crate::{
    catalog::{Catalog, Edit, Resource},
    model::{Id, Kind, ProjectId},
    problem::{self, Problem},
    resources::{Scope, Spec},
};

/// Resources of one kind that a project may have.
const MOST: usize = 10_000;

/// A kind of resource that belongs to a project.
pub trait ProjectResource: Clone + Send + Sync + 'static {
    type Tag: Kind;
    /// The word for it in messages.
    const WORD: &'static str;

    fn all(catalog: &Catalog) -> &BTreeMap<Id<Self::Tag>, Arc<Self>>;
    fn id(&self) -> Id<Self::Tag>;
    fn project(&self) -> ProjectId;
    fn name(&self) -> &str;
}

/// A kind that people write in a shape of `resources`.
trait SpecResource: ProjectResource {
    type Spec: Spec<Model = Self> + DeserializeOwned;

    fn into_resource(self) -> Resource;
    fn delete(id: Id<Self::Tag>) -> Edit;
    /// Who names it, and would be left with a name that means nothing.
    fn user(&self, catalog: &Catalog) -> Option<String>;
}

/// The project's resource with this id or name.
pub fn find<'c, T: ProjectResource>(
    catalog: &'c Catalog,
    project: ProjectId,
    id_or_name: &str,
) -> Result<&'c Arc<T>, Problem> {
    let all = T::all(catalog);
    let by_id = id_or_name.parse().ok().and_then(|id| all.get(&id));
    let mut own = all.values().filter(|it| it.project() == project);
    by_id
        .filter(|it| it.project() == project)
        .or_else(|| own.find(|it| it.name() == id_or_name))
        .ok_or_else(|| Problem::not_found(T::WORD))
}

#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ResourcesQuery {
    /// 1 to 200, usually 50.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

impl ResourcesQuery {
    pub fn limit(&self) -> Option<&str> {
        self.limit.as_deref()
    }

    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }
}

fn list<T: ProjectResource, V>(
    catalog: &Catalog,
    project: ProjectId,
    Query(query): &Query<ResourcesQuery>,
    view: impl FnMut(&T) -> V,
) -> Result<Page<V>, Problem> {
    let own = T::all(catalog).iter().filter(|(_, it)| it.project() == project);
    let own = own.map(|(id, it)| (*id, it.as_ref()));
    page::resources(own, query.limit(), query.cursor(), view)
}

async fn create<T: SpecResource>(
    api: &Api,
    access: &Access<Administer>,
    body: &Body,
) -> Result<T, Problem> {
    create_judged(api, access, body, |_, _| Ok(())).await
}

/// The same, where somebody has a say in it: of the resource, among those that there are.
async fn create_judged<T: SpecResource>(
    api: &Api,
    access: &Access<Administer>,
    body: &Body,
    judge: impl FnOnce(&Catalog, &T) -> Result<(), Problem>,
) -> Result<T, Problem> {
    let spec: T::Spec = body.read()?;
    let project = access.project;
    let means = api.means(&access.session.caller);
    let decide = |catalog: &Catalog| {
        if T::all(catalog).values().filter(|it| it.project() == project).count() >= MOST {
            let detail = format!("a project has at most {MOST} of these");
            return Err(Problem::new(problem::Kind::Conflict).detail(detail));
        }
        let resource = spec.check(&Scope::new(catalog, project, means), None)?;
        judge(catalog, &resource)?;
        Ok((vec![Edit::Put(resource.clone().into_resource())], resource))
    };
    api.catalog_writer.edit(decide).await
}

/// Replaces a resource by what the body says; what it does not say has its default again.
async fn replace<T: SpecResource + PartialEq>(
    api: &Api,
    access: &Access<Administer>,
    id_or_name: &str,
    body: &Body,
) -> Result<T, Problem> {
    replace_judged(api, access, id_or_name, body, |_, _| Ok(())).await
}

/// The same, where somebody has a say in it.
async fn replace_judged<T: SpecResource + PartialEq>(
    api: &Api,
    access: &Access<Administer>,
    id_or_name: &str,
    body: &Body,
    judge: impl FnOnce(&Catalog, &T) -> Result<(), Problem>,
) -> Result<T, Problem> {
    let spec: T::Spec = body.read()?;
    let project = access.project;
    let means = api.means(&access.session.caller);
    let decide = |catalog: &Catalog| {
        let old = find::<T>(catalog, project, id_or_name)?;
        let new = spec.check(&Scope::new(catalog, project, means), Some(old))?;
        if new == **old {
            return Ok((Vec::new(), new));
        }
        if new.name() != old.name() {
            refuse_if_used::<T>(old, catalog)?;
        }
        judge(catalog, &new)?;
        Ok((vec![Edit::Put(new.clone().into_resource())], new))
    };
    api.catalog_writer.edit(decide).await
}

async fn delete<T: SpecResource>(
    api: &Api,
    project: ProjectId,
    id_or_name: &str,
) -> Result<(), Problem> {
    let decide = |catalog: &Catalog| {
        let old = find::<T>(catalog, project, id_or_name)?;
        refuse_if_used::<T>(old, catalog)?;
        Ok((vec![T::delete(old.id())], ()))
    };
    api.catalog_writer.edit(decide).await
}

fn refuse_if_used<T: SpecResource>(resource: &T, catalog: &Catalog) -> Result<(), Problem> {
    match resource.user(catalog) {
        None => Ok(()),
        Some(user) => Err(Problem::new(problem::Kind::Conflict)
            .detail(format!("{user} names this {}: change that first", T::WORD))),
    }
}
