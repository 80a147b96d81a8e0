//! Real servers and clients that count what the users of a farm would notice.
//!
//! All of them are tasks of the caller's tokio runtime and end when their handle is dropped. Their
//! sockets are made inside the host's namespace and stay in it.
//!
//! - [`HttpServer`], [`HttpLoad`]: TCP connections, each with a request that has a number.
//! - [`StreamEcho`], [`Streams`]: TCP connections that live long and talk all the time.
//! - [`UdpEcho`], [`UdpProbe`]: numbered datagrams, often enough to measure an outage in
//!   milliseconds; [`ProbeLog`] says who answered what and when.

mod http_load;
mod http_server;
mod probe_log;
mod streams;
mod udp_echo;
mod udp_probe;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;

pub use self::{
    http_load::{Failure, HttpLoad, Request},
    http_server::HttpServer,
    probe_log::{Answer, Outage, Probe, ProbeLog},
    streams::{Fate, StreamEcho, Streams, Talk},
    udp_echo::UdpEcho,
    udp_probe::{GRACE, UdpProbe},
};

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Task {
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is counted here is changed by single statements, so that poison says nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
