//! Read-only HTTP for the network: whether this node is ready, for balancers outside the farm, and what
//! it counts.
//!
//! | path | answer |
//! |---|---|
//! | `/ready` | 200 while this node serves anything, else 404 |
//! | `/ready/GROUP`, `/ready/VIP` | the same of one group, or of the VIP's block |
//! | `/var/modules/NAME/ready.txt` | as `/ready`, if the file names `safekit_module: NAME` |
//! | `/metrics` | for Prometheus |
//! | `/status` | as `vipfarm status --json`, but for arguments and words of checks' programs |
//!
//! It answers GET and HEAD from what the agent shows anyway: it has nothing by which anything could be
//! changed, whatever the request says. Who opens more connections than there may be, or sends slowly,
//! closes the oldest ones, so that a quick question is answered in any case.

use std::{
    collections::VecDeque, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{
        StatusCode,
        header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time,
};

use super::metrics;
use crate::{model::Http, status::Status};

/// What the listener tells about; the agent implements it. There is nothing to be asked for here that
/// changes anything.
pub(super) trait Look: Send + Sync + 'static {
    /// The agent's state as of now.
    fn state(&self) -> Status;

    /// Whether this node serves a group or VIP, or anything at all; `None` if there is no such.
    fn is_ready(&self, what: Option<&str>) -> Option<bool>;
}

/// What all connections together may cost.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections at once: one more closes the oldest.
    connections: usize,
    /// From accept to the last byte of the answer.
    deadline: Duration,
    /// Bytes of a request's line and headers.
    request_bytes: usize,
}

const LIMITS: Limits =
    Limits { connections: 64, deadline: Duration::from_secs(5), request_bytes: 8 << 10 };

/// How long to wait when no connection can be accepted: most likely for want of descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// The listening sockets of the file in force.
pub(super) struct Listener<L> {
    source: Arc<L>,
    http: Http,
    sockets: JoinSet<Infallible>,
    /// The addresses that could not be had.
    failed: Vec<SocketAddr>,
}

impl<L: Look> Listener<L> {
    /// One that listens nowhere yet.
    pub(super) fn new(source: Arc<L>) -> Self {
        Self { source, http: Http::default(), sockets: JoinSet::new(), failed: Vec::new() }
    }

    /// Listens where the file says, as far as the addresses are this machine's: what could not be had is
    /// tried again the next time, and is an error once if it was for another reason.
    pub(super) async fn follow(&mut self, http: &Http) -> Vec<String> {
        let before = std::mem::take(&mut self.failed);
        let mut errors = Vec::new();
        let wanted = if self.http == *http {
            before.clone()
        } else {
            self.http = http.clone();
            // What is accepted already is answered.
            self.sockets.shutdown().await;
            http.listen.clone()
        };
        for address in wanted {
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    let app = router(Arc::clone(&self.source), http.safekit_module.as_deref());
                    self.sockets.spawn(serve(listener, app, LIMITS));
                }
                Err(error) => {
                    // That may be another node's, or one that comes later.
                    let is_elsewhere = error.kind() == io::ErrorKind::AddrNotAvailable;
                    if !is_elsewhere && !before.contains(&address) {
                        errors.push(format!("cannot listen on {address}: {error}"));
                    }
                    self.failed.push(address);
                }
            }
        }
        errors
    }
}

async fn serve(listener: TcpListener, app: Router, limits: Limits) -> Infallible {
    let app = TowerToHyperService::new(app);
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = accept(&listener).await;
        open.retain(|connection| !connection.is_finished());
        if open.len() >= limits.connections
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        // One request a connection: the deadline is then also that of the request.
        let connection = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(limits.request_bytes)
            .serve_connection(TokioIo::new(stream), app.clone());
        let answering = async move {
            match time::timeout(limits.deadline, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("HTTP connection: {error}"),
                Err(_elapsed) => tracing::debug!("HTTP connection: given up, too slow"),
            }
        };
        open.push_back(tokio::spawn(answering).abort_handle());
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _client)) => return stream,
            Err(error) => {
                tracing::debug!("HTTP: cannot accept a connection: {error}");
                time::sleep(PAUSE).await;
            }
        }
    }
}

fn router<L: Look>(source: Arc<L>, module: Option<&str>) -> Router {
    let mut router = Router::new()
        .route("/ready", get(ready::<L>))
        .route("/ready/{what}", get(ready_for::<L>))
        .route("/metrics", get(prometheus::<L>))
        .route("/status", get(status::<L>));
    if let Some(module) = module {
        router = router.route(&format!("/var/modules/{module}/ready.txt"), get(ready::<L>));
    }
    router.method_not_allowed_fallback(read_only).with_state(source)
}

async fn ready<L: Look>(State(source): State<Arc<L>>) -> Response {
    answer(source.is_ready(None))
}

async fn ready_for<L: Look>(State(source): State<Arc<L>>, Path(what): Path<String>) -> Response {
    answer(source.is_ready(Some(&what)))
}

