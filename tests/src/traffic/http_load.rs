//! Many clients' HTTP requests at a steady rate, one TCP connection each.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{Task, lock};
use crate::{host::Host, ns::Namespace};

/// Sockets made at a time, since entering a namespace costs a thread.
const BATCH: usize = 32;

/// How long a number of requests may take, by far.
const LONGEST: Duration = Duration::from_secs(30);

/// What a request came to.
#[derive(Debug, Clone)]
pub struct Request {
    /// Unique in this process.
    pub id: u64,
    /// The client's address and port.
    pub client: SocketAddr,
    /// When connecting began.
    pub started: Instant,
    /// How long it took until the server closed, or until it failed.
    pub latency: Duration,
    /// The name of the node that answered.
    pub outcome: Result<String, Failure>,
}

/// How a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No complete answer in time.
    Timeout,
    /// The connection was reset.
    Reset,
    /// The connection was refused.
    Refused,
    /// Anything else, in words.
    Other(String),
}

/// Running load; it ends with [`HttpLoad::stop`] or when dropped.
#[derive(Debug)]
pub struct HttpLoad {
    log: Arc<Log>,
    patience: Duration,
    sender: Task,
}

#[derive(Debug, Default)]
struct Log {
    started: AtomicU64,
    done: Mutex<Vec<Request>>,
}

/// Where requests come from.
#[derive(Debug)]
struct Source {
    namespace: Namespace,
    addresses: Vec<IpAddr>,
    sockets: Vec<TcpSocket>,
    next: usize,
}

impl HttpLoad {
    /// Sends `rate` requests a second to `target`, in turn from all addresses of all `clients`;
    /// the kernel chooses the source ports. A request that takes longer than `patience` has failed.
    pub fn start(
        clients: &[Host],
        target: impl Into<SocketAddr>,
        rate: u32,
        patience: Duration,
    ) -> Result<Self> {
        let target = target.into();
        ensure!(!clients.is_empty() && rate > 0, "load needs clients and a rate");
        let mut sources: Vec<_> =
            clients.iter().map(|client| Source::new(client, target)).collect();
        let log = Arc::new(Log::default());
        let sink = Arc::clone(&log);
        let mut tick = interval(Duration::from_secs(1) / rate);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let sender = Task::spawn(async move {
            let count = sources.len();
            for turn in 0_usize.. {
                tick.tick().await;
                let Ok((socket, client)) = sources[turn % count].socket() else { continue };
                sink.started.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(one_request(Arc::clone(&sink), socket, client, target, patience));
            }
        });
        Ok(Self { log, patience, sender })
    }

    /// The requests that have ended so far, in that order.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.log.done).clone()
    }

    /// How many requests have ended so far.
    pub fn count(&self) -> usize {
        lock(&self.log.done).len()
    }

    /// Goes on until so many requests have ended, on a busy machine for longer, and stops.
    pub async fn stop_after(self, count: usize) -> Result<Vec<Request>> {
        let deadline = Instant::now() + LONGEST;
        while self.count() < count {
            ensure!(
                Instant::now() < deadline,
                "{} of {count} requests in {LONGEST:?}",
                self.count()
            );
            sleep(Duration::from_millis(5)).await;
        }
        self.stop().await
    }

    /// Ends the load, waits for what is under way, and returns all requests.
    pub async fn stop(self) -> Result<Vec<Request>> {
        self.sender.0.abort();
        let deadline = Instant::now() + self.patience + Duration::from_secs(1);
        while (self.count() as u64) < self.log.started.load(Ordering::Relaxed) {
            ensure!(Instant::now() < deadline, "requests neither ended nor failed");
            sleep(Duration::from_millis(5)).await;
        }
        Ok(std::mem::take(&mut *lock(&self.log.done)))
    }
}

impl Source {
    fn new(host: &Host, target: SocketAddr) -> Self {
        let addresses = host.addresses_like(target.ip());
        Self { namespace: host.namespace().clone(), addresses, sockets: Vec::new(), next: 0 }
    }

    /// A socket bound to the next address and a port of the kernel's choice.
    fn socket(&mut self) -> Result<(TcpSocket, SocketAddr)> {
        let address = self.addresses[self.next % self.addresses.len()];
        if self.sockets.is_empty() {
            let new = if address.is_ipv4() { TcpSocket::new_v4 } else { TcpSocket::new_v6 };
            let make = || (0..BATCH).map(|_| new()).collect::<io::Result<_>>();
            self.sockets = self.namespace.in_ns(make)?;
        }
        let socket = self.sockets.pop().context("no socket")?;
        self.next += 1;
        socket.bind(SocketAddr::from((address, 0)))?;
        let own = socket.local_addr()?;
        Ok((socket, own))
    }
}

async fn one_request(
    log: Arc<Log>,
    socket: TcpSocket,
    client: SocketAddr,
    target: SocketAddr,
    patience: Duration,
) {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let started = Instant::now();
    let outcome = match timeout(patience, ask(socket, target, id)).await {
        Ok(Ok(answer)) => body(&answer),
        Ok(Err(error)) => Err(Failure::of(&error)),
        Err(_) => Err(Failure::Timeout),
    };
    let latency = started.elapsed();
    lock(&log.done).push(Request { id, client, started, latency, outcome });
}

/// Connects, asks, and reads until the server closes.
async fn ask(socket: TcpSocket, target: SocketAddr, id: u64) -> io::Result<Vec<u8>> {
    let stream = socket.connect(target).await?;
    let request = format!("GET /?id={id} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    let mut rest = request.as_bytes();
    while !rest.is_empty() {
        stream.writable().await?;
        let written = unless_not_ready(stream.try_write(rest))?.unwrap_or(0);
        rest = &rest[written..];
    }
    read_to_end(&stream).await
}

async fn read_to_end(stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        stream.readable().await?;
        match unless_not_ready(stream.try_read(&mut buffer))? {
            None => {}
            Some(0) => return Ok(answer),
            Some(length) => answer.extend_from_slice(&buffer[..length]),
        }
    }
}

fn unless_not_ready(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        other => other.map(Some),
    }
}

fn body(answer: &[u8]) -> Result<String, Failure> {
    let text = String::from_utf8_lossy(answer);
    let parts = text.split_once("\r\n\r\n").filter(|(head, _)| head.starts_with("HTTP/1.1 200 "));
    match parts {
        Some((_, body)) => Ok(body.to_owned()),
        None => Err(Failure::Other(format!("not an answer: {text:?}"))),
    }
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset => Self::Reset,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Other(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_good_answer_counts() {
        let good = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nnode1";
        assert_eq!(body(good), Ok("node1".to_owned()));
        for bad in [&b""[..], b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 503 No\r\n\r\nnode1"] {
            assert!(matches!(body(bad), Err(Failure::Other(_))));
        }
    }
}
