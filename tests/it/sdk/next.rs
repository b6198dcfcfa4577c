//! Next.js itself: a route handler compiles against its types, and runs in the module with which it serves routes;
//! and the runtime of edges that it brings along.

use serde_json::{Value, json};

use super::{World, command, folder, output, runtimes::delivery};
use crate::cli::program::SECRET;

#[tokio::test]
async fn a_route_handler_compiles_against_next_and_runs_in_its_own_route_module() {
    let folder = folder().join("next");
    assert!(folder.join("call.mjs").exists(), "`make setup` installs the SDK");
    // As Next.js checks an app, and so that node runs it.
    let bundled = json!({ "module": "ESNext", "moduleResolution": "bundler", "noEmit": true });
    let emitted = json!({ "module": "NodeNext", "outDir": "out" });
    for mut options in [bundled, emitted] {
        let all =
            json!({ "strict": true, "target": "ES2022", "types": ["node"], "skipLibCheck": true });
        options.as_object_mut().unwrap().extend(all.as_object().unwrap().clone());
        let text = json!({ "compilerOptions": options, "files": ["route.ts"] }).to_string();
        std::fs::write(folder.join("tsconfig.json"), text).unwrap();
        let words = ["-p", ".", "--pretty", "false"];
        let mut tsc = command(folder.join("node_modules/.bin/tsc"), &words, "");
        tsc.current_dir(&folder);
        output(tsc).await;
    }

    let mut call = command("node", &["call.mjs"], "");
    call.current_dir(&folder).env("NODE_ENV", "production").env("NEXT_TELEMETRY_DISABLED", "1");
    let delivery = delivery();
    let body = serde_json::from_str::<Value>(&delivery).unwrap()["body"].clone();
    assert!(body.as_str().unwrap().contains("user"), "the test alters this word");
    call.env("DELIVERY", delivery).env("SECRET", SECRET);
    let said = output(call).await;
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], r#"POST 202 {"id":"evt_1","type":"user.signed_up","path":"/hooks"}"#);
    assert_eq!(lines[1].trim(), "PUT 204");
    assert!(lines[2].starts_with("POST 401") && lines[3].starts_with("POST 401"), "{said}");
    assert_eq!(lines.len(), 4, "{said}");
}

#[tokio::test]
async fn a_runtime_of_edges_that_has_nothing_of_node_runs_it() {
    let world = World::start("").await;
    let mut edge = command("node", &["edge.cjs"], &world.url());
    edge.current_dir(folder().join("next")).env("DELIVERY", delivery());
    let said = output(edge).await;
    let payloads = world.payloads(2).await;
    let expected = ["waited", "left"].map(|step| json!({ "runtime": "edge", "step": step }));
    assert_eq!(payloads, expected, "{said}");
    let id = world.events().await[0]["id"].clone();
    let kept = format!("kept {}", id.as_str().unwrap());
    let lines: Vec<_> = said.lines().collect();
    let first = "process is undefined here, and this is edge-runtime";
    assert_eq!(lines, [first, "refused mismatch", "verified standard user.signed_up", &kept]);
}