/// In `SafeKit`'s words.
fn answer(ready: Option<bool>) -> Response {
    let (status, word) = match ready {
        Some(true) => (StatusCode::OK, "UP\n"),
        Some(false) => (StatusCode::NOT_FOUND, "DOWN\n"),
        None => (StatusCode::NOT_FOUND, "no such group or VIP\n"),
    };
    (status, [(CACHE_CONTROL, "no-store")], word).into_response()
}

async fn prometheus<L: Look>(State(source): State<Arc<L>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&source.state()))
}

async fn status<L: Look>(State(source): State<Arc<L>>) -> Json<Status> {
    Json(source.state())
}

async fn read_only() -> impl IntoResponse {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    (status, [(ALLOW, "GET, HEAD")], "this is read-only: GET or HEAD\n")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, TcpStream as Client},
        time::Instant,
    };

    use super::*;
    use crate::commands::fixture;

    /// A farm in which only the group `http` is served.
    struct Half;

    impl Look for Half {
        fn state(&self) -> Status {
            fixture::healthy()
        }

        fn is_ready(&self, what: Option<&str>) -> Option<bool> {
            match what {
                None | Some("http") => Some(true),
                Some("dns" | "fd00::1") => Some(false),
                Some(_) => None,
            }
        }
    }

    struct Server {
        _runtime: tokio::runtime::Runtime,
        address: SocketAddr,
    }

    impl Server {
        fn start(limits: Limits) -> Self {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            let bind = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            let listener = runtime.block_on(bind).expect("a free port");
            let address = listener.local_addr().expect("it is bound");
            runtime.spawn(serve(listener, router(Arc::new(Half), Some("farm")), limits));
            Self { _runtime: runtime, address }
        }

        fn connect(&self) -> Client {
            let client = Client::connect(self.address).expect("the server listens");
            client.set_read_timeout(Some(Duration::from_secs(10))).expect("a valid time-out");
            client
        }

        fn ask(&self, line: &str) -> String {
            let mut client = self.connect();
            write!(client, "{line} HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("an answer");
            answer
        }
    }

    #[test]
    fn readiness_is_told_by_status_code() {
        let server = Server::start(LIMITS);
        for (path, code) in [
            ("/ready", 200),
            ("/ready/http", 200),
            ("/ready/dns", 404),
            ("/ready/fd00::1", 404),
            ("/ready/other", 404),
            ("/var/modules/farm/ready.txt", 200),
            ("/var/modules/other/ready.txt", 404),
            ("/", 404),
            ("/v1/power", 404),
            ("/ready/../v1/power", 404),
        ] {
            let answer = server.ask(&format!("GET {path}"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{path}: {answer}");
        }
        let answer = server.ask("HEAD /ready");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
        let answer = server.ask("GET /status");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let status: Status = serde_json::from_str(body).expect("the status");
        assert_eq!(status, fixture::healthy());
        assert!(server.ask("GET /metrics").contains("\nvipfarm_up{farm=\"web\"} 1\n"));
    }

    #[test]
    fn whatever_would_change_something_is_refused() {
        let server = Server::start(LIMITS);
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "BREW"] {
            for path in ["/ready", "/ready/http", "/status", "/metrics"] {
                let answer = server.ask(&format!("{method} {path}"));
                let refused = ["HTTP/1.1 405 ", "HTTP/1.1 400 "];
                assert!(refused.iter().any(|it| answer.starts_with(it)), "{method}: {answer}");
            }
        }
        assert!(server.ask("POST /v1/power").starts_with("HTTP/1.1 404 "));
    }

    #[test]
    fn a_long_request_is_refused() {
        let server = Server::start(LIMITS);
        let mut client = server.connect();
        let header = format!("GET /ready HTTP/1.1\r\nhost: {}", "x".repeat(LIMITS.request_bytes));
        client.write_all(header.as_bytes()).expect("the socket takes it");
        let mut answer = String::new();
        let _reset = client.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[test]
    fn a_request_that_is_sent_slowly_is_dropped_at_the_deadline() {
        let server = Server::start(Limits { deadline: Duration::from_millis(200), ..LIMITS });
        let mut client = server.connect();
        client.write_all(b"GET /ready HTTP/1.1\r\nhost:").expect("the socket takes it");
        let started = Instant::now();
        assert_eq!(client.read_to_end(&mut Vec::new()).expect("closed by the server"), 0);
        assert!(started.elapsed() >= Duration::from_millis(150));
    }

    #[test]
    fn who_occupies_all_connections_does_not_keep_others_waiting() {
        let server = Server::start(Limits { deadline: Duration::from_mins(10), ..LIMITS });
        let idle: Vec<_> = (0..500)
            .map(|_| {
                let mut client = server.connect();
                client.write_all(b"GET /ready HTTP/1.1\r\n").expect("the socket takes it");
                client
            })
            .collect();
        let started = Instant::now();
        assert!(server.ask("GET /ready").starts_with("HTTP/1.1 200 "));
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        drop(idle);
    }
}
