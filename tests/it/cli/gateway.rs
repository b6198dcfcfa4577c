//! Commands against a gateway that runs beside them, all of them the real binary.

use std::{net::SocketAddr, path::PathBuf, process::Output, time::Instant};

use serde_json::Value;

use crate::harness::PATIENCE;

use super::program::{Running, SECRET, run, stderr, stdout, tidegate};

pub const ADMIN_KEY: &str = "an admin key for tests, which is long";

/// `tidegate serve` on a folder and a port of its own.
pub struct Serving {
    pub url: String,
    folder: tempfile::TempDir,
    gateway: Running,
}

impl Serving {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let words = [
            "serve",
            "--data",
            data.to_str().unwrap(),
            "--listen",
            "127.0.0.1:0",
            "--allow-net",
            "127.0.0.0/8",
        ];
        let mut command = tidegate(&words);
        let gateway = Running::start(command.env("TIDEGATE_ADMIN_KEY", ADMIN_KEY));
        let line: Value = serde_json::from_str(&gateway.note("\"listening\"")).unwrap();
        let url = format!("http://{}", line["address"].as_str().unwrap());
        Self { url, folder, gateway }
    }

    /// With a project, whose one destination is at this address and gets everything.
    fn delivering_to(address: SocketAddr) -> Self {
        let serving = Self::start();
        let file = serving.file("acme.yaml", &resources(&format!("http://{address}/hooks")));
        let applied = serving.run(&["apply", file.to_str().unwrap(), "--yes"]);
        assert_eq!(applied.status.code(), Some(0), "{}", stderr(&applied));
        serving
    }

    /// The folder of its store.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The most bytes of memory that it has had.
    pub fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.gateway.pid());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:")).unwrap();
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes << 10
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn command(&self, words: &[&str]) -> std::process::Command {
        let mut command = tidegate(words);
        command
            .env("TIDEGATE_URL", &self.url)
            .env("TIDEGATE_ADMIN_KEY", ADMIN_KEY)
            .env("SECRET", SECRET);
        command.env("TIDEGATE_PROJECT", "acme");
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        run(&mut self.command(words), b"")
    }

    /// The output of a command that succeeds.
    pub fn output(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", stderr(&output));
        stdout(&output)
    }

    /// The JSON lines of a command that succeeds.
    pub fn rows(&self, words: &[&str]) -> Vec<Value> {
        self.output(words).lines().map(|it| serde_json::from_str(it).unwrap()).collect()
    }
}

fn resources(url: &str) -> String {
    format!(
        "version: 1\nproject: acme\nsources:\n  - {{ name: app, kind: api }}\ndestinations:\n  - name: crm\n    \
         kind: webhook\n    url: {url}\n    secret: \"${{SECRET}}\"\n    retry: {{ preset: never }}\npipelines:\n  \
         - name: all\n    on: [\"*\"]\n    routes: [{{ to: crm }}]\n"
    )
}

/// A sink, and where it is.
fn sink(words: &[&str]) -> (Running, SocketAddr) {
    let sink =
        Running::start(&mut tidegate(&[&["sink", "--secret", SECRET, "--listen"], words].concat()));
    let note = sink.note("sink on ");
    let url = note.split_whitespace().find_map(|it| it.strip_prefix("http://")).unwrap();
    let address = url.trim_end_matches('/').parse().unwrap();
    (sink, address)
}

#[test]
fn a_file_is_planned_applied_and_exported_and_comes_back_unchanged() {
    let serving = Serving::start();
    let file = serving.file("acme.yaml", &resources("http://127.0.0.1:9/hooks"));
    let path = file.to_str().unwrap();

    let plan = serving.output(&["plan", path]);
    assert!(
        plan.contains("+ destination crm\n")
            && plan.contains("to create, 0 to change, 0 to delete"),
        "{plan}"
    );
    let unasked = serving.run(&["apply", path]);
    assert_eq!(unasked.status.code(), Some(2));
    assert!(stderr(&unasked).contains("next: add --yes"), "{}", stderr(&unasked));
    assert_eq!(serving.output(&["plan", path]), plan, "asking in vain changed something");
    assert!(serving.output(&["apply", path, "--yes"]).contains("applied: "));
    assert!(serving.output(&["plan", path]).starts_with("0 to create, 0 to change, 0 to delete"));

    let exported = serving.output(&["export"]);
    assert!(exported.contains("${CRM_SECRET}") && !exported.contains(SECRET), "{exported}");
    let copy = serving.file("copy.yaml", &exported);
    let mut again = serving.command(&["apply", copy.to_str().unwrap(), "--prune", "--yes"]);
    let again = run(again.env("CRM_SECRET", SECRET), b"");
    assert_eq!(
        stdout(&again),
        "nothing to change: everything is as the file says\n",
        "{}",
        stderr(&again)
    );
}

