//! An endpoint that takes webhooks, judges them, and answers as configured: well, badly, late.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract::State, response::Response};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::net::TcpListener;

use super::super::schemes::Verifier;
use crate::{
    clock::{Clock, SystemClock},
    crypto::{
        Random, SystemRandom,
        signature::{VerifyError, standard},
    },
    server,
};

/// Larger bodies are answered 413.
const LARGEST_BODY: usize = 16 * 1024 * 1024;
/// Ids whose attempts are remembered; the oldest are forgotten first.
const IDS: usize = 100_000;
const LONGEST_ID: usize = 256;

#[derive(Clone)]
pub struct Options {
    /// Without it nothing is verified. With it, what does not verify is answered 401.
    pub verifier: Option<Verifier>,
    /// The share of requests that is answered with `failure`, from 0 to 1.
    pub fail_rate: f64,
    pub failure: StatusCode,
    /// How long each answer is held back.
    pub latency: Duration,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            verifier: None,
            fail_rate: 0.0,
            failure: StatusCode::SERVICE_UNAVAILABLE,
            latency: Duration::ZERO,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }
}

/// One request, as it was judged.
#[derive(Clone, Debug)]
pub struct Received {
    pub at: Timestamp,
    pub method: Method,
    pub path: String,
    /// The `type` of a JSON body.
    pub event_type: Option<String>,
    /// `webhook-id`, or `idempotency-key` where there is none.
    pub id: Option<String>,
    /// How many requests with this id there were, this one included. 1 without an id.
    pub attempt: u32,
    /// A request with this id was accepted before.
    pub is_duplicate: bool,
    pub signature: Judgement,
    pub answer: StatusCode,
    /// It was answered badly because it was to be, not for what it is.
    pub is_failed_on_purpose: bool,
    pub body: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// There is no secret to verify with.
    NotAsked,
    Verified,
    Refused(VerifyError),
}

struct Sink<F> {
    options: Options,
    ledger: Mutex<Ledger>,
    on_received: F,
}

/// Serves until `stop` ends. `on_received` is called once for each request, before it is answered;
/// it must not block for long.
pub async fn serve(
    listener: TcpListener,
    options: Options,
    on_received: impl Fn(&Received) + Send + Sync + 'static,
    stop: impl Future<Output = ()> + Send,
) {
    let limits = server::Options { drain: Duration::from_secs(1), ..server::Options::default() };
    let sink = Arc::new(Sink { options, ledger: Mutex::new(Ledger::default()), on_received });
    let router = Router::new().fallback(take).with_state(sink);
    server::serve(listener, router, limits, stop).await;
}

