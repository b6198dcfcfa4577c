//! `tidegate listen`: events of a gateway, on a developer's own machine, without a tunnel.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Sha256;
use url::Url;

use super::{
    Context,
    client::{Client, HttpClient, http_client},
    error::{CliError, Result, innermost},
    output::{self, Paint, clip, clock_time},
    schemes::{SignScheme, Signer},
    sse,
    tail::{ConnectionNotes, pattern},
};
use crate::model::{Pattern, Secret};

/// Forward events to a local server, signed, as a destination would get them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The gateway needs no way to reach this machine: events are fetched, and nothing has to be set up
or torn down there. What you answer changes nothing in the gateway, and nothing is retried.

Examples:
  tidegate listen --forward-to http://localhost:3000/hooks
  tidegate listen --forward-to http://localhost:3000/hooks --events 'user.*' --events order.paid")]
pub struct Args {
    /// URL to post events to; `localhost:3000/hooks` or just a port works
    #[arg(long, value_name = "URL", value_parser = super::server_url)]
    forward_to: Url,
    /// Only these event types or groups (default: all)
    #[arg(long, value_name = "TYPE", value_parser = pattern, value_delimiter = ',')]
    events: Vec<Pattern>,
    /// Signing secret (default: one derived from the gateway and API key)
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,
    /// Timeout of your server
    #[arg(long, value_name = "TIME", value_parser = super::times::duration, default_value = "30s")]
    timeout: Duration,
}

/// What is posted: the body that a destination of the standard profile gets.
#[derive(Serialize)]
struct PostedBody<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    timestamp: Timestamp,
    data: &'a RawValue,
}

/// What the stream says of an event.
#[derive(Deserialize)]
struct PostedEvent {
    id: String,
    #[serde(rename = "type")]
    event_type: crate::model::TypeName,
    timestamp: Timestamp,
    payload: Box<RawValue>,
}

struct Forwarder {
    http: HttpClient,
    to: Url,
    timeout: Duration,
    signer: Signer,
}

