//! The profiles of webhooks: what each of them means, value by value.

use axum::{Json, extract::State};

use crate::{
    api::{
        Api,
        page::{Listing, Page},
        request::{Anywhere, Read},
    },
    model::Profile,
    problem::Problem,
    resources::profiles::ProfileView,
};

/// List the profiles of webhooks
///
/// All of them, with every value, as this version of the gateway gives them to new destinations.
#[utoipa::path(
    get,
    path = "/api/v1/profiles",
    tag = "destinations",
    responses(
        (status = 200, description = "All of them", body = Listing<ProfileView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_profiles(
    State(_): State<Api>,
    _: Anywhere<Read>,
) -> Result<Page<ProfileView>, Problem> {
    Ok(Json(Listing { data: Profile::ALL.map(ProfileView::of).into(), next: None }))
}