#[test]
fn a_field_that_the_gateway_refuses_is_shown_on_its_line_and_nothing_changes() {
    let serving = Serving::start();
    let file = serving.file("acme.yaml", &resources("ftp://example.com"));
    let output = serving.run(&["apply", file.to_str().unwrap(), "--yes"]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("acme.yaml:8:10: destinations[0].url: "), "{text}");
    assert!(text.contains("\n 8 |     url: ftp://example.com\n   |          ^\n"), "{text}");
    let projects = serving.run(&["destinations", "list", "--json"]);
    assert_eq!(stdout(&projects), "");
}

#[test]
fn a_dead_letter_is_found_explained_and_replayed() {
    let (broken, address) = sink(&["127.0.0.1:0", "--status", "503"]);
    let serving = Serving::delivering_to(address);

    let story = serving.output(&[
        "emit",
        "user.signed_up",
        "--data",
        "{\"n\":1.50}",
        "--key",
        "k1",
        "--watch",
    ]);
    assert!(story.contains("→ crm  dead after 1 attempt"), "{story}");
    assert!(story.contains("✘ attempt 1") && story.contains("503 Service Unavailable"), "{story}");
    assert!(broken.line("user.signed_up").ends_with("✔ signature verified  503 on purpose"));
    assert_eq!(broken.interrupt(), Some(0));

    assert!(serving.output(&["status"]).contains("1 dead letter\n"));
    let dead = serving.rows(&["dead-letters", "--destination", "crm", "--json"]);
    assert_eq!(dead.len(), 1);
    let delivery = dead[0]["id"].as_str().unwrap();
    assert!(serving.output(&["deliveries", "show", delivery]).contains("503 Service Unavailable"));

    // A replay that fails again says so, and what to do; also when somebody looks later.
    let failed = serving.run(&["replay", "--delivery", delivery, "--yes", "--watch"]);
    assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
    let (told, advice) = (stdout(&failed), stderr(&failed));
    assert!(told.ends_with("0 delivered, 1 died, 0 still waiting\n"), "{told}");
    assert!(advice.contains("not accepted: 1 replayed delivery"), "{advice}");
    assert!(advice.contains("next: tidegate events show evt_"), "{advice}");
    let dead = ["replay", "--destination", "crm", "--state", "dead", "--yes", "--watch"];
    let failed = serving.run(&dead);
    assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
    assert!(stdout(&failed).ends_with("0 delivered, 1 died, 0 still waiting\n"));

    let (repaired, _) = sink(&[&address.to_string()]);
    let selection = ["replay", "--destination", "crm", "--state", "dead", "--since", "1h"];
    assert_eq!(
        serving.output(&[&selection[..], &["--plan"]].concat()),
        "1 delivery would be replayed\n"
    );
    let replayed = serving.output(&[&selection[..], &["--yes", "--watch"]].concat());
    assert!(replayed.contains(" is done: made 1 of 1 delivery\n"), "{replayed}");
    assert!(replayed.ends_with("1 delivered, 0 died, 0 still waiting\n"), "{replayed}");
    let arrived = repaired.line("user.signed_up");
    assert!(arrived.ends_with("attempt 1  ✔ signature verified  200"), "{arrived}");

    let event = serving.rows(&["events", "list", "--key", "k1", "--json"]);
    let id = event[0]["id"].as_str().unwrap();
    let story = serving.output(&["events", "show", id, "--watch", "--body"]);
    assert!(
        story.contains("→ crm  delivered after 1 attempt") && story.contains("made by replay rpl_"),
        "{story}"
    );
    assert!(story.contains("      \"n\": 1.50\n"), "{story}");
}

