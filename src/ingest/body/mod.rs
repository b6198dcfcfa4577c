//! Request bodies: read, inflated, and never larger than they may be.

use std::{
    io::{self, Write},
    time::Duration,
};

use axum::{
    body::HttpBody,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use flate2::write::GzDecoder;
use http_body_util::BodyExt as _;

use super::body_budget::{Lease, Pass};
use crate::problem::{Kind, Problem};

/// A body may inflate to this many times its size, and always to [`FREE_BYTES`].
const RATIO: usize = 100;
const FREE_BYTES: usize = 64 * 1024;

/// A body as it comes from a connection.
pub trait Incoming: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin + Send {}
impl<B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin + Send> Incoming for B {}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Reads a body whole, inflated if it says so, into memory of its own: a slice of the connection's
/// buffer would keep eight kilobytes for each small event that waits. `limit` counts what comes out.
pub async fn read<B: Incoming>(
    body: B,
    headers: &HeaderMap,
    limit: usize,
    pass: Pass<'_>,
) -> Result<(Bytes, Lease), Problem> {
    read_on(None, body, headers, limit, pass).await
}

/// The same for who looks into the body and drops it before waiting for anything: one that comes in one
/// piece is not copied.
pub async fn lend<B: Incoming>(
    mut body: B,
    headers: &HeaderMap,
    limit: usize,
    pass: Pass<'_>,
) -> Result<(Bytes, Lease), Problem> {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return read(body, headers, limit, pass).await;
    }
    let mut lease = pass.lease();
    let Some(frame) = body.frame().await else { return Ok((Bytes::new(), lease)) };
    let first = frame.map_err(|error| broken(error.into().as_ref()))?.into_data().ok();
    match first {
        Some(whole) if body.is_end_stream() && whole.len() <= limit && lease.grow(whole.len()) => {
            Ok((whole, lease))
        }
        first => read_on(first, body, headers, limit, pass).await,
    }
}

/// `first` is what came of it already.
async fn read_on<B: Incoming>(
    mut first: Option<Bytes>,
    mut body: B,
    headers: &HeaderMap,
    limit: usize,
    pass: Pass<'_>,
) -> Result<(Bytes, Lease), Problem> {
    let mut decoder = Decoder::new(headers, Sink::new(headers, limit, pass.lease()))?;
    let mut compressed = 0;
    loop {
        let data = match first.take() {
            Some(data) => data,
            None => {
                let Some(frame) = body.frame().await else { break };
                let frame = frame.map_err(|error| broken(error.into().as_ref()))?;
                let Ok(data) = frame.into_data() else { continue };
                data
            }
        };
        compressed += data.len();
        if let Err(problem) = decoder.write(&data, compressed) {
            discard(body).await;
            return Err(problem);
        }
    }
    let sink = decoder.finish()?;
    Ok((sink.bytes.into(), sink.lease))
}

/// Reads on for a while after a refusal: a client that is still writing when the connection closes
/// would see a broken pipe instead of the answer.
async fn discard<B: Incoming>(mut body: B) {
    const AT_MOST: usize = 16 * 1024 * 1024;
    let mut discarded = 0;
    while discarded < AT_MOST {
        match body.frame().await {
            Some(Ok(frame)) => discarded += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) | None => return,
        }
    }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind == Some(io::ErrorKind::TimedOut) {
            return Problem::new(Kind::BodyTimeout).detail(
                "a body comes within 30 s and at 1 KiB/s at least, unless configured otherwise",
            );
        }
        cause = error.source();
    }
    Problem::new(Kind::InvalidBody).detail("the connection closed before the whole body arrived")
}

enum Decoder {
    Plain(Sink),
    Gzip(Box<Members>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Sink>>),
}

impl Decoder {
    fn new(headers: &HeaderMap, sink: Sink) -> Result<Self, Problem> {
        /// 8 MiB, which is the most that a decoder has to support (RFC 8878 §3.1.1.1.2).
        const WINDOW_LOG: u32 = 23;
        let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
        let encoding = encodings.next().map_or(b"identity".as_slice(), |it| it.as_bytes());
        let is = |name: &str| encoding.eq_ignore_ascii_case(name.as_bytes());
        let unsupported = || {
            Problem::new(Kind::UnsupportedEncoding)
                .detail("a body comes as it is, or as one layer of `gzip` or `zstd`")
        };
        if encodings.next().is_some() {
            Err(unsupported())
        } else if is("identity") || encoding.is_empty() {
            Ok(Self::Plain(sink))
        } else if is("gzip") || is("x-gzip") {
            Ok(Self::Gzip(Box::new(Members::new(sink))))
        } else if is("zstd") {
            let mut decoder = zstd::stream::write::Decoder::new(sink).map_err(|_| damaged())?;
            decoder.window_log_max(WINDOW_LOG).map_err(|_| damaged())?;
            Ok(Self::Zstd(Box::new(decoder)))
        } else {
            Err(unsupported())
        }
    }

