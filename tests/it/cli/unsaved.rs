//! A file that is not applied, tried: what it says counts, look-ups included, and nothing of it stays.

use serde_json::json;

use super::{
    gateway::Serving,
    program::{stderr, stdout},
};
use crate::harness::sink::{Answer, Sink};

/// A pipeline that asks two look-ups, which are at this URL, and follows a table to another.
fn file(url: &str) -> String {
    format!(
        "version: 1
project: acme
sources: [{{ name: app, kind: api }}]
lookups:
  - {{ name: people-api, kind: http, url: \"{url}\", secrets: {{ key: \"${{KEY}}\" }}, headers: {{ x-key: \"{{{{ secret.key }}}}\" }}, map: {{ role: \"{{{{ response.title }}}}\" }} }}
  - {{ name: users, kind: table, references: {{ account: accounts }} }}
  - {{ name: accounts, kind: table }}
destinations: [{{ name: crm, kind: webhook, url: \"http://127.0.0.1:9/\", secret: \"${{SECRET}}\" }}]
pipelines:
  - name: signups
    steps:
      - enrich.person: {{ email: payload.email }}
      - enrich.entity: {{ table: users, key: payload.user_id, into: user, follow: [account] }}
    routes: [{{ to: crm }}]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn look_ups_of_a_file_that_is_not_applied_are_asked_as_they_stand_in_it() {
    let services = ["CTO", "CEO"].map(|role| {
        Sink::with(move |_| Answer::status(200).body(json!({ "title": role }).to_string()))
    });
    let [first, second] = services;
    let (first, second) = (first.await, second.await);
    let urls = [first.url("/{{ email }}"), second.url("/{{ email }}")];
    tokio::task::spawn_blocking(move || {
        let serving = Serving::start();
        let files = [("first.yaml", &urls[0]), ("second.yaml", &urls[1])]
            .map(|(name, url)| serving.file(name, &file(url)));
        let [first, second] = files.each_ref().map(|it| it.to_str().unwrap());
        let run = |words: &[&str]| {
            let mut command = serving.command(words);
            let output = super::program::run(command.env("KEY", "s3cret-of-the-service"), b"");
            assert_eq!(output.status.code(), Some(0), "{words:?}: {}", stderr(&output));
            stdout(&output)
        };
        serving.output(&[
            "apply",
            serving.file("acme.yaml", "version: 1\nproject: acme\n").to_str().unwrap(),
            "--yes",
        ]);
        let tried = |file: &str| {
            let data = r#"{"email":"ann@acme.com","user_id":"u1"}"#;
            run(&["pipeline", "test", "signups", "--file", file, "--type", "a", "--data", data])
        };

        // Nothing of it is saved: neither the look-ups nor the pipeline.
        let told = tried(first);
        assert!(told.contains("asked, found by people-api"), "{told}");
        assert!(told.contains("\"role\":\"CTO\""), "{told}");
        // A table of which nobody has told yet has no rows.
        assert!(told.contains("asked, not_found"), "{told}");
        assert_eq!(serving.rows(&["pipeline", "list", "--json"]).len(), 0);

        // Saved, the other file changes where people are asked for, for the trial alone.
        run(&["apply", first, "--yes"]);
        for (table, row) in [
            ("users", r#"{"id":"u1","account":"a1"}"#),
            ("accounts", r#"{"id":"a1","plan":"scale"}"#),
        ] {
            let rows = serving.file(&format!("{table}.ndjson"), row);
            serving.output(&["directory", "import", rows.to_str().unwrap()]);
        }
        let told = tried(second);
        assert!(told.contains("\"role\":\"CEO\"") && !told.contains("CTO"), "{told}");
        assert!(told.contains("\"plan\":\"scale\""), "{told}");
        let data = ["--type", "a", "--data", r#"{"email":"ann@acme.com"}"#];
        let saved = run(&[&["pipeline", "test", "signups"][..], &data].concat());
        assert!(saved.contains("\"role\":\"CTO\""), "{saved}");
    })
    .await
    .unwrap();
    assert!(first.received().iter().all(|it| it.header("x-key") == "s3cret-of-the-service"));
    // The first was asked for the file that was not applied, and for the saved pipeline: each has a cache.
    assert_eq!((first.received().len(), second.received().len()), (2, 1));
}
