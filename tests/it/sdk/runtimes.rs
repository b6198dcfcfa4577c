//! The same few lines in every runtime: an event that is waited for, one that is left behind when the
//! program ends, and a delivery that is verified.

use std::path::PathBuf;

use serde_json::{Value, json};
use tidegate::{
    clock::{Clock as _, SystemClock},
    crypto::signature::standard,
    model::Secret,
};

use super::{World, command, consumer, output};
use crate::{
    cli::program::{Running, SECRET},
    crash::gateway::KEY,
};

/// A delivery of this moment, signed by the gateway's own code.
pub fn delivery() -> String {
    let body = r#"{"type":"user.signed_up","data":{"name":"Adé 😀"}}"#;
    let seconds = SystemClock.now().as_second();
    let mut signature = String::new();
    let key = standard::Key::signing(&Secret::new(SECRET)).unwrap();
    key.sign_into(&mut signature, "evt_1", seconds, body.as_bytes());
    let headers = json!({
        "webhook-id": "evt_1", "webhook-timestamp": seconds.to_string(), "webhook-signature": signature,
    });
    json!({ "secret": SECRET, "headers": headers, "body": body }).to_string()
}

/// A program of a package that has one for each kind of machine.
fn installed(packages: &str, program: &str) -> PathBuf {
    let (folder, start) = packages.rsplit_once('/').unwrap();
    let folder = consumer().join("node_modules").join(folder);
    let mut found = std::fs::read_dir(&folder)
        .unwrap()
        .map(|it| it.unwrap().path())
        .filter(|it| it.file_name().unwrap().to_str().unwrap().starts_with(start))
        .map(|it| it.join(program));
    found.find(|it| it.exists()).unwrap_or_else(|| panic!("`make setup` installs {packages}"))
}

async fn check(runtime: &str, program: PathBuf, words: &[&str], extra: &[&str]) {
    let world = World::start("").await;
    let words = [words, &[runtime]].concat();
    let mut command = command(program, &words, &world.url());
    command.env("DELIVERY", delivery());
    let said = output(command).await;
    let payloads = world.payloads(2).await;
    let expected = ["waited", "left"].map(|step| json!({ "runtime": runtime, "step": step }));
    assert_eq!(payloads, expected, "{runtime}: {said}");
    let id = world.events().await[0]["id"].clone();
    let kept = format!("kept {}", id.as_str().unwrap());
    let mut lines = vec!["refused mismatch", "verified standard user.signed_up", &kept];
    lines.extend(extra);
    assert_eq!(said.lines().collect::<Vec<_>>(), lines, "{runtime}");
}

#[tokio::test]
async fn node_runs_it_as_a_module() {
    check("node", "node".into(), &["run/runtime.mjs"], &[]).await;
}

#[tokio::test]
async fn node_runs_it_as_commonjs_and_both_forms_are_one() {
    check("node-cjs", "node".into(), &["run/runtime.cjs"], &["shared 1"]).await;
}

#[tokio::test]
async fn the_oldest_node_that_is_promised_runs_it() {
    let node = installed("/node-linux-", "bin/node");
    check("node-18", node.clone(), &["run/runtime.mjs"], &[]).await;
    check("node-18-cjs", node, &["run/runtime.cjs"], &["shared 1"]).await;
}

#[tokio::test]
async fn bun_runs_it() {
    let bun = installed("@oven/bun-", "bin/bun");
    check("bun", bun.clone(), &["run/runtime.mjs"], &[]).await;
    check("bun-cjs", bun, &["run/runtime.cjs"], &["shared 1"]).await;
}

#[tokio::test]
async fn deno_runs_it() {
    let words = ["run", "--no-prompt", "--allow-net", "--allow-env", "--allow-read", "--no-lock"];
    let words = [&words[..], &["--cached-only", "--node-modules-dir=manual", "run/runtime.mjs"]];
    check("deno", installed("@deno/", "deno"), &words.concat(), &[]).await;
}

/// The page is of another origin than the gateway, so this is the test of what browsers ask, too.
#[tokio::test]
async fn a_page_in_chromium_sends_also_what_waits_when_it_is_left() {
    let world = World::start("").await;
    // A key that anybody may read out of the page: it can do nothing but post.
    let spec = json!({ "name": "page", "scopes": ["ingest"] });
    let mut connection = crate::crash::http::Connection::open(world.address()).await.unwrap();
    let (status, made) = connection.post("/api/v1/keys", spec.to_string()).await.unwrap();
    assert_eq!(status, 201);
    let made: Value = serde_json::from_slice(&made).unwrap();
    let key = made["key"].as_str().unwrap();
    assert_ne!(key, KEY);

    let mut program = command("node", &["run/page.mjs", &world.url(), key], &world.url());
    let page = Running::start(program.env("DELIVERY", delivery()));
    let said = page.line("verified");
    let kept = "verified standard refused mismatch wrong rejected kept evt_";
    assert!(said.starts_with(kept), "{said}");
    page.line("left");

    let payloads = world.payloads(2).await;
    let expected = ["waited", "left"].map(|step| json!({ "runtime": "chromium", "step": step }));
    assert_eq!(payloads, expected);
    assert_eq!(page.end_of_input().0, Some(0));
}
