//! The package itself: its own tests, and what judges of packages say about it.

use serde_json::Value;

use super::{command, consumer, folder, output};

const NOWHERE: &str = "http://127.0.0.1:9";

#[tokio::test]
async fn its_own_tests_pass() {
    let package = folder().join("package");
    let mut tests: Vec<_> = std::fs::read_dir(package.join("test"))
        .unwrap()
        .map(|it| it.unwrap().path().display().to_string())
        .filter(|it| it.ends_with(".test.mjs"))
        .collect();
    tests.sort();
    let words: Vec<_> = ["--test"].into_iter().chain(tests.iter().map(String::as_str)).collect();
    let mut command = command("node", &words, NOWHERE);
    // Some of them are about an environment that says nothing.
    command.current_dir(&package).env_remove("TIDEGATE_URL").env_remove("TIDEGATE_API_KEY");
    command.env_remove("TIDEGATE_PROJECT");
    let said = output(command).await;
    assert!(said.contains("# fail 0") && !said.contains("# pass 0"), "{said}");
}

#[tokio::test]
async fn are_the_types_wrong_and_publint_find_nothing() {
    let [package, tarball] = ["package", "tidegate-sdk.tgz"].map(|it| folder().join(it));
    let tarball = tarball.to_str().unwrap();
    let tools = package.join("node_modules/.bin");
    // TypeScript's oldest way to find modules knows no subpaths; no Node from 18 on works like it.
    let words = [tarball, "--profile", "node16", "--format", "table-flipped"];
    let mut attw = command(tools.join("attw"), &words, NOWHERE);
    attw.current_dir(&package);
    let said = output(attw).await;
    assert!(said.contains("node16 (from ESM)") && said.contains("@tidegate/sdk/next"), "{said}");
    let said = output(command(tools.join("publint"), &["run", tarball, "--strict"], NOWHERE)).await;
    assert!(said.contains("All good!"), "{said}");
}

#[test]
fn it_needs_no_other_package_and_holds_nothing_that_is_not_for_users() {
    let installed = consumer().join("node_modules/@tidegate/sdk");
    let text = std::fs::read(installed.join("package.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&text).unwrap();
    for word in ["dependencies", "peerDependencies", "optionalDependencies"] {
        assert!(manifest.get(word).is_none(), "{word}");
    }
    let mut names: Vec<_> = std::fs::read_dir(&installed)
        .unwrap()
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["LICENSE", "README.md", "dist", "package.json"]);
    let version = manifest["version"].as_str().unwrap();
    let transport = std::fs::read_to_string(installed.join("dist/esm/transport.js")).unwrap();
    assert!(transport.contains(&format!("VERSION = \"{version}\"")), "the two versions differ");
}
