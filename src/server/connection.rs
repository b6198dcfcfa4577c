//! A connection's stream, which ends by itself when the client is too slow.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::Options;

const IDLE: u8 = 0;
const HEADER: u8 = 1;
const REQUEST: u8 = 2;

/// What the connection does at the moment. The stream sees bytes, the service sees requests; both
/// must speak to know whether a timer runs and which.
#[derive(Clone)]
pub struct Phase(Arc<Shared>);

struct Shared {
    phase: AtomicU8,
    /// Since when the client has been waited for in this phase, in milliseconds of [`now`].
    since: AtomicU64,
    /// Somebody else needs the place.
    must_go: AtomicBool,
    task: AtomicWaker,
}

/// Milliseconds since this was first asked.
fn now() -> u64 {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGUN.elapsed().as_millis() as u64
}

/// While it lives, a request is being answered.
pub struct Busy(Phase);

impl Phase {
    /// A new connection owes us a header at once.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            phase: AtomicU8::new(HEADER),
            since: AtomicU64::new(now()),
            must_go: AtomicBool::new(false),
            task: AtomicWaker::new(),
        }))
    }

    /// How long the client has been waited for. `None`: it is being answered.
    pub fn waits(&self) -> Option<Duration> {
        let waited = now().saturating_sub(self.0.since.load(Ordering::Relaxed));
        (self.get() != REQUEST).then(|| Duration::from_millis(waited))
    }

    /// Ends the connection, unless a request comes sooner.
    pub fn let_go(&self) {
        self.0.must_go.store(true, Ordering::Release);
        self.0.task.wake();
    }

    /// Whether the connection should end now. The task is woken when that changes.
    pub fn must_go(&self, context: &Context<'_>) -> bool {
        self.0.task.register(context.waker());
        self.is_let_go()
    }

    pub fn is_let_go(&self) -> bool {
        self.0.must_go.load(Ordering::Acquire) && self.get() != REQUEST
    }

    pub fn begin_request(&self) -> Busy {
        self.set(REQUEST);
        Busy(self.clone())
    }

    // One task drives a connection, stream and service alike, so there is nothing to order.
    fn get(&self) -> u8 {
        self.0.phase.load(Ordering::Relaxed)
    }

    fn set(&self, phase: u8) {
        self.0.phase.store(phase, Ordering::Relaxed);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // The answer may still be on its way out.
        self.0.0.since.store(now(), Ordering::Relaxed);
        self.0.set(IDLE);
    }
}

/// A stream whose reads fail when a header takes too long or nothing comes between two requests,
/// and whose writes fail when the client does not read. The body has a timer of its own.
pub struct WatchedStream {
    stream: TcpStream,
    phase: Phase,
    header_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
    /// The phase that `read_deadline` was set for; [`REQUEST`] has none.
    watched: u8,
    read_deadline: Instant,
    read_timer: Timer,
    write_deadline: Option<Instant>,
    write_timer: Timer,
}

impl WatchedStream {
    pub fn new(stream: TcpStream, phase: Phase, options: &Options) -> Self {
        Self {
            stream,
            phase,
            header_timeout: options.header_timeout,
            idle_timeout: options.idle_timeout,
            write_timeout: options.write_timeout,
            watched: HEADER,
            read_deadline: Instant::now() + options.header_timeout,
            read_timer: Timer::default(),
            write_deadline: None,
            write_timer: Timer::default(),
        }
    }

    fn watch_write<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_deadline = None;
            return written;
        }
        let deadline =
            *self.write_deadline.get_or_insert_with(|| Instant::now() + self.write_timeout);
        ready!(self.write_timer.poll(context, deadline));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        match (read, this.phase.get()) {
            (Poll::Ready(read), IDLE) => {
                this.phase.set(HEADER);
                // Most headers come whole: the time is asked for when more must be waited for.
                this.watched = REQUEST;
                Poll::Ready(read)
            }
            (Poll::Ready(read), _) => Poll::Ready(read),
            (Poll::Pending, REQUEST) => Poll::Pending,
            (Poll::Pending, phase) => {
                if this.watched != phase {
                    let is_idle = phase == IDLE;
                    let timeout = if is_idle { this.idle_timeout } else { this.header_timeout };
                    this.watched = phase;
                    this.read_deadline = Instant::now() + timeout;
                    this.phase.0.since.store(now(), Ordering::Relaxed);
                }
                ready!(this.read_timer.poll(context, this.read_deadline));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.watch_write(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.watch_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// A timer whose deadline moves with every request. It is asked of the runtime again only when it
/// goes off or the deadline comes closer, since most deadlines move away before they are reached.
#[derive(Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Who is woken when it goes off.
    waker: Option<Waker>,
}

impl Timer {
    pub fn poll(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        let is_known = self.waker.as_ref().is_some_and(|it| it.will_wake(context.waker()));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        } else if is_known && !sleep.is_elapsed() {
            return Poll::Pending;
        }
        if !is_known {
            self.waker = Some(context.waker().clone());
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
