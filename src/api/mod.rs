//! The REST API for people and programs.

mod routes;
mod request;
mod page;
mod views;
mod events;
mod export;
mod deliveries;
mod stats;
mod counts;
mod replays;
mod deletions;
mod tail;
mod stay;
mod resources;
mod dry_run;
mod directory;
mod operations;
mod cluster;
mod document;

use std::{net::SocketAddr, ops::Deref, sync::Arc};

use axum::{Router, extract::FromRef, http::Method, middleware, response::IntoResponse as _};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::routes::Routes;
pub use self::{cluster::NodePlacement, document::document};
use crate::{
    catalog::CatalogWriter,
    clock::Clock,
    crypto::{KeyHasher, Random, Vault},
    destinations, dispatch,
    ingest::{self, Caller, Ingest, Keyring},
    model::{Author, Shares},
    pipeline::{Lookups, Tools},
    probe::Prober,
    problem::{Kind, Problem},
    replay::Replayed,
    resources::Means,
    store::{Database, Role},
    tail::Tail,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Bytes of a request that changes resources, inflated.
    pub body_bytes: usize,
    /// `/metrics` needs an API key for all projects. It names look-ups, and nothing of events. Unset,
    /// it needs one where the gateway listens on an address that is not a loopback address.
    pub private_metrics: Option<bool>,
    /// People and programs that may follow `/api/v1/tail` at once; of one project, half of them.
    pub watchers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { body_bytes: 1024 * 1024, private_metrics: None, watchers: 64 }
    }
}

impl Options {
    /// The same with what is not set decided for a gateway that listens on this address.
    pub fn on(mut self, listen: SocketAddr) -> Self {
        self.private_metrics.get_or_insert(!listen.ip().is_loopback());
        self
    }
}

/// What the API works with. `app` puts it together.
pub struct Context {
    pub catalog_writer: Arc<CatalogWriter>,
    pub database: Arc<dyn Database>,
    pub ingest: Arc<Ingest>,
    pub keyring: Arc<Keyring>,
    pub vault: Arc<Vault>,
    pub hasher: KeyHasher,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    /// For test events and verifications.
    pub prober: Arc<Prober>,
    /// For what destinations would be sent.
    pub outlets: Arc<destinations::Directory>,
    /// For steps that ask, while somebody tries them.
    pub lookups: Arc<dyn Lookups>,
    /// Its threads run the scripts of dry runs only.
    pub tools: Tools,
    pub dispatch: dispatch::Handle,
    /// Tells the dispatcher what a replay has made.
    pub replayed: Replayed,
    pub tail: Tail,
    pub metrics: PrometheusHandle,
    /// Becomes true when the gateway is about to stop, and should get no more requests.
    pub draining: watch::Receiver<bool>,
    /// Where several nodes share the database.
    pub place: Option<NodePlacement>,
    /// What a project may have.
    pub limits: crate::resources::Options,
    pub options: Options,
}

/// Pipelines that are tried at once, over all projects; of one, half of them.
const DRY_RUNS: usize = 4;

/// The state of every handler. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

/// The context, and what limits its use.
pub struct Shared {
    context: Context,
    watchers: Shares,
    dry_runs: Shares,
}

impl Api {
    pub fn new(context: Context) -> Self {
        let watchers = Shares::new(context.options.watchers);
        let dry_runs = Shares::new(DRY_RUNS);
        Self(Arc::new(Shared { context, watchers, dry_runs }))
    }

    /// With what old events are planned again.
    fn replanning(&self) -> crate::replay::Means {
        crate::replay::Means {
            database: self.database.clone(),
            lookups: self.lookups.clone(),
            tools: self.tools.clone(),
        }
    }

    /// What the checks of `resources` need, for what this caller changes.
    fn means(&self, caller: &Caller) -> Means<'_> {
        Means {
            vault: &self.vault,
            random: self.random.as_ref(),
            now: self.clock.now(),
            author: caller.key.map_or(Author::AdminKey, Author::Key),
            options: self.limits,
        }
    }
}

