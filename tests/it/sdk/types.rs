//! What compiles and what does not: the generated file, and the two samples of `systems/`.

use std::{path::Path, process::Output};

use serde_json::{Value, json};

use super::{World, command, consumer, ended, output};
use crate::{
    cli::program::{run, stderr, stdout, tidegate},
    crash::gateway::{KEY, PROJECT},
};

/// A folder below the consumer's, with these files and a strict tsconfig.json.
fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(consumer()).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let options = json!({
        "strict": true, "module": "NodeNext", "target": "ES2022", "types": ["node"], "outDir": "out",
        // The frameworks' own declarations are not ours to judge.
        "skipLibCheck": true,
    });
    let names: Vec<_> = files.iter().map(|it| it.0).collect();
    let text = json!({ "compilerOptions": options, "files": names }).to_string();
    std::fs::write(folder.path().join("tsconfig.json"), text).unwrap();
    folder
}

async fn tsc(folder: &Path) -> Output {
    let tsc = consumer().join("node_modules/.bin/tsc");
    ended(command(tsc, &["-p", folder.to_str().unwrap(), "--pretty", "false"], "")).await
}

fn assert_compiles(output: &Output) {
    assert!(output.status.success(), "{}{}", stdout(output), stderr(output));
}

#[tokio::test]
async fn the_generated_file_is_strict_typescript_and_takes_what_its_schemas_take() {
    let uses = include_str!("../../sdk/types/uses.ts");
    let events = include_str!("../../sdk/types/events.ts");
    let folder = project(&[("events.ts", events), ("uses.ts", uses)]);
    assert_compiles(&tsc(folder.path()).await);
}

#[tokio::test]
async fn without_a_map_everything_compiles() {
    let folder = project(&[("untyped.ts", include_str!("../../sdk/types/untyped.ts"))]);
    assert_compiles(&tsc(folder.path()).await);
}

const SIGNUP: &str = include_str!("../../sdk/samples/signup.ts");
const FEATURE: &str = include_str!("../../sdk/samples/feature.ts");

/// The two event types of the samples, as they are registered, which is also their YAML.
fn event_types() -> String {
    let all: Vec<Value> =
        serde_json::from_str(include_str!("../../sdk/types/event-types.json")).unwrap();
    let wanted = ["user.signed_up", "feature.used"];
    let types = all.into_iter().filter(|it| wanted.contains(&it["name"].as_str().unwrap()));
    json!(types.collect::<Vec<_>>()).to_string()
}

/// `tidegate codegen typescript …` against this gateway.
fn codegen(world: &World, words: &[&str]) -> Output {
    let mut command = tidegate(&[&["codegen", "typescript"], words].concat());
    command.env("TIDEGATE_URL", world.url()).env("TIDEGATE_API_KEY", KEY);
    run(command.env("TIDEGATE_PROJECT", PROJECT), b"")
}

#[tokio::test]
async fn the_samples_of_the_documents_compile_and_run_with_only_the_packages_name_changed() {
    let world = World::start(&format!("event_types: {}", event_types())).await;
    let generated = codegen(&world, &[]);
    assert!(generated.status.success(), "{}", stderr(&generated));
    let events = stdout(&generated);
    let folder = project(&[("events.ts", &events), ("signup.ts", SIGNUP), ("feature.ts", FEATURE)]);

    assert_compiles(&tsc(folder.path()).await);
    for script in ["signup.js", "feature.js", "signup.js"] {
        let script = folder.path().join("out").join(script);
        output(command("node", &[script.to_str().unwrap()], &world.url())).await;
    }

    // "one signup per user, ever": the second was none.
    let kept = world.events().await;
    let [signup, feature] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!(signup["type"], "user.signed_up");
    assert_eq!(signup["idempotency_key"], "usr_1");
    let expected = json!({ "user_id": "usr_1", "email": "ada@acme.com", "plan": "pro", "source": "marketing-site" });
    assert_eq!(signup["payload"], expected);
    assert_eq!(feature["type"], "feature.used");
    let expected =
        json!({ "user_id": "usr_1", "feature": "csv.export", "count": 1, "plan": "pro" });
    assert_eq!(feature["payload"], expected);
}

#[tokio::test]
async fn a_payload_of_another_type_does_not_compile() {
    let events = include_str!("../../sdk/types/events.ts");
    for (sample, from, to, expected) in [
        (
            FEATURE,
            "count: 1,",
            "count: \"1\",",
            "error TS2322: Type 'string' is not assignable to type 'number'.",
        ),
        (FEATURE, "count: 1,\n", "", "Property 'count' is missing in type"),
        (
            FEATURE,
            "count: 1,",
            "count: 1, cuont: 1,",
            "'cuont' does not exist in type 'FeatureUsed'",
        ),
        (
            SIGNUP,
            "plan: user.plan",
            "plan: \"gold\"",
            "error TS2322: Type '\"gold\"' is not assignable to type '\"free\" | \"pro\" | \"scale\"'",
        ),
        (
            SIGNUP,
            "user.signed_up\", {",
            "user.signed_in\", {",
            "error TS2345: Argument of type '\"user.signed_in\"'",
        ),
    ] {
        assert!(sample.contains(from), "{from}");
        let folder = project(&[("events.ts", events), ("sample.ts", &sample.replace(from, to))]);
        let output = tsc(folder.path()).await;
        let said = stdout(&output);
        assert!(!output.status.success() && said.contains(expected), "{to}: {said}");
    }
}

#[tokio::test]
async fn a_file_is_written_once_and_checked_against_what_is_registered() {
    let world = World::start(&format!("event_types: {}", event_types())).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ts");
    let out = ["--out", file.to_str().unwrap()];
    let check = [&out[..], &["--check"]].concat();

    let missing = codegen(&world, &check);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("is out of date\nnext: tidegate codegen"));
    let written = codegen(&world, &out);
    assert!(stderr(&written).contains("has 2 event types"), "{}", stderr(&written));
    let time = || std::fs::metadata(&file).unwrap().modified().unwrap();
    let before = time();
    assert!(codegen(&world, &out).status.success() && codegen(&world, &check).status.success());
    assert_eq!(time(), before);
    assert!(std::fs::read_to_string(&file).unwrap().contains("\"feature.used\": FeatureUsed;"));

    std::fs::write(&file, "// by hand\n").unwrap();
    assert_eq!(codegen(&world, &check).status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "// by hand\n");
}
