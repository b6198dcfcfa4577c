//! The destinations of the catalogue, built when they are first needed and kept until they change.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;
use url::Url;

use super::{DestinationClient, Outlets, Preview, egress::Egress, kinds, webhook::refused};
use crate::{
    catalog::Catalog,
    crypto::Vault,
    model::{self, Class, DestinationId, IdMap, Message, Outcome},
};

pub struct Directory {
    catalog: watch::Receiver<Arc<Catalog>>,
    vault: Arc<Vault>,
    egress: Egress,
    built: Mutex<IdMap<DestinationId, BuiltClient>>,
}

struct BuiltClient {
    /// What it was built from. A change in the catalogue makes another one.
    from: Arc<model::Destination>,
    outlet: Arc<dyn DestinationClient>,
}

impl Directory {
    pub fn new(catalog: watch::Receiver<Arc<Catalog>>, vault: Arc<Vault>, egress: Egress) -> Self {
        Self { catalog, vault, egress, built: Mutex::default() }
    }

    /// What to tell somebody who saves a destination whose endpoint is refused for certain.
    pub fn warning(&self, destination: &model::Destination) -> Option<String> {
        let mut origins = destination.connection.origins().into_iter();
        let (origin, refused) = origins.find_map(|origin| {
            let refused = self.egress.refuses(&Url::parse(&origin).ok()?)?;
            Some((origin, refused))
        })?;
        let how = match refused.allow {
            Some(net) => format!(
                "start the gateway with `--allow-net {net}`, or list it in `[egress] allow_nets`"
            ),
            None => "name the host in `[egress] allow_hosts`".to_owned(),
        };
        Some(format!(
            "destination `{}`: {origin} is not a public address, and deliveries to it are refused; {how}",
            destination.name
        ))
    }

    /// The destination as it would be built, for a test event before it is saved.
    pub fn build(&self, destination: &model::Destination) -> Arc<dyn DestinationClient> {
        let word = destination.connection.kind();
        let Some(kind) = kinds::named(word) else {
            let reason = format!("this version of Tidegate has no kind of destination `{word}`");
            return Arc::new(Unusable { kind: "unknown", reason });
        };
        kind.build(destination, &self.vault, &self.egress)
            .unwrap_or_else(|reason| Arc::new(Unusable { kind: kind.about().word, reason }))
    }
}

impl Outlets for Directory {
    fn get(&self, id: DestinationId) -> Option<Arc<dyn DestinationClient>> {
        let catalog = self.catalog.borrow().clone();
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(now) = catalog.destinations.get(&id) else {
            built.remove(&id);
            return None;
        };
        if let Some(it) = built.get(&id).filter(|it| Arc::ptr_eq(&it.from, now)) {
            return Some(it.outlet.clone());
        }
        // A change is rare: a good moment to let go of what was deleted and never asked for again.
        built.retain(|id, _| catalog.destinations.contains_key(id));
        let outlet = self.build(now);
        built.insert(id, BuiltClient { from: now.clone(), outlet: outlet.clone() });
        Some(outlet)
    }
}

/// A destination that cannot be built as it is configured. Each attempt says why.
struct Unusable {
    kind: &'static str,
    reason: String,
}

#[async_trait]
impl DestinationClient for Unusable {
    fn kind(&self) -> &'static str {
        self.kind
    }

    async fn send(&self, _: &[Message], _: Timestamp) -> Outcome {
        refused(Class::Config, self.reason.clone())
    }

    fn preview(&self, _: &[Message], _: Timestamp) -> Result<Vec<Preview>, Outcome> {
        Err(refused(Class::Config, self.reason.clone()))
    }
}
