//! An endpoint that misbehaves: a raw socket that plays a script to each connection.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::until;

/// What is done to a connection, in order. After the last step it is closed.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads one request: its headers, and the body that `content-length` announces.
    Read,
    Write(Vec<u8>),
    /// Writes byte by byte, with a pause before each, in a circle until the other side goes away.
    Drip(Vec<u8>, Duration),
    /// Writes the same again and again until the other side goes away.
    Flood(Vec<u8>),
    /// Does nothing until the other side goes away.
    Hang,
    /// Closes with an RST, which may overtake what was written before.
    Reset,
    /// Waits until the test calls [`Chaos::proceed`].
    Await,
}

/// Shorthand for [`Step::Write`].
pub fn write(bytes: impl AsRef<[u8]>) -> Step {
    Step::Write(bytes.as_ref().to_vec())
}

pub struct Chaos {
    address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    /// One for each connection; the last one for all further ones.
    scripts: Vec<Vec<Step>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
    written: AtomicU64,
    changed: watch::Sender<u64>,
    proceeding: watch::Sender<bool>,
}

impl State {
    fn change(&self) {
        self.changed.send_modify(|it| *it += 1);
    }
}

impl Chaos {
    /// Plays the same to each connection.
    pub async fn playing(script: impl Into<Vec<Step>>) -> Self {
        Self::playing_in_turn([script.into()]).await
    }

    /// Plays the first script to the first connection, and so on; the last one goes on.
    pub async fn playing_in_turn(scripts: impl Into<Vec<Vec<Step>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            scripts: scripts.into(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            changed: watch::Sender::new(0),
            proceeding: watch::Sender::new(false),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, state.clone()));
        Self { address, state, _tasks: tasks }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn connections(&self) -> usize {
        self.state.accepted.load(SeqCst)
    }

    /// Requests that a [`Step::Read`] has read whole.
    pub fn requests(&self) -> usize {
        self.state.requests.load(SeqCst)
    }

    /// Bytes that the other side's socket took.
    pub fn written(&self) -> u64 {
        self.state.written.load(SeqCst)
    }

    pub async fn connections_become(&self, count: usize) {
        let what = format!("{count} connections");
        until(self.state.changed.subscribe(), &what, || self.connections() == count).await;
    }

    /// Waits until the scripts of all connections have ended, which for one that hangs, drips or
    /// floods means that the other side closed it.
    pub async fn all_closed(&self) {
        let open = || self.state.open.load(SeqCst);
        until(self.state.changed.subscribe(), "every connection is closed", || open() == 0).await;
    }

    /// Lets all connections pass their [`Step::Await`], now and later.
    pub fn proceed(&self) {
        self.state.proceeding.send_replace(true);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            Some(_) = connections.join_next() => continue,
        };
        let number = state.accepted.fetch_add(1, SeqCst);
        state.open.fetch_add(1, SeqCst);
        state.change();
        let state = state.clone();
        connections.spawn(async move {
            // Whatever error ends the script, the other side went away.
            let script = state.scripts.get(number).or(state.scripts.last());
            play(socket, script.unwrap(), &state).await.ok();
            state.open.fetch_sub(1, SeqCst);
            state.change();
        });
    }
}

async fn play(mut socket: TcpStream, script: &[Step], state: &State) -> io::Result<()> {
    socket.set_nodelay(true)?;
    for step in script {
        match step {
            Step::Read => {
                read_request(&mut socket).await?;
                state.requests.fetch_add(1, SeqCst);
                state.change();
            }
            Step::Write(bytes) => put(&mut socket, bytes, state).await?,
            Step::Drip(bytes, pause) => {
                for byte in bytes.iter().cycle() {
                    tokio::time::sleep(*pause).await;
                    put(&mut socket, &[*byte], state).await?;
                }
            }
            Step::Flood(bytes) => loop {
                put(&mut socket, bytes, state).await?;
            },
            Step::Hang => {
                let mut rest = [0; 4096];
                while socket.read(&mut rest).await? > 0 {}
            }
            Step::Reset => {
                SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
                return Ok(());
            }
            Step::Await => {
                let mut proceeding = state.proceeding.subscribe();
                proceeding.wait_for(|it| *it).await.map_err(io::Error::other)?;
            }
        }
    }
    Ok(())
}

async fn put(socket: &mut TcpStream, bytes: &[u8], state: &State) -> io::Result<()> {
    socket.write_all(bytes).await?;
    state.written.fetch_add(bytes.len() as u64, SeqCst);
    Ok(())
}

async fn read_request(socket: &mut TcpStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        if let Some(head) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|it| it.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |it| it.trim().parse().unwrap());
            if bytes.len() >= head + 4 + length {
                return Ok(());
            }
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
