//! `enrich.entity` from a PostgreSQL: real rows, and what happens when the server does not answer.

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::harness::{
    caller::Caller,
    gateway::Gateway,
    postgres::{self, Postgres},
    sink::Sink,
};

struct World {
    gateway: Gateway,
    sink: Sink,
}

const STEP: &str = "{ enrich.entity: { table: users, key: payload.user_id, into: user, \
                    follow: [account.plan], with_key: true } }";

impl World {
    async fn new(lookups: &str, steps: &str) -> Self {
        let sink = Sink::new().await;
        let resources = format!(
            "version: 1\nproject: acme\nsources: [{{ name: app, kind: api }}]\n\
             lookups:\n{lookups}\n\
             destinations:\n  - {{ name: sink, kind: webhook, url: \"${{URL}}\", signed: false }}\n\
             pipelines:\n  - {{ name: all, steps: [ {steps} ], routes: [{{ to: sink }}] }}\n"
        );
        let gateway = Gateway::start(&resources, &sink.url("/")).await;
        Self { gateway, sink }
    }

    /// Publishes an event about a user, and returns the `user` that arrives with it.
    async fn user(&self, n: usize, id: Value) -> Value {
        self.gateway.publish("user.signed_up", json!({"n": n, "user_id": id})).await;
        let arrived = self.sink.received_at_least(n + 1).await;
        let data = arrived.iter().map(|it| it.json()["data"].clone()).find(|it| it["n"] == n);
        data.unwrap()["user"].clone()
    }
}

fn lookup(name: &str, database: &str, query: &str, settings: &str) -> String {
    format!(
        "  - {{ name: {name}, kind: postgres, database: \"{database}\", query: \"{query}\"{settings} }}\n"
    )
}

#[tokio::test]
async fn rows_of_a_database_arrive_with_what_they_refer_to() {
    let database = Postgres::shared().database().await;
    postgres::run(
        &database,
        "CREATE TABLE users (id int PRIMARY KEY, name text, account_id text, seen timestamptz);
         CREATE TABLE accounts (id text PRIMARY KEY, plan text);
         INSERT INTO users VALUES (7, 'Ann ''the'' \"first\"', 'a1', NULL), (8, 'Bob', 'gone', NULL);
         INSERT INTO accounts VALUES ('a1', 'pro');",
    )
    .await;
    // A comment at its end, and a sort: whatever a SELECT may hold.
    let users = "SELECT name, account_id AS account FROM users WHERE id = $1 ORDER BY name -- one";
    let lookups = lookup(
        "users",
        &database,
        users,
        ", references: { account: accounts }, cache: { found: 1h, missing: 1m, entries: 10 }",
    ) + &lookup(
        "accounts",
        &database,
        "SELECT * FROM accounts WHERE id = $1",
        ", references: { plan: plans }",
    ) + "  - { name: plans, kind: table }\n";
    let world = World::new(&lookups, STEP).await;
    let plan = json!({"id": "pro", "seats": 5});
    let caller = Caller::admin(&world.gateway);
    caller.post("/api/v1/directory/plans?project=acme", &plan).await.expect(200);

    let ann = json!({"id": "7", "name": "Ann 'the' \"first\"", "status": "found",
                     "account": {"id": "a1", "plan": plan}});
    assert_eq!(world.user(0, json!(7)).await, ann);
    let bob = json!({"id": "8", "name": "Bob", "account": "gone", "status": "found"});
    assert_eq!(world.user(1, json!("8")).await, bob);
    assert_eq!(world.user(2, json!(9)).await, json!({"status": "not_found"}));

    // An answer counts for its time, and then it is asked for again.
    postgres::run(
        &database,
        "UPDATE users SET name = 'Bert' WHERE id = 8; INSERT INTO users VALUES (9, 'New')",
    )
    .await;
    assert_eq!(world.user(3, json!(8)).await["name"], "Bob");
    assert_eq!(world.user(4, json!(9)).await["status"], "not_found");
    world.gateway.clock.advance(SignedDuration::from_mins(2));
    assert_eq!(world.user(5, json!(8)).await["name"], "Bob");
    assert_eq!(world.user(6, json!(9)).await["name"], "New");
    world.gateway.clock.advance(SignedDuration::from_hours(1));
    assert_eq!(world.user(7, json!(8)).await["name"], "Bert");
}

