//! The kind `http`: any request to any HTTP API, its URL, headers and body templates over the event.
//!
//! There is no envelope and no signature: what goes out is what its owner wrote. `config` holds the settings,
//! `message` makes the request of an event, `send` makes one attempt, `errors` says what an answer means.

mod config;
mod errors;
mod message;
mod send;

use std::sync::Arc;

pub use config::HttpSettings;

use super::{DestinationClient, egress::Egress, kind::KindAbout, plain::Settings};
use crate::{
    model::{Destination, Policy},
    settings::Invalid,
};
use send::HttpClient;

impl Settings for HttpSettings {
    const ABOUT: KindAbout = KindAbout {
        word: "http",
        title: "HTTP request",
        help: "A request of your own to any HTTP API: method, URL, headers and body are templates over the event.",
        example: "\
name: crm-users
kind: http
method: PUT
url: https://api.acme.com/users/{{ payload.user_id }}
headers:
  x-api-key: ${CRM_API_KEY}
body: '{\"plan\": {{ payload.plan | tojson }}}'
",
        secrets: &["auth.bearer", "auth.basic.password", "headers.*"],
    };

    fn check(&self, policy: &Policy, wrong: &mut Vec<Invalid>) {
        self.check_all(policy, wrong);
    }

    fn origins(&self) -> Vec<String> {
        self.target().map(|it| it.origin()).into_iter().collect()
    }

    fn is_template(&self) -> bool {
        self.target().is_ok_and(|it| it.is_template())
    }

    fn client(
        self,
        destination: &Destination,
        egress: &Egress,
    ) -> Result<Arc<dyn DestinationClient>, String> {
        HttpClient::new(&self, destination, egress)
            .map(|it| Arc::new(it) as Arc<dyn DestinationClient>)
    }
}
