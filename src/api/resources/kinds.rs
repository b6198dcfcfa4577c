//! The kinds of destinations: what there is, and what a form for each is made of.

use axum::{Json, extract::State};

use crate::{
    api::{
        Api,
        page::{Listing, Page},
        request::{Anywhere, Read},
    },
    problem::Problem,
    resources::kinds::KindView,
};

/// List the kinds of destinations
///
/// All that this version of the gateway has, each with its JSON Schema, an example and help texts.
#[utoipa::path(
    get,
    path = "/api/v1/destination-kinds",
    tag = "destinations",
    responses(
        (status = 200, description = "All of them", body = Listing<KindView>),
        (status = "4XX", response = Problem),
    )
)]
pub async fn list_destination_kinds(
    State(_): State<Api>,
    _: Anywhere<Read>,
) -> Result<Page<KindView>, Problem> {
    Ok(Json(Listing { data: KindView::all(), next: None }))
}
