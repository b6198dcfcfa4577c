//! What the API promises, over real sockets with the whole gateway behind it.

mod resources;
mod profiles;
mod records;
mod missed;
mod numbers;
mod operations;
mod probes;
mod deletions;
mod forgotten;
mod long_answers;
mod replays;
mod deletes;

use serde_json::Value;
use tidegate::model::EventId;

use crate::harness::{
    caller::{Answer, Caller},
    gateway::Gateway,
};

pub const EMPTY: &str = "version: 1\nproject: acme\n";
pub const NOWHERE: &str = "http://127.0.0.1:9/";

pub async fn empty() -> (Gateway, Caller) {
    let gateway = Gateway::start(EMPTY, NOWHERE).await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    (gateway, admin)
}

pub fn rows(answer: &Answer) -> Vec<Value> {
    answer.json()["data"].as_array().unwrap().clone()
}

/// What a list says in one field, row by row.
pub fn column(answer: &Answer, field: &str) -> Vec<String> {
    rows(answer).iter().map(|it| it[field].as_str().unwrap().to_owned()).collect()
}

pub async fn delivered(gateway: &Gateway, event: EventId) -> String {
    gateway.idle().await;
    let event = Caller::admin(gateway).get(&format!("/api/v1/events/{event}?project=acme")).await;
    event.expect(200).json()["deliveries"][0]["id"].as_str().unwrap().to_owned()
}
