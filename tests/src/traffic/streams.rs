//! Long-lived TCP connections that never stop talking: what moves under them, resets and corruption
//! are noticed.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::socket::{
    setsockopt,
    sockopt::{KeepAlive, TcpKeepIdle, TcpKeepInterval},
};
use tokio::net::TcpSocket;

use super::lock;
use crate::host::Host;

/// Bytes that go there and back at once.
const BLOCK: usize = 512;
/// The same of a bulk transfer: less than the buffers of a socket hold, for an echo that nobody reads
/// stops.
const BULK: usize = 32 << 10;
/// Bytes that a server sends without being asked.
const PUSHED: usize = 16 << 10;
/// Between two of its blocks.
const PUSH_PAUSE: Duration = Duration::from_millis(50);
/// After that a silent server is a lost one.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a listener looks whether it is to end.
const ROUND: Duration = Duration::from_millis(10);

/// What goes over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    /// Some hundred bytes to a [`StreamEcho`], and back.
    Blocks,
    /// As many as the buffers hold, likewise.
    Bulk,
    /// What a server sends by itself ([`StreamEcho::pushing`]): the client only acknowledges, and asks for
    /// a sign of life when a second has brought nothing.
    Pushed,
}

/// A node's TCP echo; it takes no new connections when dropped.
#[derive(Debug)]
pub struct StreamEcho {
    stop: Arc<AtomicBool>,
    clients: Arc<Mutex<BTreeSet<SocketAddr>>>,
}

impl StreamEcho {
    /// Echoes on that port of all addresses of the node.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        Self::serve(host, port, echo)
    }

    /// The same, but each client sends a number, and is then sent blocks that follow from it.
    pub fn pushing(host: &Host, port: u16) -> Result<Self> {
        Self::serve(host, port, push)
    }

    fn serve(host: &Host, port: u16, each: fn(TcpStream)) -> Result<Self> {
        // Of IPv6 it takes both families; the other one is for kernels without.
        let any = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        let any = any.map(|any| SocketAddr::new(any, port));
        let listener = host
            .in_ns(|| TcpListener::bind(&any[..]))
            .with_context(|| format!("{}: listen on TCP port {port}", host.name()))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let clients = Arc::default();
        let accepted: Arc<Mutex<BTreeSet<_>>> = Arc::clone(&clients);
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, client)) => {
                        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
                        lock(&accepted).insert(client);
                        thread::spawn(move || each(stream));
                    }
                    Err(_) => thread::sleep(ROUND),
                }
            }
        });
        Ok(Self { stop, clients })
    }

    /// Who has connected so far.
    pub fn clients(&self) -> BTreeSet<SocketAddr> {
        lock(&self.clients).clone()
    }
}

impl Drop for StreamEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    let _ = stream.set_nonblocking(false);
    // Ends with the connection, however that ends.
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn push(mut stream: TcpStream) {
    let mut seed = [0; 8];
    let _ = stream.set_nonblocking(false);
    if stream.read_exact(&mut seed).is_err() {
        return;
    }
    let seed = u64::from_be_bytes(seed);
    // Ends with the connection, likewise.
    for turn in 0.. {
        if stream.write_all(&block(seed, turn, PUSHED)).is_err() {
            return;
        }
        thread::sleep(PUSH_PAUSE);
    }
}

/// Connections of clients, each of which sends blocks and compares what comes back.
#[derive(Debug)]
pub struct Streams {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Fate>>,
}

/// What became of a connection.
#[derive(Debug, Clone)]
pub struct Fate {
    /// The client's end.
    pub client: SocketAddr,
    /// Blocks that came back.
    pub blocks: u64,
    /// What ended it before its time, in words: a reset, silence, corruption.
    pub broken: Option<String>,
    /// When that was.
    pub broken_at: Option<Instant>,
    /// The longest wait for a block but the first.
    pub longest: Duration,
}

impl Fate {
    /// In [`Fate::broken`]: what came back was not what was sent.
    pub const CORRUPTED: &str = "other bytes came back";

    /// Whether other bytes came back.
    pub fn is_corrupted(&self) -> bool {
        self.broken.as_deref() == Some(Self::CORRUPTED)
    }

