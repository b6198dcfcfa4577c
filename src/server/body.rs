//! Bodies on their way in, with a pace to keep, and on their way out, which tell when they end.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::{
    Options,
    connection::{Busy, Timer},
};

/// A body that is there as a whole, or one of the router's.
pub type AnswerBody = Either<Full<Bytes>, Body>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body, which fails with [`io::ErrorKind::TimedOut`] when it comes too slowly.
pub struct PacedBody {
    body: Incoming,
    received: u64,
    /// When its first bytes were waited for; most bodies come with their header.
    begun: Option<Instant>,
    whole: Duration,
    bytes_per_second: u32,
    timer: Timer,
}

impl PacedBody {
    pub fn new(body: Incoming, options: &Options) -> Self {
        Self {
            body,
            received: 0,
            begun: None,
            whole: options.body_timeout,
            bytes_per_second: options.body_bytes_per_second.max(1),
            timer: Timer::default(),
        }
    }

    /// When the next bytes are due: later, the more came before.
    fn deadline(&mut self) -> Instant {
        /// The network may stumble this long without being slow.
        const GRACE: Duration = Duration::from_secs(5);
        let earned = Duration::from_secs(self.received / u64::from(self.bytes_per_second));
        let begun = *self.begun.get_or_insert_with(Instant::now);
        begun + self.whole.min(GRACE + earned)
    }
}

impl HttpBody for PacedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.received += frame.data_ref().map_or(0, |it| it.len() as u64);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let deadline = this.deadline();
                ready!(this.timer.poll(context, deadline));
                Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body. When it is gone, the connection is idle again.
pub struct ReportingBody {
    body: AnswerBody,
    _busy: Busy,
}

impl ReportingBody {
    pub fn new(body: AnswerBody, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl HttpBody for ReportingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