#[test]
fn an_event_is_watched_and_forwarded_as_it_happens() {
    let (_destination, address) = sink(&["127.0.0.1:0"]);
    let serving = Serving::delivering_to(address);
    let (local, local_address) = sink(&["127.0.0.1:0"]);
    let tail = Running::start(&mut serving.command(&["tail", "--json"]));
    let forward_to = format!("http://{local_address}/mine");
    let listen = ["listen", "--forward-to", &forward_to, "--secret", SECRET, "--events", "user.*"];
    let listen = Running::start(&mut serving.command(&listen));
    tail.note("connected");
    listen.note("connected");

    serving.output(&["emit", "order.paid"]);
    serving.output(&["emit", "user.signed_up", "--data", "{\"n\":1.50}"]);

    assert!(tail.line("\"kind\":\"event\"").contains("order.paid"));
    // Who watches may see an attempt before the event that it is of: the stages do not wait for each other.
    let mut seen = [tail.line("user.signed_up"), tail.line("user.signed_up")];
    seen.sort_by_key(|line| !line.contains("\"kind\":\"event\""));
    assert!(seen[0].contains("\"payload\":{\"n\":1.50}"), "{seen:?}");
    assert!(seen[1].contains("\"kind\":\"attempt\""), "{seen:?}");
    assert!(seen[1].contains("\"destination\":\"crm\""), "{seen:?}");
    let forwarded = listen.line("POST /mine");
    assert!(forwarded.contains("user.signed_up") && forwarded.contains("  200  "), "{forwarded}");
    assert!(local.line("evt_").contains("user.signed_up"));
    assert_eq!((tail.interrupt(), listen.interrupt()), (Some(0), Some(0)));
}

