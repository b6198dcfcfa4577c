//! Next.js itself: a route handler compiles against its types, and runs in the module with which it serves routes.

use serde_json::{Value, json};

use super::{command, folder, output, runtimes::delivery};
use crate::cli::program::SECRET;

#[tokio::test]
async fn a_route_handler_compiles_against_next_and_runs_in_its_own_route_module() {
    let folder = folder().join("next");
    assert!(folder.join("call.mjs").exists(), "`make setup` installs the SDK");
    let options = json!({
        "strict": true, "module": "NodeNext", "target": "ES2022", "types": ["node"], "outDir": "out",
        // Next.js's own declarations are not ours to judge.
        "skipLibCheck": true,
    });
    let text = json!({ "compilerOptions": options, "files": ["route.ts"] }).to_string();
    std::fs::write(folder.join("tsconfig.json"), text).unwrap();
    let mut tsc =
        command(folder.join("node_modules/.bin/tsc"), &["-p", ".", "--pretty", "false"], "");
    tsc.current_dir(&folder);
    output(tsc).await;

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