    /// `compressed` is how much of the body has come so far, these bytes included.
    fn write(&mut self, bytes: &[u8], compressed: usize) -> Result<(), Problem> {
        let written = match self {
            Self::Plain(sink) => sink.write_all(bytes),
            Self::Gzip(members) => {
                members.current.get_mut().allow(compressed);
                members.write(bytes)
            }
            Self::Zstd(decoder) => {
                decoder.get_mut().allow(compressed);
                decoder.write_all(bytes)
            }
        };
        written.map_err(|_| self.sink().failure())
    }

    fn finish(self) -> Result<Sink, Problem> {
        match self {
            Self::Plain(sink) => Ok(sink),
            Self::Gzip(members) => {
                let mut decoder = members.current;
                let finished = decoder.try_finish();
                finished.map_err(|_| decoder.get_ref().failure())?;
                // Everything was written out, so taking the sink cannot write more.
                decoder.finish().map_err(|_| damaged())
            }
            Self::Zstd(mut decoder) => {
                let flushed = decoder.flush();
                flushed.map_err(|_| decoder.get_ref().failure())?;
                Ok(decoder.into_inner())
            }
        }
    }

    fn sink(&self) -> &Sink {
        match self {
            Self::Plain(sink) => sink,
            Self::Gzip(members) => members.current.get_ref(),
            Self::Zstd(decoder) => decoder.get_ref(),
        }
    }
}

/// The members of a gzip stream, which may be concatenated (RFC 1952 §2.2). Each costs the setting up of a
/// decoder, also when it is empty, so there may not be many.
struct Members {
    current: GzDecoder<Sink>,
    number: usize,
}

impl Members {
    /// Programs that write blocks of 64 KiB make 80 of the largest body.
    const AT_MOST: usize = 256;

    fn new(sink: Sink) -> Self {
        Self { current: GzDecoder::new(sink), number: 1 }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.current.write(bytes) {
                // The member has ended, and another one begins here.
                Ok(0) => self.next()?,
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn next(&mut self) -> io::Result<()> {
        self.number += 1;
        if self.number > Self::AT_MOST {
            self.current.get_mut().failure = Some(BodyFailure::Members);
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.current.try_finish()?;
        let sink = self.current.get_mut().taken();
        self.current = GzDecoder::new(sink);
        Ok(())
    }
}

/// Where a body is collected. It refuses the byte too many before it takes memory for it.
struct Sink {
    bytes: Vec<u8>,
    limit: usize,
    /// What the bytes that came so far may inflate to.
    allowed: usize,
    lease: Lease,
    failure: Option<BodyFailure>,
}

#[derive(Clone, Copy)]
enum BodyFailure {
    TooLarge,
    Ratio,
    NoRoom,
    Members,
}

impl Sink {
    fn new(headers: &HeaderMap, limit: usize, lease: Lease) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok());
        let length: usize = length.and_then(|it| it.parse().ok()).unwrap_or(0);
        let bytes = Vec::with_capacity(length.min(limit).min(FREE_BYTES));
        Self { bytes, limit, allowed: usize::MAX, lease, failure: None }
    }

    /// What was collected so far, and an empty one in its place.
    fn taken(&mut self) -> Self {
        let rest = Self {
            bytes: Vec::new(),
            limit: self.limit,
            allowed: self.allowed,
            lease: self.lease.none(),
            failure: None,
        };
        std::mem::replace(self, rest)
    }

    fn allow(&mut self, compressed: usize) {
        self.allowed = FREE_BYTES.max(compressed * RATIO);
    }

    fn failure(&self) -> Problem {
        match self.failure {
            Some(BodyFailure::TooLarge) => {
                let detail = format!("a body has at most {} bytes here, inflated", self.limit);
                Problem::new(Kind::BodyTooLarge).detail(detail)
            }
            Some(BodyFailure::Ratio) => Problem::new(Kind::BodyTooLarge)
                .detail("a body may inflate to at most 100 times its size"),
            Some(BodyFailure::Members) => {
                Problem::new(Kind::BodyTooLarge).detail("a body in gzip has at most 256 members")
            }
            Some(BodyFailure::NoRoom) => Problem::new(Kind::Overloaded)
                .retry_after(Duration::from_secs(1))
                .detail("too many bodies are being read; nothing of the request was kept"),
            None => damaged(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.bytes.len() + bytes.len();
        self.failure = if length > self.limit {
            Some(BodyFailure::TooLarge)
        } else if length > self.allowed {
            Some(BodyFailure::Ratio)
        } else if !self.lease.grow(bytes.len()) {
            Some(BodyFailure::NoRoom)
        } else {
            None
        };
        if self.failure.is_some() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn damaged() -> Problem {
    Problem::new(Kind::InvalidBody).detail("the body does not inflate: it is damaged or cut off")
}

#[cfg(test)]
mod tests;
