//! Where requests go: a posted event to ingest at once, everything else by the router.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    http::{Method, Request, header},
    response::Response,
};

use crate::{
    api,
    ingest::Ingest,
    server::{AnswerBody, Answers, PacedBody},
    store::Role,
};

/// Answers every request of a node with these roles. The router answers a posted event just the same, and
/// at a higher price: half as much again.
pub struct GatewayRouter {
    /// `None`: the router says what this node does not do.
    ingest: Option<Arc<Ingest>>,
    router: Router,
}

impl GatewayRouter {
    pub fn new(ingest: Arc<Ingest>, router: Router, roles: Vec<Role>) -> Self {
        let has_all = Role::ALL.into_iter().all(|it| roles.contains(&it));
        Self { ingest: has_all.then_some(ingest), router: api::only_for(roles, router) }
    }
}

impl Answers for GatewayRouter {
    async fn answer(&self, request: Request<PacedBody>, peer: SocketAddr) -> Response<AnswerBody> {
        let is_event = request.method() == Method::POST && request.uri().path() == "/api/v1/events";
        match &self.ingest {
            // What a browser's page is answered besides, the router knows.
            Some(ingest) if is_event && !request.headers().contains_key(header::ORIGIN) => {
                ingest.post(request, peer.ip()).await
            }
            _ => self.router.answer(request, peer).await,
        }
    }
}
