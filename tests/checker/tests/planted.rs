//! Every promise broken once, on purpose: a judge that has never convicted is no judge.
//!
//! The logs are written as a driver writes them, and the program is run on them.

use std::{path::PathBuf, process::Command};

use serde_json::{Value, json};

const LANES: u64 = 4;
const MS: u64 = 1_000_000;

/// The logs of a run in which everything went well: four senders, `count` events, three faults (two
/// kills, and a freeze of 10 ms), and two endpoints, of which one is fifo.
struct Logs {
    sent: Vec<Value>,
    received: Vec<Value>,
    run: Value,
}

fn id(lane: u64, n: u64) -> String {
    format!("evt_{lane}_{n}")
}

fn arrival(t: u64, lane: u64, n: u64, endpoint: &str) -> Value {
    json!({
        "t": t, "id": id(lane, n), "lane": format!("lane-{lane}"), "n": n, "endpoint": endpoint,
        "body": format!("hash-{lane}-{n}"), "status": 200,
    })
}

impl Logs {
    /// The events are posted 1 ms apart, acked after 2 ms and delivered after 3; lane `i` posts
    /// every fourth.
    fn clean(count: u64) -> Self {
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for event in 0..count {
            let (lane, n, t) = (event % LANES, event / LANES, event * MS);
            sent.push(json!({
                "t": t, "done": t + 2 * MS, "key": format!("key-{lane}-{n}"), "id": id(lane, n),
                "status": "acked", "lane": format!("lane-{lane}"), "n": n,
            }));
            received.push(arrival(t + 3 * MS, lane, n, "plain"));
            received.push(arrival(t + 3 * MS, lane, n, "ordered"));
        }
        let last = count * MS;
        let run = json!({
            "endpoints": [
                { "name": "plain", "order": "none", "in_flight": 8 },
                { "name": "ordered", "order": "fifo", "in_flight": 1 },
            ],
            "faults": [
                { "name": "kill", "from": last / 4, "until": last / 4 },
                { "name": "freeze", "from": last / 2, "until": last / 2 + 10 * MS },
                { "name": "kill", "from": last / 4 * 3, "until": last / 4 * 3 },
            ],
            "unsettled_ns": 100 * MS,
            "resumed_ns": 50 * MS,
        });
        Self { sent, received, run }
    }

    /// Where the arrival of this event stands in the receiver's log.
    fn at(&self, endpoint: &str, lane: u64, n: u64) -> usize {
        let matches = |it: &Value| it["endpoint"] == endpoint && it["id"] == id(lane, n);
        self.received.iter().position(matches).unwrap()
    }

    /// Puts a further arrival where its time is.
    fn insert(&mut self, arrival: Value) {
        let t = arrival["t"].as_u64();
        let place = self.received.partition_point(|it| it["t"].as_u64() <= t);
        self.received.insert(place, arrival);
    }

    /// Delivers the last events before a fault once more after it.
    fn repeat_over(&mut self, fault: usize, endpoint: &str, count: usize) {
        let kill = self.run["faults"][fault]["from"].as_u64().unwrap();
        let before: Vec<_> = self
            .received
            .iter()
            .filter(|it| it["endpoint"] == endpoint && it["t"].as_u64().unwrap() < kill)
            .cloned()
            .collect();
        for mut again in before[before.len() - count..].iter().cloned() {
            again["t"] = json!(kill + MS / 2);
            self.insert(again);
        }
    }

    /// Runs the checker. Returns its exit code and the names of what it says is broken.
    fn judge(&self, name: &str) -> (i32, Vec<String>) {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let write = |file: &str, lines: &[Value]| {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let path = folder.join(file);
            std::fs::write(&path, text).unwrap();
            path
        };
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate-checker"))
            .arg(write("sent.ndjson", &self.sent))
            .arg(write("received.ndjson", &self.received))
            .arg(write("run.json", std::slice::from_ref(&self.run)))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let kinds = ["missing", "unexpected", "duplicate", "order", "stall", "body", "identity"];
        let broken = text.lines().filter_map(|line| {
            let (kind, count) = line.split_once(' ')?;
            (kinds.contains(&kind) && count.trim() != "0").then(|| kind.to_owned())
        });
        let broken = broken.collect();
        std::fs::remove_dir_all(&folder).unwrap();
        (output.status.code().unwrap(), broken)
    }