    /// Whether it was reset.
    pub fn is_reset(&self) -> bool {
        self.broken.as_ref().is_some_and(|why| why.contains("reset"))
    }
}

impl Streams {
    /// `count` connections to `target`, in turn from all addresses of the `clients`, each with a block
    /// every `pause`.
    pub async fn start(
        clients: &[Host],
        target: impl Into<SocketAddr>,
        count: usize,
        pause: Duration,
    ) -> Result<Self> {
        Self::talking(Talk::Blocks, clients, target, count, pause).await
    }

    /// The same with other talk.
    pub async fn talking(
        talk: Talk,
        clients: &[Host],
        target: impl Into<SocketAddr>,
        count: usize,
        pause: Duration,
    ) -> Result<Self> {
        let target = target.into();
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for index in 0..count {
            let client = &clients[index % clients.len()];
            let addresses = client.addresses_like(target.ip());
            let address = addresses[index / clients.len() % addresses.len()];
            let new = if address.is_ipv4() { TcpSocket::new_v4 } else { TcpSocket::new_v6 };
            let socket = client.in_ns(new)?;
            socket.bind((address, 0).into())?;
            let stream = socket.connect(target).await.context("connect")?.into_std()?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            if talk == Talk::Pushed {
                // Who only listens learns by that alone that nobody is there any more.
                setsockopt(&stream, KeepAlive, &true)?;
                setsockopt(&stream, TcpKeepIdle, &1)?;
                setsockopt(&stream, TcpKeepInterval, &1)?;
            }
            let stopped = Arc::clone(&stop);
            let seed = u64::try_from(index).context("few connections")?;
            threads.push(thread::spawn(move || follow(talk, stream, seed, pause, &stopped)));
        }
        Ok(Self { stop, threads })
    }

    /// Ends them, and says what became of each.
    ///
    /// # Panics
    /// If a client did.
    pub fn stop(self) -> Vec<Fate> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a client's thread")).collect()
    }
}

fn follow(
    talk: Talk,
    mut stream: TcpStream,
    seed: u64,
    pause: Duration,
    stop: &AtomicBool,
) -> Fate {
    let client = stream.local_addr().unwrap_or_else(|_| SocketAddr::from(([0; 4], 0)));
    let mut fate =
        Fate { client, blocks: 0, broken: None, broken_at: None, longest: Duration::ZERO };
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let exchanged = match talk {
            Talk::Blocks => exchange(&mut stream, &block(seed, fate.blocks, BLOCK)),
            Talk::Bulk => exchange(&mut stream, &block(seed, fate.blocks, BULK)),
            Talk::Pushed => take(&mut stream, seed, fate.blocks),
        };
        match exchanged {
            Ok(true) => fate.blocks += 1,
            Ok(false) => fate.broken = Some(Fate::CORRUPTED.into()),
            Err(error) => fate.broken = Some(error.to_string()),
        }
        // The first one waits for the listener to look.
        if fate.blocks != 1 {
            fate.longest = fate.longest.max(begin.elapsed());
        }
        if fate.broken.is_some() {
            fate.broken_at = Some(Instant::now());
            break;
        }
        if talk != Talk::Pushed {
            thread::sleep(pause);
        }
    }
    fate
}

/// A block that no other connection and no other turn sends.
fn block(seed: u64, turn: u64, length: usize) -> Vec<u8> {
    let word = |at: usize| {
        let mixed = (seed << 32 | turn).wrapping_add(at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed.to_be_bytes()[0]
    };
    (0..length).map(word).collect()
}

/// Sends a block; whether it came back.
fn exchange(stream: &mut TcpStream, block: &[u8]) -> io::Result<bool> {
    stream.write_all(block)?;
    let mut back = vec![0; block.len()];
    stream.read_exact(&mut back)?;
    Ok(back == block)
}

/// Takes what the server sends by itself; whether it is what it should be. Before the first block the
/// client says which.
fn take(stream: &mut TcpStream, seed: u64, turn: u64) -> io::Result<bool> {
    if turn == 0 {
        stream.write_all(&seed.to_be_bytes())?;
    }
    let mut taken = vec![0; PUSHED];
    stream.read_exact(&mut taken)?;
    Ok(taken == block(seed, turn, PUSHED))
}
