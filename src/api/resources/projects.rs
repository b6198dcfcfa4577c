//! Projects. Only a key for all projects makes and deletes them.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use jiff::Timestamp;
use serde::Serialize;

use super::ResourcesQuery;
use crate::{
    api::{
        Api,
        page::{self, Listing, Page},
        request::{Administer, Anywhere, Body, Query, Read, Right},
    },
    catalog::{Catalog, Edit, Resource},
    model::{Id, Kind, Project, ProjectId},
    problem::{self, Problem},
    resources::{ProjectSpec, Scope, Spec as _},
};

/// A project: a hard boundary around keys, events and resources.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Project)]
pub struct ProjectView {
    #[schema(value_type = String)]
    pub id: ProjectId,
    #[serde(flatten)]
    pub spec: ProjectSpec,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl ProjectView {
    fn of(it: &Project) -> Self {
        Self { id: it.id, spec: ProjectSpec::of(it), created_at: it.created_at }
    }
}

impl<R: Right> Anywhere<R> {
    /// For what concerns all projects.
    pub fn for_all_projects(&self) -> Result<(), Problem> {
        if self.session.caller.is_for_all_projects() {
            return Ok(());
        }
        Err(Problem::new(problem::Kind::Forbidden)
            .detail("only a key for all projects may do this"))
    }
}

/// List projects
///
/// A key of a project sees that one.
#[utoipa::path(
    get,
    path = "/api/v1/projects",
    tag = "projects",
    params(ResourcesQuery),
    responses(
        (status = 200, description = "A page of them", body = Listing<ProjectView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_projects(
    State(api): State<Api>,
    access: Anywhere<Read>,
    Query(query): Query<ResourcesQuery>,
) -> Result<Page<ProjectView>, Problem> {
    let catalog = api.catalog_writer.current();
    let own = match access.session.caller.is_for_all_projects() {
        true => None,
        false => Some(access.session.project(None)?),
    };
    let seen = catalog.projects.iter().filter(|(id, _)| own.is_none_or(|own| own == **id));
    let seen = seen.map(|(id, it)| (*id, it.as_ref()));
    page::resources(seen, query.limit.as_deref(), query.cursor.as_deref(), ProjectView::of)
}

/// Make a project
#[utoipa::path(
    post,
    path = "/api/v1/projects",
    tag = "projects",
    request_body = ProjectSpec,
    responses(
        (status = 201, description = "It is there", body = ProjectView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn create_project(
    State(api): State<Api>,
    access: Anywhere<Administer>,
    body: Body,
) -> Result<(StatusCode, Json<ProjectView>), Problem> {
    access.for_all_projects()?;
    let spec: ProjectSpec = body.read()?;
    let means = api.means(&access.session.caller);
    let decide = |catalog: &Catalog| {
        if catalog.projects.len() >= super::MOST {
            return Err(Problem::new(problem::Kind::Conflict).detail("there are too many projects"));
        }
        // The check looks at no project, since this one is not there yet.
        let scope = Scope::new(catalog, ProjectId::from_bits(0), means);
        let project = spec.check(&scope, None)?;
        Ok((vec![Edit::Put(Resource::Project(project.clone()))], project))
    };
    let project = api.catalog_writer.edit(decide).await?;
    Ok((StatusCode::CREATED, Json(ProjectView::of(&project))))
}

/// Get a project
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}",
    tag = "projects",
    params(("project" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "As it is", body = ProjectView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn get_project(
    State(api): State<Api>,
    access: Anywhere<Read>,
    Path(project): Path<String>,
) -> Result<Json<ProjectView>, Problem> {
    let id = access.session.project(Some(&project))?;
    let catalog = api.catalog_writer.current();
    let project = catalog.projects.get(&id).ok_or_else(|| Problem::not_found("project"))?;
    Ok(Json(ProjectView::of(project)))
}

/// Replace a project
///
/// What the body leaves out has its default again.
#[utoipa::path(
    put,
    path = "/api/v1/projects/{project}",
    tag = "projects",
    params(("project" = String, Path, description = "Its name or id")),
    request_body = ProjectSpec,
    responses(
        (status = 200, description = "As it is now", body = ProjectView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn put_project(
    State(api): State<Api>,
    access: Anywhere<Administer>,
    Path(project): Path<String>,
    body: Body,
) -> Result<Json<ProjectView>, Problem> {
    let id = access.session.project(Some(&project))?;
    let spec: ProjectSpec = body.read()?;
    let means = api.means(&access.session.caller);
    let decide = |catalog: &Catalog| {
        let old = catalog.projects.get(&id).ok_or_else(|| Problem::not_found("project"))?;
        let project = spec.check(&Scope::new(catalog, id, means), Some(old))?;
        Ok::<_, Problem>((vec![Edit::Put(Resource::Project(project.clone()))], project))
    };
    Ok(Json(ProjectView::of(&api.catalog_writer.edit(decide).await?)))
}

/// Delete a project
///
/// With its keys and all its resources. Its events can no longer be reached, and what is still owed of them is
/// cancelled; the header `tidegate-cancelled-deliveries` says how much that was.
#[utoipa::path(
    delete,
    path = "/api/v1/projects/{project}",
    tag = "projects",
    params(("project" = String, Path, description = "Its name or id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", response = Problem),
    )
)]
pub async fn delete_project(
    State(api): State<Api>,
    access: Anywhere<Administer>,
    Path(project): Path<String>,
) -> Result<Response, Problem> {
    access.for_all_projects()?;
    let id = access.session.project(Some(&project))?;
    let (catalog, owed) = (api.catalog_writer.current(), super::deleted::owed(&api).await?);
    let own = catalog.destinations.values().filter(|it| it.project == id);
    let cancelled = own.filter_map(|it| owed.get(&it.id)).sum();
    let decide = |catalog: &Catalog| Ok::<_, Problem>((everything_of(catalog, id), ()));
    api.catalog_writer.edit(decide).await?;
    let name = catalog.projects.get(&id).map(|it| it.name.to_string()).unwrap_or_default();
    Ok(super::deleted::gone("project", &name, cancelled))
}

/// The edits that delete a project with all that belongs to it.
fn everything_of(catalog: &Catalog, project: ProjectId) -> Vec<Edit> {
    fn own<K: Kind, T>(
        all: &std::collections::BTreeMap<Id<K>, T>,
        is_own: impl Fn(&T) -> bool,
        delete: impl Fn(Id<K>) -> Edit,
    ) -> impl Iterator<Item = Edit> {
        all.iter().filter(move |(_, it)| is_own(it)).map(move |(id, _)| delete(*id))
    }
    let mut edits = vec![Edit::DeleteProject(project)];
    edits.extend(own(&catalog.keys, |it| it.project == Some(project), Edit::DeleteKey));
    edits.extend(own(&catalog.sources, |it| it.project == project, Edit::DeleteSource));
    edits.extend(own(&catalog.pipelines, |it| it.project == project, Edit::DeletePipeline));
    edits.extend(own(&catalog.destinations, |it| it.project == project, Edit::DeleteDestination));
    edits.extend(own(&catalog.event_types, |it| it.project == project, Edit::DeleteEventType));
    edits.extend(own(&catalog.lookups, |it| it.project == project, Edit::DeleteLookup));
    edits.extend(own(&catalog.replays, |it| it.project == project, Edit::DeleteReplay));
    edits.extend(own(&catalog.deletions, |it| it.project == project, Edit::DeleteDeletion));
    edits
}