async fn take<F: Fn(&Received) + Send + Sync + 'static>(
    State(sink): State<Arc<Sink<F>>>,
    request: Request<Body>,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LARGEST_BODY).await else {
        return empty(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let received = sink.judge(parts.method, parts.uri.path(), &parts.headers, body);
    (sink.on_received)(&received);
    if !sink.options.latency.is_zero() {
        tokio::time::sleep(sink.options.latency).await;
    }
    empty(received.answer)
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

impl<F> Sink<F> {
    fn judge(&self, method: Method, path: &str, headers: &HeaderMap, body: Bytes) -> Received {
        let at = self.options.clock.now();
        let signature = match &self.options.verifier {
            None => Judgement::NotAsked,
            Some(verifier) => match verifier.verify(headers, &body, at) {
                Ok(()) => Judgement::Verified,
                Err(error) => Judgement::Refused(error),
            },
        };
        let is_unlucky = self.options.fail_rate > 0.0
            && share(self.options.random.u64()) < self.options.fail_rate;
        let (answer, is_failed_on_purpose) = match signature {
            Judgement::Refused(_) => (StatusCode::UNAUTHORIZED, false),
            Judgement::NotAsked | Judgement::Verified if is_unlucky => (self.options.failure, true),
            Judgement::NotAsked | Judgement::Verified => (StatusCode::OK, false),
        };
        let id = [standard::ID, "idempotency-key"]
            .iter()
            .find_map(|name| headers.get(*name)?.to_str().ok())
            .map(|it| it.chars().take(LONGEST_ID).collect::<String>());
        let (attempt, is_duplicate) = match &id {
            Some(id) => self
                .ledger
                .lock()
                .unwrap_or_else(|it| it.into_inner())
                .note(id, answer.is_success()),
            None => (1, false),
        };
        Received {
            at,
            method,
            path: path.to_owned(),
            event_type: type_of(&body),
            id,
            attempt,
            is_duplicate,
            signature,
            answer,
            is_failed_on_purpose,
            body,
        }
    }
}

/// A number from 0 to just below 1, of the 53 bits that a `f64` holds.
fn share(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

fn type_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        event_type: String,
    }
    serde_json::from_slice::<Typed>(body).ok().map(|it| it.event_type)
}

/// What became of each id.
#[derive(Default)]
struct Ledger {
    seen: HashMap<String, SeenIds>,
    order: VecDeque<String>,
}

#[derive(Clone, Copy, Default)]
struct SeenIds {
    attempts: u32,
    is_accepted: bool,
}

impl Ledger {
    /// Which attempt this is, and whether one before was accepted.
    fn note(&mut self, id: &str, is_accepted: bool) -> (u32, bool) {
        if !self.seen.contains_key(id) {
            if self.order.len() == IDS
                && let Some(oldest) = self.order.pop_front()
            {
                self.seen.remove(&oldest);
            }
            self.order.push_back(id.to_owned());
        }
        let seen = self.seen.entry(id.to_owned()).or_default();
        let is_duplicate = seen.is_accepted;
        seen.attempts = seen.attempts.saturating_add(1);
        seen.is_accepted |= is_accepted;
        (seen.attempts, is_duplicate)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use http_body_util::Full;

    use super::*;
    use crate::{
        cli::{
            client::http_client,
            schemes::{SignScheme, Signer},
        },
        clock::ManualClock,
        crypto::SeededRandom,
        model::Secret,
    };

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &[u8] = br#"{"type":"user.signed_up","data":{}}"#;

    /// A sink on a port of its own, and what it receives.
    async fn start(options: Options) -> (String, mpsc::Receiver<Received>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let (sender, receiver) = mpsc::channel();
        let report = move |received: &Received| sender.send(received.clone()).unwrap();
        tokio::spawn(serve(listener, options, report, std::future::pending()));
        (url, receiver)
    }

    async fn post(url: &str, secret: &str, id: &str, seconds: i64) -> StatusCode {
        let signer = Signer::new(SignScheme::Standard, &[Secret::new(secret)], None).unwrap();
        let mut request = Request::post(url);
        for (name, value) in signer.headers(id, seconds, BODY) {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from_static(BODY))).unwrap();
        http_client().request(request).await.unwrap().status()
    }

    fn verifier() -> Option<Verifier> {
        Some(Verifier::new(SignScheme::Standard, &[Secret::new(SECRET)], None).unwrap())
    }

    #[tokio::test]
    async fn a_signed_webhook_is_verified_and_its_second_coming_is_a_duplicate() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_second(1_800_000_000).unwrap()));
        let (url, received) =
            start(Options { verifier: verifier(), clock, ..Options::default() }).await;
        for (attempt, is_duplicate) in [(1, false), (2, true)] {
            assert_eq!(post(&url, SECRET, "evt_1", 1_800_000_000).await, 200);
            let it = received.recv().unwrap();
            assert_eq!(
                (it.attempt, it.is_duplicate, it.signature),
                (attempt, is_duplicate, Judgement::Verified)
            );
            assert_eq!(
                (it.event_type.as_deref(), it.id.as_deref()),
                (Some("user.signed_up"), Some("evt_1"))
            );
            assert_eq!((it.path.as_str(), &it.body[..]), ("/hooks", BODY));
        }
    }

    #[tokio::test]
    async fn a_bad_signature_is_refused_with_its_reason_and_is_no_acceptance() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_second(1_800_000_000).unwrap()));
        let (url, received) =
            start(Options { verifier: verifier(), clock, ..Options::default() }).await;
        for (secret, seconds, reason) in [
            ("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 1_800_000_000, VerifyError::Mismatch),
            (SECRET, 1_799_990_000, VerifyError::TooOld),
        ] {
            assert_eq!(post(&url, secret, "evt_1", seconds).await, 401);
            let it = received.recv().unwrap();
            assert_eq!((it.signature, it.is_duplicate), (Judgement::Refused(reason), false));
        }
        assert_eq!(post(&url, SECRET, "evt_1", 1_800_000_000).await, 200);
        assert_eq!(received.recv().unwrap().attempt, 3);
    }

    #[tokio::test]
    async fn the_share_that_is_to_fail_fails() {
        let random = Arc::new(SeededRandom::new(7));
        let (url, received) =
            start(Options { fail_rate: 0.25, random, ..Options::default() }).await;
        let mut failed = 0;
        for number in 0..200 {
            let status = post(&url, SECRET, &format!("evt_{number}"), 1).await;
            assert_eq!(received.recv().unwrap().is_failed_on_purpose, status == 503);
            failed += u32::from(status == 503);
        }
        assert!((30..70).contains(&failed), "{failed} of 200");
    }

    #[test]
    fn the_ledger_forgets_the_oldest_first() {
        let mut ledger = Ledger::default();
        for number in 0..=IDS {
            ledger.note(&number.to_string(), true);
        }
        assert_eq!((ledger.seen.len(), ledger.order.len()), (IDS, IDS));
        assert_eq!((ledger.note("1", true), ledger.note("0", true)), ((2, true), (1, false)));
    }
}
