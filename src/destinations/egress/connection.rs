//! One HTTP/1.1 connection, driven by the task that uses it.
//!
//! The HTTP machinery of hyper comes in two halves, a handle and a future that moves the bytes.
//! Usually the future is a task of its own, and each request and answer hops between two tasks.
//! Here the attempt polls it itself: no hops, and when the attempt is dropped at its deadline, the
//! socket closes in that moment.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::{
    EgressFailure, EndpointAnswer, Phase,
    stream::{Controlled, Controls, Stream},
};

/// Bytes of an answer's headers.
const HEAD_LIMIT: usize = 64 * 1024;
/// Bytes of an answer's body that are read; at this length the connection is closed.
pub(super) const BODY_LIMIT: usize = 64 * 1024;
/// Bytes that one answer may have with everything around it: informational answers before it,
/// chunk headers, TLS. What sends more is not going to send an answer.
const READ_LIMIT: usize = HEAD_LIMIT + 3 * BODY_LIMIT;
/// After this long a connection is not used again, so that a change in DNS is noticed.
const OLDEST: Duration = Duration::from_secs(5 * 60);

/// So soon after an answer a connection that was kept before is taken for alive.
const A_MOMENT: Duration = Duration::from_millis(2);
/// Exchanges after which the other side is known to keep the connection.
const KEPT_FOR: u32 = 2;

pub(super) struct Connection {
    handle: http1::SendRequest<Full<Bytes>>,
    /// `None` when it has ended. A request that it had not begun comes back when it is dropped.
    driver: Option<Driver>,
    controls: Arc<Controls>,
    born: Instant,
    /// Exchanges that ended well.
    exchanges: u32,
    /// When the last of them ended.
    used: Instant,
    /// Not to be used from this moment on.
    expires: Instant,
}

type Driver = http1::Connection<TokioIo<Controlled>, Full<Bytes>>;

/// What came of a request on a connection.
pub(super) enum Exchanged {
    /// `bool`: the connection can be used again.
    Answered(EndpointAnswer, bool),
    /// The connection was closed before a byte of the request was written: here it is.
    Unsent(Request<Full<Bytes>>),
    Failed(EgressFailure),
}

impl Connection {
    pub async fn new(stream: Stream, idle_for: Duration) -> Result<Self, EgressFailure> {
        let (stream, controls) = Controlled::new(stream);
        // At most 100 headers, which is hyper's default and the reason not to set it: set, it
        // would be on the heap.
        let (handle, driver) = http1::Builder::new()
            .max_buf_size(HEAD_LIMIT)
            .ignore_invalid_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| EgressFailure::Broken(describe(&error)))?;
        let now = Instant::now();
        Ok(Self {
            handle,
            driver: Some(driver),
            controls,
            born: now,
            exchanges: 0,
            used: now,
            expires: now + idle_for,
        })
    }

    /// Whether a request can be sent: not expired, and the other side has not closed it, as far as
    /// this machine has heard. A close that is still on its way cannot be seen.
    ///
    /// Where it was used a moment ago nobody is asked: who closes without a word does so behind an
    /// answer, and was seen not to, or after a time without requests. What the runtime knows by now is
    /// still seen before anything is sent.
    pub fn is_alive(&mut self, now: Instant) -> bool {
        if now >= self.expires {
            return false;
        }
        if self.exchanges >= KEPT_FOR && now < self.used + A_MOMENT {
            return self.is_ready();
        }
        self.controls.allow(1);
        self.controls.probe(true);
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        self.controls.probe(false);
        self.is_ready()
    }

    pub async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
        idle_for: Duration,
        keep: usize,
    ) -> Exchanged {
        self.controls.allow(READ_LIMIT);
        let response = match timeout_at(deadline, self.head(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(Exchanged::Failed(why @ (MALFORMED | TOO_LARGE)))) => {
                return self.by_its_status(why);
            }
            Ok(Err(failed)) => return failed,
            Err(_) => return Exchanged::Failed(EgressFailure::Timeout(Phase::Answer)),
        };
        let (head, mut body) = response.into_parts();
        let mut kept = Vec::new();
        let (is_late, is_whole) = if body.is_end_stream() {
            (false, true)
        } else {
            let read = timeout_at(deadline, self.body(&mut body, &mut kept, keep)).await;
            (read.is_err(), read.unwrap_or(false))
        };
        drop(body);
        let answer = EndpointAnswer {
            status: head.status,
            headers: head.headers,
            body: kept.into(),
            is_late,
        };
        let now = Instant::now();
        self.expires = now + promised(&answer.headers).map_or(idle_for, |it| it.min(idle_for));
        (self.used, self.exchanges) = (now, self.exchanges.saturating_add(1));
        let is_reusable = is_whole && self.is_idle() && now < self.born + OLDEST;
        Exchanged::Answered(answer, is_reusable)
    }

    /// What stands behind a status cannot take it back: an answer of which only the status can be read is
    /// that status, on a connection that is not used again.
    fn by_its_status(&self, why: EgressFailure) -> Exchanged {
        let seen = self.controls.seen();
        match status_of(&seen) {
            Some(status) => {
                let (headers, body) = (HeaderMap::new(), Bytes::new());
                Exchanged::Answered(EndpointAnswer { status, headers, body, is_late: false }, false)
            }
            None => Exchanged::Failed(why),
        }
    }

    async fn head(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Exchanged> {
        let mut answer = pin!(self.handle.try_send_request(request));
        let driver = &mut self.driver;
        let answered = poll_fn(|cx| {
            drive(driver, cx);
            answer.as_mut().poll(cx)
        });
        match answered.await {
            Ok(response) => Ok(response),
            Err(mut refused) => match refused.take_message() {
                Some(request) => Err(Exchanged::Unsent(request)),
                None if self.controls.is_spent() => Err(Exchanged::Failed(TOO_MUCH)),
                None if refused.error().is_parse_too_large() => Err(Exchanged::Failed(TOO_LARGE)),
                None if refused.error().is_parse() => Err(Exchanged::Failed(MALFORMED)),
                None => Err(Exchanged::Failed(EgressFailure::Broken(describe(refused.error())))),
            },
        }
    }

    /// Reads the body up to its limit and keeps its beginning. Whether it ended well.
    async fn body(&mut self, body: &mut Incoming, kept: &mut Vec<u8>, keep: usize) -> bool {
        let mut length = 0;
        while !body.is_end_stream() {
            let frame = poll_fn(|cx| {
                drive(&mut self.driver, cx);
                Pin::new(&mut *body).poll_frame(cx)
            });
            let data = match frame.await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            kept.extend_from_slice(&data[..data.len().min(keep - kept.len())]);
            length += data.len();
            if length >= BODY_LIMIT {
                return false;
            }
        }
        true
    }

    /// Moves the connection from the end of one exchange to the start of the next, without waiting:
    /// where bytes of the request are still unsent, or the other side closes, it is not idle.
    fn is_idle(&mut self) -> bool {
        // Most often it is there already. Whether it stays there is seen when it is used again.
        if !self.is_ready() {
            drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        }
        self.is_ready()
    }

    fn is_ready(&self) -> bool {
        self.driver.is_some() && self.handle.is_ready()
    }
}

fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(it) = driver
        && Pin::new(it).poll(cx).is_ready()
    {
        *driver = None;
    }
}

const MALFORMED: EgressFailure = EgressFailure::Broken("what came back is not HTTP/1.1");
const TOO_LARGE: EgressFailure = EgressFailure::Broken("the answer's headers are too large");
const TOO_MUCH: EgressFailure =
    EgressFailure::Broken("the endpoint sent more than an answer may have");

/// The status of an answer that begins so, behind informational ones.
fn status_of(mut seen: &[u8]) -> Option<StatusCode> {
    const END: &[u8] = b"\r\n\r\n";
    loop {
        let rest = seen.strip_prefix(b"HTTP/1.1 ").or_else(|| seen.strip_prefix(b"HTTP/1.0 "))?;
        let (status, behind) = rest.split_at_checked(3)?;
        if !matches!(behind.first(), Some(b' ' | b'\r' | b'\n')) {
            return None;
        }
        let status = StatusCode::from_bytes(status).ok()?;
        if !status.is_informational() {
            return Some(status);
        }
        let end = seen.windows(END.len()).position(|it| it == END)?;
        seen = &seen[end + END.len()..];
    }
}

/// How long the other side says it keeps an idle connection, less what a request needs to get there.
fn promised(headers: &HeaderMap) -> Option<Duration> {
    const MARGIN: Duration = Duration::from_secs(1);
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    let text = headers.get(&KEEP_ALIVE)?.to_str().ok()?;
    let seconds = text.split(',').find_map(|it| it.trim().strip_prefix("timeout="))?;
    Some(Duration::from_secs(seconds.parse().ok()?).saturating_sub(MARGIN))
}

fn describe(error: &hyper::Error) -> &'static str {
    if error.is_incomplete_message() {
        "the connection closed before the answer was complete"
    } else if error.is_user() {
        // It ended and was dropped with the request.
        "the connection closed"
    } else {
        "the connection broke"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_where_nothing_else_can_be() {
        for (seen, status) in [
            ("HTTP/1.1 200 OK\r\nX", Some(200)),
            ("HTTP/1.0 204\r\n", Some(204)),
            ("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.1 103 Early Hints\r\nlink: x\r\n", None),
            ("HTTP/1.1 20", None),
            ("HTTP/1.1 2000 OK\r\n", None),
            ("HTTP/2 200\r\n", None),
            ("SSH-2.0-OpenSSH", None),
            ("", None),
        ] {
            assert_eq!(status_of(seen.as_bytes()).map(|it| it.as_u16()), status, "{seen:?}");
        }
    }
}
