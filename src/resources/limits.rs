//! How many endpoints may be active in one project.

use serde::{Deserialize, Serialize};

use crate::{
    catalog::Catalog,
    model::{Destination, DestinationState, Profile},
};

/// An endpoint is one URL of a destination; it is active unless its destination is disabled.
///
/// The smaller limit belongs to the contract of `admin`, whose receivers know it. It does not bind
/// the other profiles: a limit that nobody asked for would only stop a project that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Of one project, whatever their profiles.
    pub endpoints: usize,
    /// Of one project with the profile `admin`.
    pub admin_endpoints: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { endpoints: 10_000, admin_endpoints: 50 }
    }
}

/// Why a destination cannot become active: the project has as many endpoints as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error(
        "the project would have more than {0} active endpoints (`resources.endpoints`): disable or delete one first"
    )]
    All(usize),
    #[error(
        "the project would have more than {0} active endpoints of the profile `admin` (`resources.admin_endpoints`): disable or delete one first"
    )]
    Admin(usize),
}

impl Full {
    /// The field that is to blame.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::All(_) => "url",
            Self::Admin(_) => "profile",
        }
    }

    pub(super) fn rule(self) -> String {
        match self {
            Self::All(most) => format!(
                "must leave the project at most {most} active endpoints (`resources.endpoints`): disable or delete one first"
            ),
            Self::Admin(most) => format!(
                "must leave the project at most {most} active endpoints of the profile `admin` (`resources.admin_endpoints`): disable or delete one first"
            ),
        }
    }
}

/// Whether the project has room for the destination as it would be. A change that adds no endpoint
/// is always fine, also after a limit was lowered.
pub fn check(
    catalog: &Catalog,
    options: Options,
    new: &Destination,
    old: Option<&Destination>,
) -> Result<(), Full> {
    let fits = |count: &dyn Fn(&Destination) -> usize, most: usize| {
        let own = count(new);
        if own <= old.map_or(0, count) {
            return true;
        }
        let others = catalog.destinations.values();
        let others = others.filter(|it| it.project == new.project && it.id != new.id);
        others.map(|it| count(it)).sum::<usize>() + own <= most
    };
    if !fits(&active_endpoints, options.endpoints) {
        return Err(Full::All(options.endpoints));
    }
    let of_admin = |it: &Destination| {
        let is_admin = it.connection.profile() == Some(Profile::Admin);
        if is_admin { active_endpoints(it) } else { 0 }
    };
    if !fits(&of_admin, options.admin_endpoints) {
        return Err(Full::Admin(options.admin_endpoints));
    }
    Ok(())
}

fn active_endpoints(destination: &Destination) -> usize {
    match &destination.state {
        DestinationState::Disabled { .. } => 0,
        DestinationState::Active
        | DestinationState::Paused { .. }
        | DestinationState::Unverified { .. } => destination.connection.endpoints(),
    }
}
