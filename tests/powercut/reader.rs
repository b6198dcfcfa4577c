//! Somebody who reads the newest events all the time: what was read must still be there after a power cut.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::sync::watch;

use crate::crash::http::Connection;

/// Where the record was when somebody first read of an event, by its id.
pub async fn read_on(
    address: SocketAddr,
    position: impl Fn() -> u64,
    stopped: watch::Receiver<()>,
) -> HashMap<String, u64> {
    let mut connection = Connection::open(address).await.unwrap();
    let mut read = HashMap::new();
    while stopped.has_changed().is_ok() {
        let (status, answer) = connection.read("/api/v1/events?limit=20").await.unwrap();
        assert_eq!(status, 200);
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        for event in answer["data"].as_array().unwrap() {
            read.entry(event["id"].as_str().unwrap().to_owned()).or_insert_with(&position);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    read
}