#[test]
fn a_key_opens_what_its_scopes_say_until_it_is_revoked() {
    let serving = Serving::delivering_to("127.0.0.1:9".parse().unwrap());
    let key = serving.output(&["keys", "create", "app", "--scopes", "ingest", "--quiet"]);
    let with_key =
        |words: &[&str]| run(serving.command(words).env("TIDEGATE_API_KEY", key.trim()), b"");

    assert_eq!(with_key(&["emit", "x"]).status.code(), Some(0));
    let refused = with_key(&["events", "list"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("403") && stderr(&refused).contains("tidegate keys create"));

    let keys = serving.rows(&["keys", "list", "--json"]);
    assert!(keys.iter().all(|it| it["key"].is_null()), "a key is shown twice");
    let id = keys.iter().find(|it| it["name"] == "app").unwrap()["id"].as_str().unwrap();
    assert!(serving.output(&["keys", "revoke", id, "--yes"]).contains("is revoked"));
    let gone = with_key(&["emit", "x"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(stderr(&gone).contains("401"), "{}", stderr(&gone));
}

#[test]
fn many_events_are_sent_once_each_and_exported_whole() {
    let (_destination, address) = sink(&["127.0.0.1:0", "--quiet"]);
    let serving = Serving::delivering_to(address);
    let sent = serving.output(&["emit", "load.test", "--count", "300", "--key", "run-1"]);
    assert!(sent.starts_with("300 events accepted, 0 duplicates in "), "{sent}");
    let again = serving.output(&["emit", "load.test", "--count", "300", "--key", "run-1"]);
    assert!(again.starts_with("0 events accepted, 300 duplicates in "), "{again}");
    // A key that means an event of another type is told by the exit code.
    let other = serving.run(&["emit", "load.other", "--key", "run-1-7"]);
    assert_eq!(other.status.code(), Some(3), "{}", stderr(&other));
    assert!(stderr(&other).contains("for an event of another type"), "{}", stderr(&other));

    let out = serving.folder.path().join("all.ndjson");
    let export = ["events", "export", "--type", "load.*", "--out", out.to_str().unwrap()];
    assert_eq!(serving.output(&export), "");
    let text = std::fs::read_to_string(&out).unwrap();
    let mut keys: Vec<String> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["idempotency_key"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!((text.lines().count(), keys.len()), (300, 300));
    assert!(!out.with_extension("ndjson.partial").exists());
    assert_eq!(serving.rows(&["events", "list", "--limit", "250", "--json"]).len(), 250);
}

#[test]
fn a_destination_is_tested_paused_and_resumed() {
    let (destination, address) = sink(&["127.0.0.1:0"]);
    let serving = Serving::delivering_to(address);
    assert!(serving.output(&["destinations", "test", "crm"]).starts_with("✔ crm  200 OK"));
    assert!(destination.line("tidegate.test").contains("✔ signature verified"));
    assert!(serving.output(&["destinations", "pause", "crm"]).contains("crm is paused"));
    serving.output(&["emit", "user.signed_up"]);
    // It is owed once the pipeline has planned it, a moment after it was accepted.
    let end = Instant::now() + PATIENCE;
    loop {
        let status = serving.output(&["status"]);
        assert!(status.contains("paused"), "{status}");
        if status.contains("1 delivery owed") {
            break;
        }
        assert!(Instant::now() < end, "{status}");
    }
    assert!(serving.output(&["destinations", "resume", "crm"]).contains("crm is active"));
    assert!(destination.line("user.signed_up").contains("✔ signature verified"));
    let failing = serving.run(&["destinations", "test", "nobody"]);
    assert!(
        stderr(&failing).contains("404") && failing.status.code() == Some(1),
        "{}",
        stderr(&failing)
    );
}

#[test]
fn a_destination_is_shown_disabled_and_enabled_and_each_command_says_what_is_next() {
    let (destination, address) = sink(&["127.0.0.1:0"]);
    let serving = Serving::delivering_to(address);
    let next = |words: &[&str], expected: &str| {
        let output = serving.run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{words:?}: {}", stderr(&output));
        stdout(&output)
    };

    let listed = next(&["destinations", "list"], "next: tidegate destinations show <name>");
    assert!(listed.starts_with("crm  webhook  http://127.0.0.1:"), "{listed}");
    let deliveries = "next: tidegate deliveries list --destination crm";
    let shown = next(&["destinations", "show", "crm"], deliveries);
    assert!(shown.starts_with("crm  webhook  active\n"), "{shown}");
    assert!(shown.contains(&format!("  url      http://{address}/hooks\n")), "{shown}");
    assert!(shown.contains("  owed     0 deliveries\n"), "{shown}");
    let whole = serving.output(&["destinations", "show", "crm", "--json"]);
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(whole["retry"]["preset"], "never", "{whole}");
    assert!(!whole.to_string().contains(SECRET), "a secret is shown");

    let disabled = next(&["destinations", "disable", "crm"], "tidegate destinations enable crm");
    assert!(disabled.starts_with("crm is disabled now"), "{disabled}");
    // A test event reaches also one that gets no others.
    next(&["destinations", "test", "crm"], "next: tidegate destinations show crm");
    serving.output(&["emit", "user.signed_up"]);
    let resumed = serving.run(&["destinations", "resume", "crm"]);
    assert!(stderr(&resumed).contains("409"), "{}", stderr(&resumed));
    next(&["destinations", "enable", "crm"], deliveries);
    assert!(destination.line("user.signed_up").contains("✔ signature verified"));
}

#[test]
fn after_a_rotation_both_secrets_sign_and_the_receiver_may_have_either() {
    let (old, address) = sink(&["127.0.0.1:0"]);
    let serving = Serving::delivering_to(address);
    let rotate = ["destinations", "rotate-secret", "crm", "--overlap", "1h"];
    let unasked = serving.run(&rotate);
    assert_eq!(unasked.status.code(), Some(2), "{}", stderr(&unasked));

    let rotated = serving.run(&[&rotate[..], &["--yes", "--quiet"]].concat());
    assert_eq!(rotated.status.code(), Some(0), "{}", stderr(&rotated));
    let new_secret = stdout(&rotated).trim().to_owned();
    assert!(new_secret.starts_with("whsec_") && new_secret != SECRET, "{new_secret}");
    let shown = serving.output(&["destinations", "show", "crm"]);
    assert_eq!(shown.matches("  secret   made ").count(), 2, "{shown}");
    assert!(shown.contains(", signs, ends in "), "{shown}");

    // The one who has the old secret still believes it, and so does the one who has the new.
    let body = ["emit", "user.signed_up"];
    serving.output(&body);
    assert!(old.line("user.signed_up").contains("✔ signature verified"));
    assert_eq!(old.interrupt(), Some(0));
    let listen = address.to_string();
    let new =
        Running::start(&mut tidegate(&["sink", "--secret", &new_secret, "--listen", &listen]));
    new.note("sink on ");
    serving.output(&body);
    assert!(new.line("user.signed_up").contains("✔ signature verified"));
}

/// A pipeline that drops who pays nothing, with a test case for each end.
fn tested(when: &str) -> String {
    let pipeline = format!(
        "  - name: paying\n    when: {when}\n    steps: [ {{ map: {{ plan: \"{{{{ payload.plan }}}}!\" }} }} ]\n    \
         routes: [{{ to: crm }}]\n    tests:\n      \
         - {{ name: pro gets through, event: {{ type: a, payload: {{ plan: pro }} }}, expect: {{ routes: [crm] }} }}\n      \
         - {{ name: free does not, event: {{ type: a, payload: {{ plan: free }} }}, expect: {{ dropped_at: when }} }}\n"
    );
    resources("http://127.0.0.1:9/hooks") + &pipeline
}

#[test]
fn a_pipeline_is_tried_changed_compared_and_brought_back() {
    let serving = Serving::start();
    let good = serving.file("good.yaml", &tested("payload.plan != \"free\""));
    let bad = serving.file("bad.yaml", &tested("payload.plan != \"pro\""));
    let [good, bad] = [&good, &bad].map(|it| it.to_str().unwrap());
    serving.output(&["apply", good, "--yes"]);

    // Its test cases pass, and one event is told with its request.
    let cases = serving.output(&["pipeline", "test", "paying"]);
    assert_eq!(cases, "✔ paying · pro gets through\n✔ paying · free does not\n");
    let data = ["--type", "a", "--data", r#"{"plan":"pro"}"#];
    let told = serving.output(&[&["pipeline", "test", "paying"][..], &data].concat());
    for part in [
        "paying v1  a  evt_",
        "steps[0] map",
        "  ~ /payload/plan: \"pro\" → \"pro!\"\n",
        "→ crm  gets it\n",
        "  POST http://127.0.0.1:9/hooks\n",
        "    webhook-signature: v1,",
        r#""data":{"plan":"pro!"}}"#,
    ] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
    // An expectation that is not met is exit code 1.
    let expect = ["--expect", r#"{"dropped":true}"#];
    let output = serving.run(&[&["pipeline", "test", "paying"][..], &data, &expect].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("dropped: expected true, got false"), "{}", stdout(&output));

    // A file that breaks the cases shows it before, and is refused.
    let output = serving.run(&["pipeline", "test", "paying", "--file", bad]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains("✘ paying · free does not\n    dropped_at: expected \"when\"")
    );
    assert!(stderr(&output).contains("2 of 2 test cases failed"), "{}", stderr(&output));
    assert!(serving.output(&["plan", bad]).contains("✘ paying · pro gets through"));
    let refused = serving.run(&["apply", bad, "--yes"]);
    assert_eq!(refused.status.code(), Some(1));
    for part in [
        "(409 Conflict)",
        "✘ paying · pro gets through",
        "next: correct",
        "--confirm-failing-tests",
    ] {
        assert!(stderr(&refused).contains(part), "{part}: {}", stderr(&refused));
    }
    assert!(serving.output(&["pipeline", "versions", "paying"]).starts_with("v1"));
    serving.output(&["apply", bad, "--yes", "--confirm-failing-tests"]);

    // What changed is shown, and can be undone.
    let versions = serving.output(&["pipeline", "versions", "paying"]);
    assert!(
        versions.starts_with("v2  ") && versions.contains("the administrator's key"),
        "{versions}"
    );
    let diff = serving.output(&["pipeline", "diff", "paying"]);
    assert!(diff.starts_with("--- paying v1\n+++ paying v2\n@@ -"), "{diff}");
    assert!(diff.contains("\n-when: ") && diff.contains("\n+when: "), "{diff}");
    let unasked = serving.run(&["pipeline", "rollback", "paying", "1"]);
    assert_eq!(unasked.status.code(), Some(2));
    let back = serving.output(&["pipeline", "rollback", "paying", "1", "--yes"]);
    assert_eq!(back, "paying is at version 3, as version 1 was\n");
    assert_eq!(serving.rows(&["pipeline", "list", "--json"]).len(), 2);
    serving.output(&["pipeline", "test", "paying"]);
}

#[test]
fn tls_to_a_plain_port_is_named() {
    let serving = Serving::start();
    let url = serving.url.replace("http://", "https://");
    let output = serving.run(&["status", "--url", &url]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("next: the port answers without TLS: say http://"), "{text}");
}

#[test]
fn apply_warns_of_addresses_that_are_refused() {
    let serving = Serving::start();
    for (url, expected) in [
        ("http://10.0.0.7/hooks", Some("start the gateway with `--allow-net 10.0.0.7/32`")),
        ("http://crm.internal/hooks", Some("name the host in `[egress] allow_hosts`")),
        ("http://localhost:9400/hooks", None),
        ("https://hooks.example.com/in", None),
    ] {
        let file = serving.file("acme.yaml", &resources(url));
        let path = file.to_str().unwrap();
        for words in [&["plan", path][..], &["apply", path, "--yes"]] {
            let output = serving.run(words);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            let text = stderr(&output);
            assert_eq!(text.contains("warning: destination `crm`"), expected.is_some(), "{text}");
            assert!(expected.is_none_or(|it| text.contains(it)), "{text}");
        }
    }
}
