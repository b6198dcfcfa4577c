//! Request bodies: read, inflated, and never larger than they may be.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::HttpBody,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt as _;

use crate::problem::{Kind, Problem};

/// A body may inflate to this many times its size, and always to [`FREE_BYTES`].
const RATIO: usize = 100;
const FREE_BYTES: usize = 64 * 1024;

/// The bytes that all bodies together may take while they are read and parsed.
#[derive(Clone)]
pub struct Room {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

/// The part of a [`Room`] that one body takes.
pub struct Lease {
    room: Room,
    bytes: usize,
}

impl Room {
    pub fn new(limit: usize) -> Self {
        Self { taken: Arc::default(), limit }
    }

    fn lease(&self) -> Lease {
        Lease { room: self.clone(), bytes: 0 }
    }
}

impl Lease {
    fn grow(&mut self, by: usize) -> bool {
        let before = self.room.taken.fetch_add(by, Ordering::Relaxed);
        if before + by > self.room.limit {
            self.room.taken.fetch_sub(by, Ordering::Relaxed);
            return false;
        }
        self.bytes += by;
        true
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

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
    room: &Room,
) -> Result<(Bytes, Lease), Problem> {
    read_on(None, body, headers, limit, room).await
}

/// The same for who looks into the body and drops it before waiting for anything: one that comes in one
/// piece is not copied.
pub async fn lend<B: Incoming>(
    mut body: B,
    headers: &HeaderMap,
    limit: usize,
    room: &Room,
) -> Result<(Bytes, Lease), Problem> {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return read(body, headers, limit, room).await;
    }
    let mut lease = room.lease();
    let Some(frame) = body.frame().await else { return Ok((Bytes::new(), lease)) };
    let first = frame.map_err(|error| broken(error.into().as_ref()))?.into_data().ok();
    match first {
        Some(whole) if body.is_end_stream() && whole.len() <= limit && lease.grow(whole.len()) => {
            Ok((whole, lease))
        }
        first => read_on(first, body, headers, limit, room).await,
    }
}

/// `first` is what came of it already.
async fn read_on<B: Incoming>(
    mut first: Option<Bytes>,
    mut body: B,
    headers: &HeaderMap,
    limit: usize,
    room: &Room,
) -> Result<(Bytes, Lease), Problem> {
    let mut decoder = Decoder::new(headers, Sink::new(headers, limit, room.lease()))?;
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
    Problem::new(Kind::InvalidBody).detail("the body ended before its end")
}

enum Decoder {
    Plain(Sink),
    Gzip(Box<MultiGzDecoder<Sink>>),
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
            Ok(Self::Gzip(Box::new(MultiGzDecoder::new(sink))))
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
            Self::Gzip(decoder) => {
                decoder.get_mut().allow(compressed);
                decoder.write_all(bytes)
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
            Self::Gzip(mut decoder) => {
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
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Zstd(decoder) => decoder.get_ref(),
        }
    }
}

/// Where a body is collected. It refuses the byte too many before it takes memory for it.
struct Sink {
    bytes: Vec<u8>,
    limit: usize,
    /// What the bytes that came so far may inflate to.
    allowed: usize,
    lease: Lease,
    failure: Option<Failure>,
}

#[derive(Clone, Copy)]
enum Failure {
    TooLarge,
    Ratio,
    NoRoom,
}

impl Sink {
    fn new(headers: &HeaderMap, limit: usize, lease: Lease) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok());
        let length: usize = length.and_then(|it| it.parse().ok()).unwrap_or(0);
        let bytes = Vec::with_capacity(length.min(limit).min(FREE_BYTES));
        Self { bytes, limit, allowed: usize::MAX, lease, failure: None }
    }

    fn allow(&mut self, compressed: usize) {
        self.allowed = FREE_BYTES.max(compressed * RATIO);
    }

    fn failure(&self) -> Problem {
        match self.failure {
            Some(Failure::TooLarge) => {
                let detail = format!("a body has at most {} bytes here, inflated", self.limit);
                Problem::new(Kind::BodyTooLarge).detail(detail)
            }
            Some(Failure::Ratio) => Problem::new(Kind::BodyTooLarge)
                .detail("a body may inflate to at most 100 times its size"),
            Some(Failure::NoRoom) => Problem::new(Kind::Overloaded)
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
            Some(Failure::TooLarge)
        } else if length > self.allowed {
            Some(Failure::Ratio)
        } else if !self.lease.grow(bytes.len()) {
            Some(Failure::NoRoom)
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
mod tests {
    use axum::{body::Body, http::HeaderValue};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 3).unwrap()
    }

    async fn read_as(
        encoding: &'static str,
        body: Vec<u8>,
        limit: usize,
        room: &Room,
    ) -> Result<Bytes, Kind> {
        let encoding = (header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        let headers = [encoding].into_iter().collect();
        let read = read(Body::from(body), &headers, limit, room).await;
        read.map(|it| it.0).map_err(|problem| problem.kind())
    }

    /// Text that does not compress by much.
    fn dense(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'a' + (state >> 24) as u8 % 26
        };
        (0..length).map(|_| next()).collect()
    }

    #[tokio::test]
    async fn every_encoding_gives_what_went_in_and_the_limit_counts_what_comes_out() {
        let room = Room::new(usize::MAX >> 1);
        let text = dense(100_000);
        for (encoding, body) in
            [("identity", text.clone()), ("gzip", gzip(&text)), ("ZSTD", zstd(&text))]
        {
            let whole = read_as(encoding, body.clone(), text.len(), &room).await;
            assert_eq!(whole.as_deref(), Ok(&text[..]), "{encoding}");
            let over = read_as(encoding, body, text.len() - 1, &room).await;
            assert_eq!(over, Err(Kind::BodyTooLarge), "{encoding}");
        }
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_bomb_is_refused_before_it_fills_the_memory() {
        let room = Room::new(usize::MAX >> 1);
        let bomb = vec![b' '; 4 * 1024 * 1024];
        for (encoding, body) in [("gzip", gzip(&bomb)), ("zstd", zstd(&bomb))] {
            assert!(body.len() < bomb.len() / 100);
            let read = read_as(encoding, body, 5 * 1024 * 1024, &room).await;
            assert_eq!(read, Err(Kind::BodyTooLarge), "{encoding}");
        }
    }

    #[tokio::test]
    async fn damaged_and_doubly_encoded_bodies_are_refused() {
        let room = Room::new(usize::MAX >> 1);
        let text = dense(10_000);
        let whole = gzip(&text);
        let cut = whole[..whole.len() - 4].to_vec();
        for (encoding, body, expected) in [
            ("gzip", cut, Kind::InvalidBody),
            ("gzip", text.clone(), Kind::InvalidBody),
            ("zstd", text.clone(), Kind::InvalidBody),
            ("gzip, gzip", gzip(&whole), Kind::UnsupportedEncoding),
            ("br", text.clone(), Kind::UnsupportedEncoding),
        ] {
            assert_eq!(read_as(encoding, body, 20_000, &room).await, Err(expected), "{encoding}");
        }
    }

    #[tokio::test]
    async fn a_lent_body_is_not_copied_and_has_the_same_limits() {
        let (room, headers) = (Room::new(1000), HeaderMap::new());
        let body = Bytes::from(vec![b'x'; 600]);
        let lent = lend(Body::from(body.clone()), &headers, 600, &room).await.unwrap();
        assert_eq!((lent.0.as_ptr(), lent.0.len()), (body.as_ptr(), 600));
        let kind = |it: Result<(Bytes, Lease), Problem>| it.err().map(|it| it.kind());
        let second = lend(Body::from(body.clone()), &headers, 600, &room).await;
        assert_eq!(kind(second), Some(Kind::Overloaded));
        drop(lent);
        let over = lend(Body::from(body.clone()), &headers, 599, &room).await;
        assert_eq!(kind(over), Some(Kind::BodyTooLarge));
        assert!(lend(Body::empty(), &headers, 0, &room).await.unwrap().0.is_empty());
        let pieces = [Ok::<_, io::Error>(body.slice(..300)), Ok(body.slice(300..))];
        let pieces = Body::from_stream(futures_util::stream::iter(pieces));
        let gathered = lend(pieces, &headers, 600, &room).await.unwrap();
        assert_eq!(gathered.0, body);
        drop(gathered);
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn all_bodies_share_the_room_and_give_it_back() {
        let room = Room::new(1000);
        let headers = HeaderMap::new();
        let first = read(Body::from(vec![b'x'; 900]), &headers, 1000, &room).await.unwrap();
        let second = read(Body::from(vec![b'x'; 900]), &headers, 1000, &room).await;
        assert_eq!(second.err().map(|it| it.kind()), Some(Kind::Overloaded));
        drop(first);
        assert!(read(Body::from(vec![b'x'; 900]), &headers, 1000, &room).await.is_ok());
    }
}
