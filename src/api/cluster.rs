//! The nodes that share the database: who lives, who does what, and how far the work has come.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use super::{
    Api,
    request::{Anywhere, Read},
};
use crate::{
    problem::{Kind, Problem},
    store::{ClusterSnapshot, Duty, Lease, MemberId, Role},
};

/// This node among others.
#[derive(Clone)]
pub struct NodePlacement {
    pub me: MemberId,
    /// As the database said last.
    pub view: watch::Receiver<ClusterSnapshot>,
}

/// How the nodes are that share the database.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Cluster)]
pub struct ClusterView {
    /// When the database said so.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The id of the node that answers.
    pub answered_by: String,
    /// Those that live.
    pub nodes: Vec<NodeView>,
    /// Everything that one node at a time does.
    pub shares: Vec<ShareView>,
    /// Shares that nobody does at the moment.
    pub unheld: usize,
    /// Events that have no plan yet.
    pub unplanned: u64,
    /// Deliveries that have not ended.
    pub owed: u64,
    /// When the event of the oldest of them was accepted, in seconds before now.
    pub oldest_owed_seconds: Option<f64>,
}

/// A process that takes part.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Node)]
pub struct NodeView {
    /// Of this process; another one after a restart.
    pub id: String,
    pub name: String,
    #[schema(value_type = Vec<String>)]
    pub roles: Vec<Role>,
    /// Where it answers.
    pub address: String,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it last said that it lives.
    #[schema(value_type = String, format = DateTime)]
    pub seen_at: Timestamp,
    /// The shards that it does, by duty: `pipeline`, `dispatch`, `upkeep`.
    pub shares: BTreeMap<&'static str, Vec<u16>>,
}

/// Work that one node at a time does.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Share)]
pub struct ShareView {
    /// `pipeline`: planning the events of some projects. `dispatch`: delivering to some destinations.
    /// `upkeep`: replays, deletions, verifications.
    pub duty: &'static str,
    pub shard: u16,
    /// The id of the node that does it. Null: nobody, at the moment.
    pub node: Option<String>,
    /// How often it has changed hands.
    pub epoch: i64,
    /// Of a pipeline: its events that have no plan yet.
    pub unplanned: Option<u64>,
}

fn id(it: MemberId) -> String {
    format!("{:032x}", it.0)
}

impl ShareView {
    fn of(it: &Lease, view: &ClusterSnapshot) -> Self {
        let log = view.logs.get(usize::from(it.share.shard));
        let log = log.filter(|_| it.share.duty == Duty::Pipeline);
        Self {
            duty: it.share.duty.as_str(),
            shard: it.share.shard,
            node: it.holder.map(id),
            epoch: it.epoch.0,
            unplanned: log.map(|it| it.last.0.saturating_sub(it.planned.0)),
        }
    }
}

/// Get the nodes that share the database
///
/// Who lives, what each does, and how far the work has come. Only a key for all projects sees it. A gateway on
/// the embedded store is alone, and has no nodes.
#[utoipa::path(
    get,
    path = "/api/v1/cluster",
    tag = "operations",
    responses(
        (status = 200, description = "The nodes", body = ClusterView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn cluster(
    State(api): State<Api>,
    access: Anywhere<Read>,
) -> Result<Json<ClusterView>, Problem> {
    access.for_all_projects()?;
    let Some(place) = &api.place else {
        return Err(Problem::new(Kind::NotFound)
            .detail("this gateway is alone on its embedded store: there are no nodes"));
    };
    let view = place.view.borrow().clone();
    let backlog = api.database.backlog().await?;
    let now = api.clock.now();
    let oldest = backlog.iter().map(|it| it.oldest).min();
    let shares: Vec<ShareView> = view.leases.iter().map(|it| ShareView::of(it, &view)).collect();
    let nodes = view.members.iter().map(|member| {
        let mut held: BTreeMap<&'static str, Vec<u16>> = BTreeMap::new();
        for lease in view.leases.iter().filter(|it| it.holder == Some(member.id)) {
            held.entry(lease.share.duty.as_str()).or_default().push(lease.share.shard);
        }
        NodeView {
            id: id(member.id),
            name: member.name.clone(),
            roles: member.roles.clone(),
            address: member.address.clone(),
            started_at: member.started_at,
            seen_at: member.seen_at,
            shares: held,
        }
    });
    Ok(Json(ClusterView {
        at: view.at,
        answered_by: id(place.me),
        nodes: nodes.collect(),
        unheld: shares.iter().filter(|it| it.node.is_none()).count(),
        unplanned: shares.iter().filter_map(|it| it.unplanned).sum(),
        shares,
        owed: backlog.iter().map(|it| it.owed).sum(),
        oldest_owed_seconds: oldest.map(|it| now.duration_since(it).as_secs_f64().max(0.0)),
    }))
}

/// The role that a node must have for a request; `None`: every node answers.
fn needed(method: &Method, path: &str) -> Option<Role> {
    let takes_events = |it: &str| {
        let is_post = method == Method::POST || method == Method::OPTIONS;
        is_post && matches!(it, "/api/v1/events" | "/api/v1/events/batch")
    };
    match path {
        "/healthz" | "/readyz" | "/metrics" => None,
        it if it.starts_with("/in/") || it.starts_with("/v1/") || takes_events(it) => {
            Some(Role::Ingest)
        }
        _ => Some(Role::Api),
    }
}

/// Refuses what this node does not do.
pub async fn refuse_others(
    State(roles): State<Vec<Role>>,
    request: Request,
    next: Next,
) -> Response {
    let missing = needed(request.method(), request.uri().path()).filter(|it| !roles.contains(it));
    match missing {
        None => next.run(request).await,
        Some(Role::Ingest) => Problem::new(Kind::Unavailable)
            .detail("this node takes no events: it does not have the role `ingest`")
            .into_response(),
        Some(_) => Problem::new(Kind::Unavailable)
            .detail("this node answers no such request: it does not have the role `api`")
            .into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_for_a_role_and_health_for_none() {
        for (method, path, role) in [
            (Method::POST, "/api/v1/events", Some(Role::Ingest)),
            (Method::GET, "/api/v1/events", Some(Role::Api)),
            (Method::POST, "/api/v1/events/batch", Some(Role::Ingest)),
            (Method::POST, "/v1/track", Some(Role::Ingest)),
            (Method::POST, "/in/stripe", Some(Role::Ingest)),
            (Method::POST, "/api/v1/apply", Some(Role::Api)),
            (Method::GET, "/", Some(Role::Api)),
            (Method::GET, "/readyz", None),
            (Method::GET, "/metrics", None),
        ] {
            assert_eq!(needed(&method, path), role, "{method} {path}");
        }
    }
}
