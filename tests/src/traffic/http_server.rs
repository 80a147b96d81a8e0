//! A node's HTTP server: answers with the node's name and remembers what it served.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::{Query, State},
    routing::get,
};
use serde::Deserialize;

use super::{Task, lock};
use crate::host::Host;

/// A running server; it closes its port when dropped.
#[derive(Debug)]
pub struct HttpServer {
    site: Arc<Site>,
    _task: Task,
}

#[derive(Debug)]
struct Site {
    node: String,
    served: Mutex<Vec<u64>>,
}

#[derive(Debug, Deserialize)]
struct Number {
    id: u64,
}

impl HttpServer {
    /// Answers `GET /?id=N` on that port of all addresses of the node, also of those that it gets
    /// later: a VIP comes and goes while its servers stay.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        // Of IPv6 it takes both families; the other one is for kernels without.
        let any = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        let any = any.map(|any| SocketAddr::new(any, port));
        let listener = host
            .in_ns(|| TcpListener::bind(&any[..]))
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .and_then(tokio::net::TcpListener::from_std)
            .with_context(|| format!("{}: listen on TCP port {port}", host.name()))?;
        let site = Arc::new(Site { node: host.name().to_owned(), served: Mutex::default() });
        let router = Router::new().route("/", get(answer)).with_state(Arc::clone(&site));
        let task = Task::spawn(async move {
            // It never returns: a failing accept() is tried again.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { site, _task: task })
    }

    /// The numbers of the requests it has served, in order, each as often as it came.
    pub fn served(&self) -> Vec<u64> {
        lock(&self.site.served).clone()
    }
}

async fn answer(State(site): State<Arc<Site>>, Query(number): Query<Number>) -> String {
    lock(&site.served).push(number.id);
    site.node.clone()
}
