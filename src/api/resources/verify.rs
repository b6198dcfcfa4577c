//! Verification: an endpoint shows that it is there and willing before it gets anything else.

use axum::{
    Json,
    extract::{Path, State},
};

use super::destinations::{DestinationView, change, is_disabled};
use crate::{
    api::{
        Api,
        request::{Access, Operate},
    },
    model::{Destination, DestinationState},
    problem::{self, Problem},
};

/// Verify a destination again
///
/// A signed `webhook.configured` is sent to it. When it answers with 2xx, the destination is active, and
/// what was held for it goes out; otherwise it stays unverified, and says why. The answer waits for that,
/// half a minute at most. One that is active stays as it is.
#[utoipa::path(
    post,
    path = "/api/v1/destinations/{destination}/verify",
    tag = "destinations",
    params(("destination" = String, Path, description = "Its name or id")),
    responses(
        (status = 200, description = "As it is now: `active`, or `unverified` with the reason", body = DestinationView),
        (status = "4XX", response = Problem),
    )
)]
pub async fn verify_destination(
    State(api): State<Api>,
    access: Access<Operate>,
    Path(destination): Path<String>,
) -> Result<Json<DestinationView>, Problem> {
    let rule = |it: &mut Destination| match &mut it.state {
        DestinationState::Active => Ok(()),
        // Whoever verifies takes it from here.
        DestinationState::Unverified { reason, .. } => {
            reason.clear();
            Ok(())
        }
        DestinationState::Paused { .. } => Err(Problem::new(problem::Kind::Conflict)
            .detail("the destination is paused, and was verified before")),
        DestinationState::Disabled { .. } => Err(is_disabled()),
    };
    let (now, ()) = change(&api, access.project, &destination, rule).await?;
    Ok(Json(DestinationView::of(&settled(&api, now).await)))
}

/// The destination once its verification is through, if it waits for one.
pub async fn settled(api: &Api, destination: Destination) -> Destination {
    match &destination.state {
        DestinationState::Unverified { .. } => {
            let now = api.prober.settled(destination.id).await;
            now.map_or(destination, |it| Destination::clone(&it))
        }
        DestinationState::Active
        | DestinationState::Paused { .. }
        | DestinationState::Disabled { .. } => destination,
    }
}
