//! What is kept secret goes to nobody for whom it was not meant, and is kept nowhere in clear.

use serde_json::json;

use crate::harness::{caller::Caller, gateway::Gateway};

const NOWHERE: &str = "http://127.0.0.1:9/";

/// L14
#[tokio::test]
async fn a_destination_on_another_host_wants_its_secrets_again() {
    let settings = ", auth: { bearer: canary }, headers: { x-key: canary }";
    let gateway = Gateway::delivering_to(NOWHERE, settings).await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let path = "/api/v1/destinations/sink";
    let spec = |url: &str, token: &str| {
        json!({
            "name": "sink", "kind": "webhook", "url": url,
            "auth": { "bearer": token }, "headers": { "x-key": token },
        })
    };
    let kept = "${SINK_BEARER}";
    for elsewhere in ["http://127.0.0.1:10/", "https://127.0.0.1:9/", "http://evil.example/"] {
        let refused = admin.put(path, &spec(elsewhere, kept)).await.expect(400).text;
        assert!(refused.contains("auth.bearer") && refused.contains("headers.x-key"), "{refused}");
    }
    // Another path of the host, or the secrets in full, are what an owner may do.
    admin.put(path, &spec("http://127.0.0.1:9/other", kept)).await.expect(200);
    admin.put(path, &spec("http://127.0.0.1:10/", "another")).await.expect(200);
}

/// L14 at a look-up, and L5
#[tokio::test]
async fn a_lookup_keeps_its_secrets_sealed_and_at_its_host() {
    let gateway = Gateway::delivering_to(NOWHERE, "").await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    let lookup = |url: &str, header: &str, secret: &str| {
        json!({
            "name": "crm", "kind": "http", "url": url, "headers": { "authorization": header },
            "secrets": { "token": secret }, "map": { "plan": "{{ response.plan }}" },
        })
    };
    let (url, header) = ("https://crm.example/people", "Bearer {{ secret.token }}");
    for (url, header) in
        [(url, "Bearer canary"), ("https://crm.example/people?api_key=canary", header)]
    {
        let refused = admin.post("/api/v1/lookups", &lookup(url, header, "canary")).await;
        let refused = refused.expect(400).text;
        assert!(refused.contains("`secrets`"), "{refused}");
    }
    admin.post("/api/v1/lookups", &lookup(url, header, "canary")).await.expect(201);
    let path = "/api/v1/lookups/crm";
    let moved = lookup("https://evil.example/people", header, "${CRM_TOKEN}");
    let refused = admin.put(path, &moved).await.expect(400).text;
    assert!(refused.contains("secrets.token"), "{refused}");
    admin.put(path, &lookup("https://crm.example/v2", header, "${CRM_TOKEN}")).await.expect(200);
}

/// L6
#[tokio::test]
async fn a_time_or_an_id_that_is_not_signed_is_refused() {
    let gateway = Gateway::delivering_to(NOWHERE, "").await;
    let admin = Caller::with_scopes(&gateway, "acme", &["admin"]).await;
    for (signed, field, status) in [
        ("{body}", "time", 400),
        ("{body}", "id", 400),
        ("{time}.{body}", "time", 201),
        ("{id}.{body}", "id", 201),
    ] {
        let source = json!({
            "name": format!("hook-{field}-{status}"), "kind": "webhook", "secret": "s3cret-of-the-sender",
            "verify": { "hmac": { "algorithm": "sha256", "header": "x-sign", "encoding": "hex",
                "signed": signed, field: "x-value" } },
        });
        let answer = admin.post("/api/v1/sources", &source).await;
        assert_eq!(answer.status, status, "{signed} {field}: {}", answer.text);
    }
}
