//! The description of the API (OpenAPI 3.1), made from the handlers and what they answer.

use std::sync::OnceLock;

use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::{
    cluster, counts, deletions, deliveries, directory, dry_run, events, export, operations,
    replays, resources, stats, tail,
};
use crate::{ingest, problem::Problem};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tidegate",
        description = "Emit once, deliver everywhere, lose nothing. Every error is a problem (RFC 9457) with a stable `type`. A key for all projects names the project by the header `Tidegate-Project` or the query `project`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        ingest::post_event,
        ingest::post_events,
        ingest::webhook::post_webhook,
        events::list_events,
        events::get_event,
        export::export_events,
        deliveries::list_deliveries,
        deliveries::get_delivery,
        deliveries::cancel_delivery,
        deliveries::list_dead_letters,
        deliveries::list_attempts,
        tail::tail,
        replays::replay_one_event,
        replays::replay_delivery,
        replays::list_replays,
        replays::create_replay,
        replays::get_replay,
        replays::cancel_replay,
        deletions::list_deletions,
        deletions::create_deletion,
        deletions::get_deletion,
        deletions::delete_deletion,
        deletions::cancel_deletion,
        resources::projects::list_projects,
        resources::projects::create_project,
        resources::projects::get_project,
        resources::projects::put_project,
        resources::projects::delete_project,
        resources::keys::list_keys,
        resources::keys::create_key,
        resources::keys::delete_key,
        resources::sources::list_sources,
        resources::sources::create_source,
        resources::sources::get_source,
        resources::sources::put_source,
        resources::sources::delete_source,
        resources::sources::source_traffic,
        resources::sources::forget_source_traffic,
        resources::lookups::list_lookups,
        resources::lookups::create_lookup,
        resources::lookups::get_lookup,
        resources::lookups::put_lookup,
        resources::lookups::delete_lookup,
        directory::list_entities,
        directory::put_entities,
        directory::import_entities,
        directory::get_entity,
        directory::put_entity,
        directory::delete_entity,
        resources::event_types::list_event_types,
        resources::event_types::create_event_type,
        resources::event_types::get_event_type,
        resources::event_types::put_event_type,
        resources::event_types::delete_event_type,
        resources::learned::event_type_fields,
        resources::learned::adopt_event_type,
        resources::pipelines::list_pipelines,
        resources::pipelines::create_pipeline,
        resources::pipelines::get_pipeline,
        resources::pipelines::put_pipeline,
        resources::pipelines::delete_pipeline,
        resources::versions::list_versions,
        resources::versions::get_version,
        resources::versions::compare_versions,
        resources::versions::rollback_pipeline,
        dry_run::try_pipeline,
        dry_run::run_tests,
        resources::kinds::list_destination_kinds,
        resources::profiles::list_profiles,
        resources::destinations::list_destinations,
        resources::destinations::create_destination,
        resources::destinations::get_destination,
        resources::destinations::put_destination,
        resources::destinations::delete_destination,
        resources::destinations::pause_destination,
        resources::destinations::resume_destination,
        resources::destinations::enable_destination,
        resources::destinations::disable_destination,
        resources::trial::test_destination,
        resources::verify::verify_destination,
        resources::rotation::rotate_secret,
        resources::file::plan_file,
        resources::file::apply_file,
        resources::file::export_file,
        stats::destination_stats,
        counts::pipeline_counts,
        stats::status,
        cluster::cluster,
        operations::openapi,
        operations::healthz,
        operations::readyz,
        operations::metrics,
    ),
    components(responses(Problem), schemas(Problem)),
    modifiers(&ApiKey),
    security(("api_key" = [])),
)]
struct Document;

/// How callers say who they are.
struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("tg_…")
            .description(Some("An API key, with the scope that the operation needs"));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("api_key", SecurityScheme::Http(scheme.build()));
    }
}

/// The description, as it is served.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// The same as text, made once.
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| document().to_pretty_json().unwrap_or_default())
}
