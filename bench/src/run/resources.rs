//! What the gateway is told to do: projects, destinations and pipelines, as `tidegate apply` reads them.

use std::fmt::Write as _;

/// Every event goes to each of these URLs.
pub fn to_all(urls: &[String], concurrency: usize) -> String {
    let mut text = head();
    let mut routes = String::new();
    for (n, url) in urls.iter().enumerate() {
        text.push_str(&destination(n, url, concurrency));
        let _ = write!(routes, "{{ to: endpoint-{n} }}, ");
    }
    let _ = write!(text, "pipelines:\n  - {{ name: all, on: [\"*\"], routes: [ {routes} ] }}\n");
    text
}

/// An event of type `to.N` goes to the Nth of these URLs.
pub fn by_type(urls: &[String], concurrency: usize) -> String {
    let mut text = head();
    for (n, url) in urls.iter().enumerate() {
        text.push_str(&destination(n, url, concurrency));
    }
    text.push_str("pipelines:\n");
    for n in 0..urls.len() {
        let _ = writeln!(
            text,
            "  - {{ name: pipeline-{n}, on: [\"to.{n}\"], routes: [ {{ to: endpoint-{n} }} ] }}"
        );
    }
    text
}

/// Every event goes through one pipeline, of which this is the rest, to `endpoint-0`.
pub fn one_with(url: &str, concurrency: usize, pipeline: &str) -> String {
    let destination = destination(0, url, concurrency);
    format!("{}{destination}pipelines:\n  - {{ name: all, on: [\"*\"], {pipeline} }}\n", head())
}

fn head() -> String {
    "version: 1\nproject: bench\nsources:\n  - { name: app, kind: api }\ndestinations:\n".to_owned()
}

/// Signed, as a webhook is in life, though the relay signs nothing.
fn destination(n: usize, url: &str, concurrency: usize) -> String {
    format!(
        "  - {{ name: endpoint-{n}, kind: webhook, url: \"{url}\", concurrency: {concurrency}, \
         secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw }}\n"
    )
}