#[tokio::test]
async fn a_query_reads_and_whatever_goes_wrong_is_an_answer() {
    let database = Postgres::shared().database().await;
    postgres::run(
        &database,
        "CREATE TABLE users (id int PRIMARY KEY, name text); CREATE SEQUENCE counter;
         INSERT INTO users VALUES (1, 'Ann')",
    )
    .await;
    let elsewhere = database.replace("127.0.0.1", "10.1.2.3");
    let missing = format!("{}_missing?sslmode=disable", database.split('?').next().unwrap());
    let secure = database.replace("disable", "require");
    for (url, query, status, reason) in [
        (
            &database,
            "SELECT nextval('counter') FROM users WHERE id = $1",
            "failed",
            "its query writes, and may only read",
        ),
        (
            &database,
            "SELECT name FROM users WHERE id = $1",
            "failed",
            "the key does not fit its query (SQLSTATE 22P02)",
        ),
        (
            &database,
            "SELECT name FROM nothing WHERE id = $1",
            "failed",
            "its query is wrong: relation \\\"nothing\\\" does not exist",
        ),
        (&database, "SELECT pg_sleep(60), $1 AS key", "timeout", "no answer in time"),
        (
            &database,
            "SELECT repeat('x', 70000) AS long, $1 AS key",
            "failed",
            "its row is longer than 64 KiB",
        ),
        (
            &elsewhere,
            "SELECT $1 AS key",
            "failed",
            "the endpoint's address is not allowed: it is none that this gateway may speak to; see its log",
        ),
        (&missing, "SELECT $1 AS key", "failed", "the server has no such database"),
        (
            &secure,
            "SELECT $1 AS key",
            "failed",
            "the server does not speak TLS, and the URL does not allow to go without",
        ),
    ] {
        let timeout = if status == "timeout" { ", timeout: 50ms" } else { "" };
        let steps = "{ enrich.entity: { table: users, key: payload.user_id, into: user } }, \
                     { map: { n: 0, user: { status: \"{{ user.status }}\", reason: \"{{ enrichment.user.reason }}\" } } }";
        let world = World::new(&lookup("users", url, query, timeout), steps).await;
        let key = if query.contains("nextval") { json!(1) } else { json!("ann") };
        let reason = reason.replace("\\\"", "\"");
        assert_eq!(
            world.user(0, key).await,
            json!({"status": status, "reason": reason}),
            "{query}"
        );
    }
    postgres::run(&database, "DO $$ BEGIN ASSERT NOT (SELECT is_called FROM counter); END $$")
        .await;
}

#[tokio::test]
async fn a_database_that_is_away_is_asked_again_when_it_is_back() {
    // Given a server, and a connection to it that is kept
    let server = Postgres::new();
    let database = server.database().await;
    postgres::run(&database, "CREATE TABLE users AS SELECT 1 AS id, 'Ann' AS name").await;
    let query = "SELECT name FROM users WHERE id = $1";
    let settings = ", cache: { found: 0s, missing: 0s, entries: 0 }";
    let world = World::new(&lookup("users", &database, query, settings), STEP).await;
    assert_eq!(world.user(0, json!(1)).await["status"], "found");
    // When the server restarts, Then a fresh connection is made without anybody noticing
    server.stop("INT");
    server.start();
    assert_eq!(world.user(1, json!(1)).await["status"], "found");
    // When it is away, Then events go on, marked, and after a while it is not even asked
    server.stop("KILL");
    for n in 2..8 {
        assert_eq!(world.user(n, json!(1)).await["status"], "failed");
    }
    // And when it is back, it is asked again.
    server.start();
    world.gateway.clock.advance(SignedDuration::from_secs(6));
    assert_eq!(world.user(8, json!(1)).await["status"], "found");
}

#[tokio::test]
async fn the_url_of_a_database_is_a_secret_and_bad_ones_are_refused() {
    let database = Postgres::shared().database().await.replace("tidegate@", "tidegate:pa55word@");
    let world =
        World::new(&lookup("users", &database, "SELECT 'Ann' AS name, $1 AS key", ""), STEP).await;
    let caller = Caller::admin(&world.gateway);
    for path in ["/api/v1/lookups/users?project=acme", "/api/v1/export?project=acme"] {
        let text = caller.get(path).await.expect(200).text;
        assert!(text.contains("${USERS_DATABASE}") && !text.contains("pa55word"), "{text}");
    }
    // What is shown can be put again, and means the same database.
    let mut spec = caller.get("/api/v1/lookups/users?project=acme").await.json();
    for field in ["id", "created_at"] {
        spec.as_object_mut().unwrap().remove(field);
    }
    spec["timeout"] = json!("3s");
    caller.put("/api/v1/lookups/users?project=acme", &spec).await.expect(200);
    assert_eq!(world.user(0, json!(1)).await["name"], "Ann");

    let right = "postgres://ann:pa55word@db.acme.com/crm";
    for (database, query, field) in [
        (Some("host=db password=pa55word"), "SELECT $1", "database"),
        (Some("postgres://ann:pa55word@one,two/crm"), "SELECT $1", "database"),
        (Some("${CRM}"), "SELECT $1", "database"),
        (None, "SELECT $1", "database"),
        (Some(right), "SELECT 1", "query"),
        (Some(right), "SELECT $1, $2", "query"),
        (Some(right), "SELECT $1; DROP TABLE users", "query"),
    ] {
        let spec = json!({"name": "x", "kind": "postgres", "database": database, "query": query});
        let answer = caller.post("/api/v1/lookups?project=acme", &spec).await;
        assert_eq!(answer.json()["errors"][0]["field"], field, "{spec}");
        assert!(!answer.text.contains("pa55word"), "{}", answer.text);
    }
}