    fn is_clean(&self, name: &str) {
        assert_eq!(self.judge(name), (0, vec![]), "{name}");
    }

    fn is_caught(&self, name: &str, kinds: &[&str]) {
        let kinds = kinds.iter().map(|it| (*it).to_owned()).collect();
        assert_eq!(self.judge(name), (1, kinds), "{name}");
    }
}

#[test]
fn a_clean_run_passes() {
    Logs::clean(10_000).is_clean("clean");
}

#[test]
fn one_event_lost_in_a_hundred_thousand_is_caught() {
    let mut logs = Logs::clean(100_000);
    let lost = logs.at("plain", 3, 12_345);
    logs.received.remove(lost);
    logs.is_caught("lost", &["missing"]);
}

#[test]
fn an_event_that_only_its_sender_knows_is_caught() {
    let mut logs = Logs::clean(1000);
    logs.received.retain(|it| it["id"] != id(1, 77));
    logs.is_caught("acked-but-lost", &["missing"]);
}

#[test]
fn an_event_that_was_only_ever_refused_by_its_receiver_is_missing() {
    let mut logs = Logs::clean(1000);
    let last = logs.at("plain", 3, 249);
    logs.received[last]["status"] = json!(503);
    logs.is_caught("never-taken", &["missing"]);
}

#[test]
fn an_event_that_nobody_sent_is_caught() {
    let mut logs = Logs::clean(1000);
    logs.insert(arrival(500 * MS, 9, 1, "plain"));
    logs.is_caught("invented", &["unexpected"]);
}

#[test]
fn an_event_that_was_refused_and_arrived_is_caught() {
    let mut logs = Logs::clean(1000);
    logs.sent[40]["status"] = json!("failed");
    logs.sent[40]["id"] = json!(null);
    logs.is_caught("refused", &["unexpected"]);
}

#[test]
fn an_event_whose_sender_heard_nothing_may_arrive_or_not() {
    let mut logs = Logs::clean(1000);
    for n in [40, 41] {
        logs.sent[n]["status"] = json!("unknown");
        logs.sent[n]["id"] = json!(null);
    }
    // 41 is event 10 of lane 1.
    logs.received.retain(|it| it["id"] != id(1, 10));
    logs.is_clean("unknown");
}

#[test]
fn an_unknown_outcome_that_a_second_post_clears_up_is_one_event() {
    let mut logs = Logs::clean(1000);
    let mut first = logs.sent[40].clone();
    first["status"] = json!("unknown");
    first["id"] = json!(null);
    logs.sent.insert(40, first);
    logs.is_clean("cleared-up");
}

#[test]
fn a_key_that_became_two_events_is_caught() {
    let mut logs = Logs::clean(1000);
    let mut again = logs.sent[40].clone();
    again["id"] = json!("evt_other");
    logs.sent.insert(41, again);
    logs.is_caught("two-ids", &["missing", "identity"]);
}

#[test]
fn an_event_that_arrives_under_two_ids_is_caught() {
    let mut logs = Logs::clean(1000);
    let mut again = arrival(500 * MS, 1, 7, "plain");
    again["id"] = json!("evt_other");
    logs.insert(again);
    logs.is_caught("two-arrivals", &["identity"]);
}

#[test]
fn a_delivery_that_came_twice_without_a_kill_is_caught() {
    let mut logs = Logs::clean(1000);
    let again = arrival(13 * MS, 2, 2, "plain");
    logs.insert(again);
    logs.is_caught("double-send", &["duplicate"]);
}

#[test]
fn messages_in_flight_at_a_kill_may_come_twice() {
    let mut logs = Logs::clean(1000);
    logs.repeat_over(0, "plain", 8);
    logs.repeat_over(2, "plain", 3);
    logs.repeat_over(1, "ordered", 1);
    logs.is_clean("in-flight");
}

#[test]
fn a_repeat_that_is_refused_and_tried_again_is_one_repeat() {
    let mut logs = Logs::clean(1000);
    logs.repeat_over(1, "ordered", 1);
    let repeat = logs.received.iter().position(|it| it["t"].as_u64() == Some(500 * MS + MS / 2));
    let mut refused = logs.received[repeat.unwrap()].clone();
    refused["status"] = json!(503);
    logs.received.insert(repeat.unwrap(), refused);
    logs.is_clean("refused-repeat");
}