impl Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Deref for Shared {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl FromRef<Api> for Arc<Ingest> {
    fn from_ref(api: &Api) -> Self {
        api.ingest.clone()
    }
}

fn resource_routes(routes: Routes) -> Routes {
    routes
        // Resources.
        .get("/api/v1/projects", resources::list_projects)
        .post("/api/v1/projects", resources::create_project)
        .get("/api/v1/projects/{project}", resources::get_project)
        .put("/api/v1/projects/{project}", resources::put_project)
        .delete("/api/v1/projects/{project}", resources::delete_project)
        .get("/api/v1/keys", resources::list_keys)
        .post("/api/v1/keys", resources::create_key)
        .delete("/api/v1/keys/{key}", resources::delete_key)
        .get("/api/v1/sources", resources::list_sources)
        .post("/api/v1/sources", resources::create_source)
        .get("/api/v1/sources/{source}", resources::get_source)
        .put("/api/v1/sources/{source}", resources::put_source)
        .delete("/api/v1/sources/{source}", resources::delete_source)
        .get("/api/v1/sources/{source}/traffic", resources::source_traffic)
        .delete("/api/v1/sources/{source}/traffic", resources::forget_source_traffic)
        .get("/api/v1/lookups", resources::list_lookups)
        .post("/api/v1/lookups", resources::create_lookup)
        .get("/api/v1/lookups/{lookup}", resources::get_lookup)
        .put("/api/v1/lookups/{lookup}", resources::put_lookup)
        .delete("/api/v1/lookups/{lookup}", resources::delete_lookup)
        // What enrichment knows.
        .get("/api/v1/directory/{table}", directory::list_entities)
        .post("/api/v1/directory/{table}", directory::put_entities)
        .post("/api/v1/directory/{table}/import", directory::import_entities)
        .get("/api/v1/directory/{table}/entries/{key}", directory::get_entity)
        .put("/api/v1/directory/{table}/entries/{key}", directory::put_entity)
        .delete("/api/v1/directory/{table}/entries/{key}", directory::delete_entity)
        .get("/api/v1/event-types", resources::list_event_types)
        .post("/api/v1/event-types", resources::create_event_type)
        .get("/api/v1/event-types/{event_type}", resources::get_event_type)
        .put("/api/v1/event-types/{event_type}", resources::put_event_type)
        .delete("/api/v1/event-types/{event_type}", resources::delete_event_type)
        .get("/api/v1/event-types/{event_type}/fields", resources::event_type_fields)
        .post("/api/v1/event-types/{event_type}/adopt", resources::adopt_event_type)
        .get("/api/v1/pipelines", resources::list_pipelines)
        .post("/api/v1/pipelines", resources::create_pipeline)
        .get("/api/v1/pipelines/{pipeline}", resources::get_pipeline)
        .put("/api/v1/pipelines/{pipeline}", resources::put_pipeline)
        .delete("/api/v1/pipelines/{pipeline}", resources::delete_pipeline)
        .get("/api/v1/pipelines/{pipeline}/versions", resources::list_versions)
        .get("/api/v1/pipelines/{pipeline}/versions/{version}", resources::get_version)
        .get("/api/v1/pipelines/{pipeline}/diff", resources::compare_versions)
        .post("/api/v1/pipelines/{pipeline}/rollback", resources::rollback_pipeline)
        .post("/api/v1/pipelines/{pipeline}/test", dry_run::try_pipeline)
        .post("/api/v1/pipelines/{pipeline}/tests", dry_run::run_tests)
        .get("/api/v1/pipelines/{pipeline}/counts", counts::pipeline_counts)
        .get("/api/v1/destination-kinds", resources::list_destination_kinds)
        .get("/api/v1/profiles", resources::list_profiles)
        .get("/api/v1/destinations", resources::list_destinations)
        .post("/api/v1/destinations", resources::create_destination)
        .get("/api/v1/destinations/{destination}", resources::get_destination)
        .put("/api/v1/destinations/{destination}", resources::put_destination)
        .delete("/api/v1/destinations/{destination}", resources::delete_destination)
        .post("/api/v1/destinations/{destination}/pause", resources::pause_destination)
        .post("/api/v1/destinations/{destination}/resume", resources::resume_destination)
        .post("/api/v1/destinations/{destination}/enable", resources::enable_destination)
        .post("/api/v1/destinations/{destination}/disable", resources::disable_destination)
        .post("/api/v1/destinations/{destination}/test", resources::test_destination)
        .post("/api/v1/destinations/{destination}/verify", resources::verify_destination)
        .post("/api/v1/destinations/{destination}/rotate-secret", resources::rotate_secret)
        .get("/api/v1/destinations/{destination}/stats", stats::destination_stats)
        .post("/api/v1/plan", resources::plan_file)
        .post("/api/v1/apply", resources::apply_file)
        .get("/api/v1/export", resources::export_file)
}

/// The routes, and nothing around them.
fn routes() -> Routes {
    resource_routes(Routes::default())
        // Events.
        .post("/api/v1/events", ingest::post_event)
        .post("/api/v1/events/batch", ingest::post_events)
        .post("/in/{source}", ingest::webhook::post_webhook)
        .get("/api/v1/events", events::list_events)
        .get("/api/v1/events/export", export::export_events)
        .get("/api/v1/events/{event}", events::get_event)
        // What became of them.
        .get("/api/v1/deliveries", deliveries::list_deliveries)
        .get("/api/v1/deliveries/{delivery}", deliveries::get_delivery)
        .post("/api/v1/deliveries/{delivery}/cancel", deliveries::cancel_delivery)
        .get("/api/v1/dead-letters", deliveries::list_dead_letters)
        .get("/api/v1/attempts", deliveries::list_attempts)
        .get("/api/v1/tail", tail::tail)
        // People who want to be forgotten.
        .get("/api/v1/deletions", deletions::list_deletions)
        .post("/api/v1/deletions", deletions::create_deletion)
        .get("/api/v1/deletions/{deletion}", deletions::get_deletion)
        .delete("/api/v1/deletions/{deletion}", deletions::delete_deletion)
        .post("/api/v1/deletions/{deletion}/cancel", deletions::cancel_deletion)
        // Old events, delivered again.
        .post("/api/v1/events/{event}/replay", replays::replay_one_event)
        .post("/api/v1/deliveries/{delivery}/replay", replays::replay_delivery)
        .get("/api/v1/replays", replays::list_replays)
        .post("/api/v1/replays", replays::create_replay)
        .get("/api/v1/replays/{replay}", replays::get_replay)
        .post("/api/v1/replays/{replay}/cancel", replays::cancel_replay)
        // How everything is.
        .get("/api/v1/status", stats::status)
        .get("/api/v1/cluster", cluster::cluster)
        .get("/api/v1/openapi.json", operations::openapi)
        .get("/healthz", operations::healthz)
        .get("/readyz", operations::readyz)
        .get("/metrics", operations::metrics)
}

/// Every route, for tests.
pub fn route_list() -> Vec<(Method, &'static str)> {
    routes().listed().to_vec()
}

pub fn router(api: Api) -> Router {
    routes()
        .into_router()
        .fallback(|| async {
            Problem::new(Kind::NotFound).detail("there is no such path").into_response()
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(Kind::MethodNotAllowed).into_response()
        })
        .layer(middleware::from_fn(ingest::cors::events))
        .with_state(api.clone())
        .merge(ingest::segment::router(api.ingest.clone()))
}

/// Refuses what a node with just these roles does not do.
pub fn only_for(roles: Vec<Role>, router: Router) -> Router {
    if Role::ALL.into_iter().all(|it| roles.contains(&it)) {
        return router;
    }
    router.layer(middleware::from_fn_with_state(roles, cluster::refuse_others))
}
