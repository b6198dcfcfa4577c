//! What enrichment asks beyond the directory: countries by a database file, several services in their order,
//! and never more of one service at once than it allows.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Semaphore,
};

use crate::harness::{
    PATIENCE,
    caller::Caller,
    gateway::Gateway,
    sink::{Answer, Sink},
};

/// A file of MaxMind's format, in which the addresses of `203.0.0.0/8` are in Germany, and no others anywhere.
fn country_database(file: &Path) {
    const PREFIX: u32 = 8;
    let text = |it: &str| [&[0x40 | it.len() as u8], it.as_bytes()].concat();
    let small = |kind: u8, it: u8| vec![kind << 5 | 1, it];
    let mut bytes = Vec::new();
    // Of each node, where its two bits lead: nowhere, to the next node, or into the data.
    for bit in 0..PREFIX {
        let wanted = 203_u32 >> (PREFIX - 1 - bit) & 1;
        for side in 0..2 {
            let to = match (side == wanted, bit + 1 == PREFIX) {
                (false, _) => PREFIX,
                (true, false) => bit + 1,
                (true, true) => PREFIX + 16,
            };
            bytes.extend(&to.to_be_bytes()[1..]);
        }
    }
    bytes.extend([0; 16]);
    let country = [vec![0xe1], text("iso_code"), text("DE")].concat();
    bytes.extend([vec![0xe1], text("country"), country].concat());
    bytes.extend(b"\xab\xcd\xefMaxMind.com");
    let fields = [
        [text("binary_format_major_version"), small(5, 2)].concat(),
        [text("binary_format_minor_version"), small(5, 0)].concat(),
        [text("build_epoch"), vec![0x01, 0x02, 0x01]].concat(),
        [text("database_type"), text("Test-Country")].concat(),
        [text("description"), vec![0xe0]].concat(),
        [text("ip_version"), small(5, 4)].concat(),
        [text("languages"), vec![0x00, 0x04]].concat(),
        [text("node_count"), small(6, PREFIX as u8)].concat(),
        [text("record_size"), small(5, 24)].concat(),
    ];
    bytes.push(0xe0 | fields.len() as u8);
    bytes.extend(fields.concat());
    std::fs::write(file, bytes).unwrap();
}

fn resources(lookups: &str, steps: &str, sink: &Sink) -> String {
    format!(
        "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\nlookups:\n{lookups}\n\
         destinations:\n  - {{ name: sink, kind: webhook, url: \"{}\", signed: false }}\n\
         pipelines:\n  - {{ name: all, steps: [ {steps} ], routes: [{{ to: sink }}] }}\n",
        sink.url("/")
    )
}

/// The payloads that arrived once there are so many, by their number.
async fn arrived(sink: &Sink, count: usize) -> Vec<Value> {
    let requests = sink.received_at_least(count).await;
    let mut payloads: Vec<Value> = requests.iter().map(|it| it.json()["data"].clone()).collect();
    payloads.sort_by_key(|it| it["n"].as_u64());
    payloads
}