#[test]
fn more_than_what_was_in_flight_at_a_kill_is_caught() {
    let mut logs = Logs::clean(1000);
    logs.repeat_over(1, "plain", 9);
    logs.is_caught("more-than-in-flight", &["duplicate"]);
}

#[test]
fn a_repeat_of_what_was_settled_long_before_the_kill_is_caught() {
    let mut logs = Logs::clean(1000);
    let again = arrival(251 * MS, 0, 20, "plain");
    logs.insert(again);
    logs.is_caught("settled-long-ago", &["duplicate"]);
}

#[test]
fn only_attempts_during_a_fault_may_come_twice() {
    // The freeze is from 500 to 510 ms: event 123 of lane 0 comes at 495, 125 at 503, and 127 at 511.
    let late = |n| arrival(900 * MS, 0, n, "plain");
    let mut logs = Logs::clean(1000);
    logs.insert(late(123));
    logs.insert(late(125));
    logs.is_clean("during-a-freeze");
    logs.insert(late(127));
    // The next fault that could explain it is 238 ms later.
    logs.is_caught("after-a-freeze", &["duplicate"]);
}

#[test]
fn duplicates_during_a_fault_are_charged_to_it() {
    let mut logs = Logs::clean(1000);
    // Nine of those that came during the freeze, which is long now.
    logs.run["faults"][1]["until"] = json!(600 * MS);
    for n in 125..134 {
        logs.insert(arrival(599 * MS, 0, n, "plain"));
    }
    logs.is_caught("many-in-a-freeze", &["duplicate"]);
}

#[test]
fn a_lane_of_a_key_is_held_to_its_own_order_only() {
    let keyed = |logs: &mut Logs| logs.run["endpoints"][1]["order"] = json!("key");
    let mut logs = Logs::clean(1000);
    keyed(&mut logs);
    let (one, other) = (logs.at("ordered", 0, 100), logs.at("ordered", 3, 100));
    logs.received.swap(one, other);
    logs.is_clean("key-lanes");

    let mut logs = Logs::clean(1000);
    keyed(&mut logs);
    let (one, other) = (logs.at("ordered", 2, 100), logs.at("ordered", 2, 101));
    logs.received.swap(one, other);
    logs.is_caught("key-swapped", &["order"]);
}

#[test]
fn an_endpoint_that_gets_nothing_for_too_long_is_caught() {
    // What should have come from 300 ms on comes at 349 ms, or at 351.
    for (name, until, broken) in [("late", 349, false), ("too-late", 351, true)] {
        let mut logs = Logs::clean(1000);
        for it in logs.received.iter_mut().filter(|it| it["endpoint"] == "plain") {
            let t = it["t"].as_u64().unwrap();
            if (300 * MS..until * MS).contains(&t) {
                it["t"] = json!(until * MS);
            }
        }
        logs.received.sort_by_key(|it| it["t"].as_u64());
        match broken {
            true => logs.is_caught(name, &["stall"]),
            false => logs.is_clean(name),
        }
    }
}

#[test]
fn an_endpoint_for_which_nothing_was_posted_has_not_stalled() {
    let mut logs = Logs::clean(1000);
    logs.sent.retain(|it| !(300 * MS..400 * MS).contains(&it["t"].as_u64().unwrap()));
    let sent: std::collections::HashSet<_> =
        logs.sent.iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
    logs.received.retain(|it| sent.contains(it["id"].as_str().unwrap()));
    logs.is_clean("quiet");
}

#[test]
fn a_post_that_nobody_accepts_for_too_long_is_a_stall() {
    let mut logs = Logs::clean(1000);
    // For 60 ms every post is refused, and then all of them are acked.
    let during = 300 * MS..360 * MS;
    let mut refused = Vec::new();
    for it in &mut logs.sent {
        let t = it["t"].as_u64().unwrap();
        if during.contains(&t) {
            let mut first = it.clone();
            first["status"] = json!("failed");
            first["id"] = json!(null);
            refused.push(first);
            it["t"] = json!(during.end);
            it["done"] = json!(during.end + 2 * MS);
        }
    }
    for first in refused {
        let t = first["t"].as_u64();
        let place = logs.sent.partition_point(|it| it["t"].as_u64() <= t);
        logs.sent.insert(place, first);
    }
    for it in &mut logs.received {
        if (300 * MS..363 * MS).contains(&it["t"].as_u64().unwrap()) {
            it["t"] = json!(363 * MS);
        }
    }
    let (code, broken) = logs.judge("refused-for-long");
    assert_eq!((code, broken), (1, vec!["stall".to_owned()]));
}

