//! What is lost with a destination: the deliveries that are still owed to it.

use std::collections::HashMap;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse as _, Response},
};

use crate::{api::Api, model::DestinationId, problem::Problem};

/// How many deliveries are owed, by destination.
pub type Owed = HashMap<DestinationId, u64>;

/// How many deliveries a deletion has cancelled.
static CANCELLED: HeaderName = HeaderName::from_static("tidegate-cancelled-deliveries");

pub async fn owed(api: &Api) -> Result<Owed, Problem> {
    let backlog = api.database.backlog().await?;
    Ok(backlog.into_iter().map(|it| (it.destination, it.owed)).collect())
}

/// Nothing is left, and so many deliveries are cancelled with it. It is logged, too: nobody can look later.
pub fn gone(what: &str, name: &str, cancelled: u64) -> Response {
    tracing::info!(name, cancelled, "a {what} was deleted, and with it its pending deliveries");
    let header = [(CANCELLED.clone(), HeaderValue::from(cancelled))];
    (StatusCode::NO_CONTENT, header).into_response()
}
