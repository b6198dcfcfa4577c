//! A socket, plain or under TLS, that can be asked whether it still lives, and that reads only so much.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What the owner of a connection sets, while the stream itself is inside the HTTP machinery.
#[derive(Debug, Default)]
pub(super) struct Controls {
    /// Bytes that may still be read. At zero, reading fails.
    budget: AtomicUsize,
    /// When set, a read that finds nothing asks the system as well, whose answer is newer than what
    /// the runtime has heard of.
    probing: AtomicBool,
    /// The beginning of what was read, for when no answer can be made of it.
    seen: Mutex<Vec<u8>>,
}

/// Bytes of an answer that are kept: its status, behind some informational ones.
const SEEN: usize = 2 * 1024;

impl Controls {
    pub fn allow(&self, bytes: usize) {
        self.budget.store(bytes, Relaxed);
        self.seen().clear();
    }

    /// The beginning of what was read since [`Self::allow`].
    pub fn seen(&self) -> MutexGuard<'_, Vec<u8>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_spent(&self) -> bool {
        self.budget.load(Relaxed) == 0
    }

    pub fn probe(&self, on: bool) {
        self.probing.store(on, Relaxed);
    }
}

pub(super) struct Controlled {
    stream: Stream,
    controls: Arc<Controls>,
}

impl Controlled {
    pub fn new(stream: Stream) -> (Self, Arc<Controls>) {
        let controls = Arc::new(Controls::default());
        (Self { stream, controls: controls.clone() }, controls)
    }

    /// Whether the system holds an end of stream, an error, or bytes that nobody asked for.
    fn is_disturbed(&self) -> bool {
        let socket = match &self.stream {
            Stream::Plain(it) => it,
            Stream::Tls(it) => it.get_ref().0,
        };
        match SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]) {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

impl AsyncRead for Controlled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let budget = self.controls.budget.load(Relaxed);
        if budget == 0 {
            return Poll::Ready(Err(io::Error::other("more came than an answer may have")));
        }
        let before = buffer.filled().len();
        let polled = match &mut self.stream {
            Stream::Plain(it) => Pin::new(it).poll_read(cx, buffer),
            Stream::Tls(it) => Pin::new(it).poll_read(cx, buffer),
        };
        if polled.is_pending() && self.controls.probing.load(Relaxed) && self.is_disturbed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let read = buffer.filled().len() - before;
        if read > 0 {
            let mut seen = self.controls.seen();
            let rest = SEEN.saturating_sub(seen.len()).min(read);
            seen.extend_from_slice(&buffer.filled()[before..before + rest]);
        }
        self.controls.budget.store(budget.saturating_sub(read), Relaxed);
        polled
    }
}

impl AsyncWrite for Controlled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(it) => Pin::new(it).poll_write(cx, bytes),
            Stream::Tls(it) => Pin::new(it).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(it) => Pin::new(it).poll_write_vectored(cx, slices),
            Stream::Tls(it) => Pin::new(it).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(it) => it.is_write_vectored(),
            Stream::Tls(it) => it.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(it) => Pin::new(it).poll_flush(cx),
            Stream::Tls(it) => Pin::new(it).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(it) => Pin::new(it).poll_shutdown(cx),
            Stream::Tls(it) => Pin::new(it).poll_shutdown(cx),
        }
    }
}