#[test]
fn a_retry_of_what_was_refused_is_no_duplicate_and_holds_up_its_lane() {
    let mut logs = Logs::clean(1000);
    let last = logs.at("ordered", 3, 249);
    let mut refused = logs.received[last].clone();
    refused["status"] = json!(503);
    logs.received.insert(last, refused);
    logs.is_clean("retry");
}

#[test]
fn an_event_that_overtakes_a_refused_one_in_its_lane_is_caught() {
    let mut logs = Logs::clean(1000);
    // Event 249 of lane 3 is tried between two tries of event 248.
    let head = logs.at("ordered", 3, 248);
    let next = logs.at("ordered", 3, 249);
    let mut refused = logs.received[head].clone();
    refused["status"] = json!(503);
    let head = std::mem::replace(&mut logs.received[head], refused);
    logs.received.insert(next + 1, head);
    logs.is_caught("overtaken", &["order"]);
}

#[test]
fn two_events_of_a_lane_that_changed_places_are_caught() {
    let mut logs = Logs::clean(1000);
    let (one, other) = (logs.at("ordered", 2, 100), logs.at("ordered", 2, 101));
    logs.received.swap(one, other);
    logs.is_caught("swapped", &["order"]);
}

#[test]
fn events_of_two_senders_that_changed_places_are_caught_when_one_waited_for_the_other() {
    // Event 400 was acked at 402 ms, and event 403 posted at 403 ms: they are in order. Event 401
    // was posted before: whether it is in front of 400 is for nobody to say.
    let mut logs = Logs::clean(1000);
    let (one, other) = (logs.at("ordered", 0, 100), logs.at("ordered", 3, 100));
    logs.received.swap(one, other);
    logs.is_caught("acceptance", &["order"]);

    let mut logs = Logs::clean(1000);
    let (one, other) = (logs.at("ordered", 0, 100), logs.at("ordered", 1, 100));
    logs.received.swap(one, other);
    logs.is_clean("concurrent");
}

#[test]
fn order_is_asked_only_where_it_was_promised() {
    let mut logs = Logs::clean(1000);
    let (one, other) = (logs.at("plain", 2, 100), logs.at("plain", 2, 101));
    logs.received.swap(one, other);
    logs.is_clean("unordered");
}

#[test]
fn a_body_that_changed_between_attempts_is_caught() {
    let mut logs = Logs::clean(1000);
    logs.repeat_over(1, "plain", 1);
    let repeat = logs.received.iter().rposition(|it| it["t"].as_u64() == Some(500 * MS + MS / 2));
    logs.received[repeat.unwrap()]["body"] = json!("hash-other");
    logs.is_caught("body", &["body"]);
}

#[test]
fn an_event_with_the_payload_of_another_is_caught() {
    let mut logs = Logs::clean(1000);
    let place = logs.at("plain", 2, 100);
    logs.received[place]["n"] = json!(101);
    let (code, broken) = logs.judge("payload");
    assert_eq!(code, 1);
    assert!(broken.contains(&"identity".to_owned()), "{broken:?}");
}

#[test]
fn a_lane_arrives_where_it_goes_and_nowhere_else() {
    let mut logs = Logs::clean(1000);
    logs.run["endpoints"][1]["lanes"] = json!("lane-2");
    logs.received.retain(|it| it["endpoint"] == "plain" || it["lane"] == "lane-2");
    logs.is_clean("some-lanes");

    logs.insert(arrival(500 * MS, 1, 7, "ordered"));
    logs.is_caught("astray", &["unexpected", "order"]);
}

#[test]
fn a_run_in_which_nothing_was_accepted_proves_nothing() {
    let mut logs = Logs::clean(10);
    (logs.sent, logs.received) = (vec![], vec![]);
    assert_eq!(logs.judge("nothing").0, 2);
}

#[test]
fn logs_that_cannot_be_read_prove_nothing() {
    let mut logs = Logs::clean(10);
    logs.sent[3] = json!({ "t": 3 });
    assert_eq!(logs.judge("unreadable").0, 2);
}
