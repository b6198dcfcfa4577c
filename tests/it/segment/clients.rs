//! The clients themselves, as their registries have them: installed by `tests/clients/install.sh`,
//! run by `tests/clients/send.*`, with nothing changed but the host.
//!
//! Between a client and the gateway stands a proxy that is having a bad moment: the first post is
//! answered 503 and goes no further, the second is taken and answered 429 all the same.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::harness::{caller::Caller, gateway::Gateway};

const RESOURCES: &str =
    "version: 1\nproject: acme\nsources: [{ name: web, kind: segment, write_key: wk_demo }]\n";

/// Where the clients are.
fn folder() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    std::path::absolute(target.join("clients")).unwrap()
}

/// Forwards to the gateway, but for its bad moment. Counts posts of messages.
async fn bad_moment(gateway: String) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let posts = Arc::new(AtomicUsize::new(0));
    let counted = posts.clone();
    tokio::spawn(async move {
        let client = Client::builder(TokioExecutor::new()).build_http();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (gateway, posts, client) = (gateway.clone(), posts.clone(), client.clone());
            let service = service_fn(move |request| {
                forward(request, gateway.clone(), posts.clone(), client.clone())
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, counted)
}

async fn forward(
    request: Request<Incoming>,
    gateway: String,
    posts: Arc<AtomicUsize>,
    client: Client<HttpConnector, Full<bytes::Bytes>>,
) -> Result<Response<Full<bytes::Bytes>>, hyper::Error> {
    let is_post = request.method() == Method::POST;
    let number = if is_post { posts.fetch_add(1, Ordering::SeqCst) } else { usize::MAX };
    let origin = request.headers().get("origin").cloned();
    let refuse = |status: StatusCode| {
        let mut response = Response::builder()
            .status(status)
            .header("retry-after", "1")
            .header("content-type", "application/json")
            .header("access-control-expose-headers", "retry-after");
        if let Some(origin) = &origin {
            response = response.header("access-control-allow-origin", origin);
        }
        let body = r#"{"success":false,"code":"busy","message":"come back later"}"#;
        response.body(Full::new(body.into())).unwrap()
    };
    if number == 0 {
        return Ok(refuse(StatusCode::SERVICE_UNAVAILABLE));
    }
    let (mut head, body) = request.into_parts();
    head.uri = format!("{gateway}{}", head.uri.path_and_query().unwrap()).parse().unwrap();
    let body = Full::new(body.collect().await?.to_bytes());
    let answer = client.request(Request::from_parts(head, body)).await.unwrap();
    if number == 1 {
        return Ok(refuse(StatusCode::TOO_MANY_REQUESTS));
    }
    let (head, body) = answer.into_parts();
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}

/// Runs a client, and gives the payloads that were kept, oldest first.
async fn sent_by(program: &str, script: &str, client: &str) -> Vec<Value> {
    let gateway = Gateway::start(RESOURCES, "http://127.0.0.1:9/").await;
    let (host, posts) = bad_moment(format!("http://{}", gateway.app.address)).await;
    let folder = folder();
    let program = if program == "node" { "node".into() } else { folder.join(program) };
    let mut command = Command::new("timeout");
    command.arg("120").arg(&program).arg(folder.join(script)).args([client, &host, "wk_demo"]);
    command.current_dir(&folder).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{client} (`make setup` installs it): {said}");
    assert!(posts.load(Ordering::SeqCst) >= 3, "{client} did not try again: {said}");

    let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
    let list = reader.get("/api/v1/events?limit=200").await.expect(200).json();
    let mut payloads = Vec::new();
    for event in list["data"].as_array().unwrap().iter().rev() {
        let path = format!("/api/v1/events/{}", event["id"].as_str().unwrap());
        let event = reader.get(&path).await.expect(200).json();
        assert_eq!(event["type"], event["payload"]["type"]);
        payloads.push(event["payload"].clone());
    }
    payloads
}

/// Each of the six calls was kept once, and says what the app said.
fn check(client: &str, payloads: &[Value]) {
    let calls: Value =
        serde_json::from_str(&std::fs::read_to_string(folder().join("calls.json")).unwrap())
            .unwrap();
    let mut types: Vec<_> = payloads.iter().map(|it| it["type"].as_str().unwrap()).collect();
    types.sort_unstable();
    assert_eq!(types, ["alias", "group", "identify", "page", "screen", "track"], "{client}");
    for payload in payloads {
        let name = payload["type"].as_str().unwrap();
        for (field, expected) in calls[name].as_object().unwrap() {
            // RudderStack's Python client puts the traits of `identify` into the context.
            let found = match payload.get(field) {
                None if field == "traits" => &payload["context"]["traits"],
                found => found.unwrap_or(&Value::Null),
            };
            assert_holds(client, &format!("{name}.{field}"), found, expected);
        }
        for field in ["messageId", "timestamp", "receivedAt"] {
            assert!(payload[field].is_string(), "{client}: {name} has no {field}");
        }
    }
}

/// Everything that was said is there. The browser's client adds the page's own properties.
fn assert_holds(client: &str, path: &str, found: &Value, expected: &Value) {
    match expected {
        Value::Object(fields) => {
            for (name, value) in fields {
                assert_holds(client, &format!("{path}.{name}"), &found[name], value);
            }
        }
        _ => assert_eq!(found, expected, "{client}: {path}"),
    }
}

#[tokio::test]
async fn segments_client_for_node_arrives_once() {
    check("segment-node", &sent_by("node", "send.mjs", "segment-node").await);
}

#[tokio::test]
async fn segments_old_client_for_node_arrives_once() {
    check("segment-node-legacy", &sent_by("node", "send.mjs", "segment-node-legacy").await);
}

#[tokio::test]
async fn customerios_client_for_node_arrives_once() {
    check("customerio-node", &sent_by("node", "send.mjs", "customerio-node").await);
}

#[tokio::test]
async fn rudderstacks_client_for_node_arrives_once() {
    check("rudder-node", &sent_by("node", "send.mjs", "rudder-node").await);
}

#[tokio::test]
async fn segments_client_for_browsers_arrives_once_from_a_page_in_chromium() {
    check("segment-next", &sent_by("node", "send.mjs", "segment-next").await);
}

#[tokio::test]
async fn segments_clients_for_python_arrive_once() {
    for version in ["segment-2.3.4", "segment-2.4.0"] {
        let program = format!("{version}/bin/python");
        check(version, &sent_by(&program, "send.py", "segment").await);
    }
}

#[tokio::test]
async fn rudderstacks_client_for_python_arrives_once() {
    check("rudder-python", &sent_by("rudder/bin/python", "send.py", "rudder").await);
}