/// Runs until Ctrl-C.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    let secret = match args.secret {
        Some(secret) => Secret::new(secret),
        None => stable_secret(&context.client)?,
    };
    let signer = Signer::new(SignScheme::Standard, std::slice::from_ref(&secret), None)?;
    output::note(format_args!("forwarding to {}", args.forward_to));
    output::note(format_args!(
        "your signing secret is {} (it stays the same)",
        Paint::for_stderr().bold(secret.expose())
    ));

    let forwarder =
        Forwarder { http: http_client(), to: args.forward_to, timeout: args.timeout, signer };
    let mut query = Vec::new();
    // One pattern narrows the stream at its source; several are distinguished here.
    if let [only] = args.events.as_slice() {
        query.push(("type", String::from(only.clone())));
    }
    let mut stream = sse::Stream::new(context.client.clone(), "/api/v1/tail", query);
    let mut reported = ConnectionNotes::default();
    loop {
        let work = async {
            let Some(event) = reported.note(stream.next().await?) else { return Ok(()) };
            match read(&event, &args.events)? {
                Some(event) => context.out.line(forwarder.forward(context, &event).await),
                None => Ok(()),
            }
        };
        tokio::select! {
            worked = work => worked?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// The event of a sight, if it is one that is wanted.
fn read(event: &sse::StreamEvent, wanted: &[Pattern]) -> Result<Option<PostedEvent>> {
    if event.name == "missed" {
        output::note("some events were left out: they came faster than your server took them");
    }
    if event.name != "event" {
        return Ok(None);
    }
    let event: PostedEvent = serde_json::from_str(&event.data).map_err(|error| {
        CliError::Answer { what: format!("an event is not understood: {error}") }
    })?;
    let is_wanted = wanted.is_empty() || wanted.iter().any(|it| it.matches(&event.event_type));
    Ok(is_wanted.then_some(event))
}

/// A secret that needs to be kept nowhere: it follows from the API key, which it does not reveal,
/// and from the gateway.
fn stable_secret(client: &Client) -> Result<Secret> {
    let key = client.key().ok_or_else(super::client::missing_key)?;
    let mut code = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes())
        .map_err(|_| CliError::usage("the API key is too long"))?;
    code.update(b"tidegate listen\n");
    code.update(client.base().origin().ascii_serialization().as_bytes());
    code.update(client.project().unwrap_or_default().as_bytes());
    Ok(Secret::new(format!("whsec_{}", STANDARD.encode(code.finalize().into_bytes()))))
}

impl Forwarder {
    /// Posts an event, and says in a line how that went.
    async fn forward(&self, context: &Context, event: &PostedEvent) -> String {
        let begun = context.clock.now();
        let answered = tokio::time::timeout(self.timeout, self.post(event, begun)).await;
        let took = context.clock.now().duration_since(begun).unsigned_abs();
        let paint = context.out.paint;
        let verdict = match answered {
            Err(_) => {
                paint.red(format_args!("no answer within {}", output::duration(self.timeout)))
            }
            Ok(Err(reason)) => paint.red(clip(&reason, 80)),
            Ok(Ok((status, _))) if (200..300).contains(&status) => paint.green(status),
            Ok(Ok((status, said))) if said.is_empty() => paint.red(status),
            Ok(Ok((status, said))) => {
                format!("{}  {}", paint.red(status), paint.dim(clip(&said, 80)))
            }
        };
        format!(
            "{}  {}  {}  POST {}  {verdict}  {}",
            clock_time(begun, &context.zone),
            paint.bold(&event.event_type),
            paint.cyan(&event.id),
            self.to.path(),
            paint.dim(output::duration(took)),
        )
    }

    /// The status, and what the body begins with.
    async fn post(&self, event: &PostedEvent, now: Timestamp) -> Result<(u16, String), String> {
        const READ: usize = 64 * 1024;
        let body = PostedBody {
            event_type: event.event_type.as_str(),
            timestamp: event.timestamp,
            data: &event.payload,
        };
        let body = Bytes::from(serde_json::to_vec(&body).map_err(|it| it.to_string())?);
        let mut request = Request::post(self.to.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .header(
                header::USER_AGENT,
                concat!("Tidegate/", env!("CARGO_PKG_VERSION"), " (listen)"),
            )
            .header("idempotency-key", &event.id);
        for (name, value) in self.signer.headers(&event.id, now.as_second(), &body) {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).map_err(|it| it.to_string())?;
        let response = self.http.request(request).await.map_err(|error| innermost(&error))?;
        let status = response.status().as_u16();
        let said = match Limited::new(response.into_body(), READ).collect().await {
            Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            Err(_) => String::new(),
        };
        Ok((status, said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{schemes::Verifier, sink};

    fn client(key: &str, project: Option<&str>) -> Client {
        let base = Url::parse("http://127.0.0.1:8080").unwrap();
        Client::new(base, Some(Secret::new(key)), project.map(str::to_owned))
    }

    #[tokio::test]
    async fn the_secret_stays_the_same_for_a_key_and_differs_for_another() {
        let secret =
            |key, project| stable_secret(&client(key, project)).unwrap().expose().to_owned();
        assert_eq!(secret("a", None), secret("a", None));
        assert_ne!(secret("a", None), secret("b", None));
        assert_ne!(secret("a", None), secret("a", Some("acme")));
        Signer::new(SignScheme::Standard, &[Secret::new(secret("a", None))], None).unwrap();
    }

    #[test]
    fn only_wanted_events_are_forwarded_and_their_payload_is_untouched() {
        let wanted = [pattern("user.*").unwrap()];
        let data = r#"{"id":"evt_1","type":"user.signed_up","timestamp":"2026-07-31T14:00:00Z","payload":{"n":1.50}}"#;
        let sight = |name: &str, data: &str| sse::StreamEvent {
            name: name.to_owned(),
            data: data.to_owned(),
        };
        let event = read(&sight("event", data), &wanted).unwrap().unwrap();
        assert_eq!(event.payload.get(), r#"{"n":1.50}"#);
        assert!(
            read(&sight("event", &data.replace("user.", "order.")), &wanted).unwrap().is_none()
        );
        assert!(read(&sight("attempt", "{}"), &wanted).unwrap().is_none());
    }

    #[tokio::test]
    async fn forwarded_events_verify_and_report_the_result() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let secrets = std::slice::from_ref(&secret);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let options = sink::Options {
            verifier: Some(Verifier::new(SignScheme::Standard, secrets, None).unwrap()),
            ..sink::Options::default()
        };
        let (sender, received) = std::sync::mpsc::channel();
        let report = move |it: &sink::Received| sender.send(it.clone()).unwrap();
        tokio::spawn(sink::serve(listener, options, report, std::future::pending()));

        let forwarder = |to: String, secret: &[Secret]| Forwarder {
            http: http_client(),
            to: to.parse().unwrap(),
            timeout: Duration::from_secs(10),
            signer: Signer::new(SignScheme::Standard, secret, None).unwrap(),
        };
        let context = Context {
            client: client("k", None),
            out: output::Output { paint: Paint::PLAIN },
            zone: jiff::tz::TimeZone::UTC,
            clock: std::sync::Arc::new(crate::clock::SystemClock),
        };
        let data = r#"{"id":"evt_1","type":"user.signed_up","timestamp":"2026-07-31T14:00:00Z","payload":{"n":1.50}}"#;
        let event = serde_json::from_str(data).unwrap();

        let line = forwarder(format!("http://{address}/hooks?a=1"), secrets)
            .forward(&context, &event)
            .await;
        assert!(line.contains("  user.signed_up  evt_1  POST /hooks  200  "), "{line}");
        let it = received.recv().unwrap();
        assert_eq!((it.signature, it.id.as_deref()), (sink::Judgement::Verified, Some("evt_1")));
        let body =
            r#"{"type":"user.signed_up","timestamp":"2026-07-31T14:00:00Z","data":{"n":1.50}}"#;
        assert_eq!(&it.body[..], body.as_bytes());

        let wrong = [Secret::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")];
        let line =
            forwarder(format!("http://{address}/hooks"), &wrong).forward(&context, &event).await;
        assert!(line.contains("POST /hooks  401  "), "{line}");
    }
}