#[tokio::test]
async fn the_country_of_an_address_comes_from_the_file_where_nobody_knows_better() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("countries.mmdb");
    country_database(&file);
    let sink = Sink::new().await;
    let steps = "{ enrich.person: { email: payload.email, ip: payload.ip } }";
    let text = resources("  []", steps, &sink);
    let gateway =
        Gateway::configured(&text, |it| it.enrichment.country_database = Some(file)).await;
    let rows = json!([{ "email": "fay@acme.com", "country": "FR" }, { "email": "gus@acme.com" }]);
    let people = "/api/v1/directory/people?project=acme";
    Caller::admin(&gateway).post(people, &rows).await.expect(200);
    for (n, (email, ip)) in [
        ("fay@acme.com", "203.0.113.7"),
        ("gus@acme.com", "203.0.113.7"),
        ("new@acme.com", "203.0.113.7"),
        ("new@acme.com", "198.51.100.7"),
        ("eve@gmail.com", "203.1.2.3"),
        ("new@acme.com", "no address"),
    ]
    .into_iter()
    .enumerate()
    {
        gateway.publish("a", json!({ "n": n, "email": email, "ip": ip })).await;
    }
    let found: Vec<_> = arrived(&sink, 6)
        .await
        .iter()
        .map(|it| (it["person"]["country"].clone(), it["person"]["status"].clone()))
        .collect();
    let expected = [
        (json!("FR"), json!("found")),
        (json!("DE"), json!("found")),
        (json!("DE"), json!("not_found")),
        (Value::Null, json!("not_found")),
        (json!("DE"), json!("not_found")),
        (Value::Null, json!("not_found")),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn services_are_asked_in_the_order_of_the_step_until_one_knows() {
    let knows = |who: &'static str, role: &'static str| {
        Sink::with(move |request| match request.path.contains(who) {
            true => Answer::status(200).body(json!({ "title": role }).to_string()),
            false => Answer::status(404),
        })
    };
    let (one, two) = (knows("ann", "CTO").await, knows("acme", "somebody").await);
    let service = |name: &str, url: String| {
        format!(
            "  - {{ name: {name}, kind: http, url: \"{url}\", map: {{ role: \"{{{{ response.title }}}}\" }} }}\n"
        )
    };
    let lookups =
        service("one", one.url("/{{ email }}")) + &service("two", two.url("/{{ email }}"));
    let sink = Sink::new().await;
    let steps = "{ enrich.person: { email: payload.email, from: [one, two], into: both } }, \
        { enrich.person: { email: payload.email, from: [two], into: second } }, \
        { enrich.person: { email: payload.email, from: [], into: nobody } }";
    let gateway = Gateway::start(&resources(&lookups, steps, &sink), "").await;
    for (n, email) in ["ann@acme.com", "bob@acme.com", "eve@globex.com"].iter().enumerate() {
        gateway.publish("a", json!({ "n": n, "email": email })).await;
        arrived(&sink, n + 1).await;
    }
    let role = |it: &Value, name: &str| it[name]["role"].as_str().unwrap_or("-").to_owned();
    let found: Vec<_> = arrived(&sink, 3)
        .await
        .iter()
        .map(|it| ["both", "second", "nobody"].map(|name| role(it, name)))
        .collect();
    let expected = [["CTO", "somebody", "-"], ["somebody", "somebody", "-"], ["-", "-", "-"]];
    assert_eq!(found, expected);
    // Each was asked once for each address, by whichever step.
    assert_eq!((one.received().len(), two.received().len()), (3, 3));
}

#[tokio::test]
async fn no_service_is_asked_more_at_once_than_it_allows() {
    // A service that answers when it is let to, and counts who waits.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/{{{{ email }}}}", listener.local_addr().unwrap());
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let door = Arc::new(Semaphore::new(0));
    let (its, peak, gate) = (inside.clone(), most.clone(), door.clone());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (inside, most, door) = (its.clone(), peak.clone(), gate.clone());
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while stream.read(&mut head).await.is_ok_and(|it| it > 0) {
                    most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                    door.acquire().await.unwrap().forget();
                    inside.fetch_sub(1, SeqCst);
                    let body = r#"{"title":"CTO"}"#;
                    let answer =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let lookup = format!(
        "  - {{ name: one, kind: http, url: \"{url}\", concurrency: 3, timeout: 1m, map: {{ role: \"{{{{ response.title }}}}\" }} }}\n"
    );
    let sink = Sink::new().await;
    let steps = "{ enrich.person: { email: payload.email, timeout: 1m } }";
    let gateway = Gateway::start(&resources(&lookup, steps, &sink), "").await;
    for n in 0..20 {
        gateway.publish("a", json!({ "n": n, "email": format!("p{n}@acme.com") })).await;
    }
    let full = async {
        while inside.load(SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, full).await.expect("three are asked at once");
    door.add_permits(20);
    let arrived = arrived(&sink, 20).await;
    assert!(arrived.iter().all(|it| it["person"]["role"] == "CTO"));
    assert_eq!(most.load(SeqCst), 3);
}

#[tokio::test]
async fn companies_are_learned_from_group_calls_of_segments_clients() {
    let sink = Sink::new().await;
    let lookups = "  - { name: companies, kind: table, learn: { when: 'type == \"group\"', \
        key: payload.traits.domain, fields: payload.traits } }\n";
    let steps = "{ enrich.person: { email: payload.email } }";
    let text = resources(lookups, steps, &sink).replace(
        "{ name: app, kind: api }",
        "{ name: app, kind: api }, { name: web, kind: segment, write_key: wk_demo }",
    );
    let gateway = Gateway::start(&text, "").await;
    let traits = json!({ "domain": "Acme.com", "name": "Acme Inc.", "country": "DE" });
    let group = json!({ "writeKey": "wk_demo", "userId": "u", "groupId": "g", "traits": traits });
    Caller::new(&gateway, None).post("/v1/group", &group).await.expect(200);
    let caller = Caller::admin(&gateway);
    let row = "/api/v1/directory/companies/entries/acme.com?project=acme";
    let learned = async { while caller.get(row).await.status != 200 {} };
    tokio::time::timeout(PATIENCE, learned).await.expect("it is learned");
    gateway.publish("a", json!({ "n": 1, "email": "ann@acme.com" })).await;
    let person = &arrived(&sink, 2).await[1]["person"];
    assert_eq!((&person["company"], &person["country"]), (&json!("Acme Inc."), &json!("DE")));
}
