//! The control socket: HTTP/1.1 and JSON over a unix socket, read by the command line.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/metrics` | the same for Prometheus, as text, see [`metrics`] |
//! | `GET /v1/events?since=N[&wait=true]` | the [`EventRecord`]s after number N; with `wait`, as soon as there is one, at the latest after [`EVENT_WAIT`] |
//! | `POST /v1/power` with a [`PowerRequest`] | [`PowerReply`]: the change is on its way, see `powers_version` of the status |
//! | `POST /v1/open` with an [`OpenRequest`] | [`PowerReply`]: the same of this node's groups, see also `abstention_agreed` |
//! | `POST /v1/move` with a [`MoveRequest`] | the same of a failover VIP that is to move |
//! | `POST /v1/reload` with a [`ReloadRequest`] | [`ReloadReply`]: the file has been read, and is in force when the status says so |
//! | `POST /v1/upgrade` with an [`UpgradeRequest`] | [`UpgradeReply`]: the agent is being replaced; the next one answers here |
//! | `POST /v1/reset` | [`ResetReply`]: the connections of buckets that this node has given away are reset where the file has `tcp_reset` |
//! | `GET /v1/trace?client=..[&client_port=..]` | [`TraceReply`]: the frames since the last answer, as soon as there is one, at the latest after [`TRACE_WAIT`](super::trace::TRACE_WAIT) |
//! | `GET /v1/explain?client=..&vip=..&proto=..[&client_port=..][&vip_port=..][&ip_id=..][&fragment=true]` | [`Explanation`] |
//!
//! Errors are `{ "error": ".." }`: 400 for a malformed query, 422 where the farm has no answer.

mod socket;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::future::BoxFuture;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde::Deserialize;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
    time,
};

pub(crate) use self::socket::socket_path;
pub use self::socket::{ControlSocket, OpenError};
use super::metrics;
use crate::status::{
    EventRecord, ExplainQuery, Explanation, MoveRequest, OpenRequest, PowerReply, PowerRequest,
    ReloadReply, ReloadRequest, ResetReply, Status, TraceQuery, TraceReply, UpgradeReply,
    UpgradeRequest,
};

/// How long `wait=true` holds a request while nothing happens.
pub const EVENT_WAIT: Duration = Duration::from_secs(10);

/// What the control socket tells about; the agent implements it.
///
/// The methods are called from the runtime's threads: they must not block for longer than a short
/// lock.
pub trait Source: Send + Sync + 'static {
    /// The agent's state as of now.
    fn status(&self) -> Status;

    /// The events after number `seq` that are still kept, oldest first.
    fn events_since(&self, seq: u64) -> Vec<EventRecord>;

    /// The number of the newest event, 0 before the first; a receiver wakes with every event.
    fn newest_event(&self) -> watch::Receiver<u64>;

    /// What becomes of a packet that passed [`ExplainQuery::check`]; the error is a sentence for
    /// people, such as that the address is no VIP of this farm.
    fn explain(&self, query: &ExplainQuery) -> Result<Explanation, String>;

    /// What has come of a client since the last such question, which may be the first; the error is a
    /// sentence for people, such as that another one is traced.
    fn trace(&self, query: TraceQuery) -> BoxFuture<'_, Result<TraceReply, String>>;

    /// Changes a node's power in the farm's views; the error is a sentence for people, such as that
    /// there is no such group. The answer comes when the change is on its way.
    fn set_power<'a>(
        &'a self,
        request: &'a PowerRequest,
    ) -> BoxFuture<'a, Result<PowerReply, String>>;

    /// Opens or closes groups at this node; the error is a sentence for people. The answer comes when
    /// the change is on its way.
    fn set_open<'a>(
        &'a self,
        request: &'a OpenRequest,
    ) -> BoxFuture<'a, Result<PowerReply, String>>;

    /// Moves a failover VIP, likewise.
    fn move_vip<'a>(
        &'a self,
        request: &'a MoveRequest,
    ) -> BoxFuture<'a, Result<PowerReply, String>>;

    /// Reads the farm's file anew; the error is a sentence for people, such as what is wrong in it.
    /// The answer comes when the other nodes are being told.
    fn reload(&self, request: ReloadRequest) -> BoxFuture<'_, Result<ReloadReply, String>>;

    /// Has the agent replaced; the error is a sentence for people, such as what the new program says.
    /// The answer comes when that has begun.
    fn upgrade(&self, request: UpgradeRequest) -> BoxFuture<'_, Result<UpgradeReply, String>>;

    /// Resets the connections of buckets that this node has given away, if the file has theirs reset;
    /// the error is a sentence for people.
    fn reset_given_away(&self) -> BoxFuture<'_, Result<ResetReply, String>>;
}

/// What a connection may cost.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections served at once; more wait in the socket's backlog.
    connections: usize,
    /// From accept to the last byte of the answer. Longer than [`EVENT_WAIT`]; it also ends
    /// requests that were never sent whole and answers that are never read.
    deadline: Duration,
    /// Bytes of a request's line and headers.
    request_bytes: usize,
}

/// Bytes of a request's body.
const BODY_BYTES: usize = 4 << 10;

const LIMITS: Limits =
    Limits { connections: 64, deadline: Duration::from_secs(25), request_bytes: 16 << 10 };

impl ControlSocket {
    /// Answers requests about `source` until the future is dropped, which also removes the socket.
    /// Fails only where the socket cannot be handed to the runtime.
    pub async fn serve(self, source: Arc<dyn Source>) -> io::Result<Infallible> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        Ok(serve(&listener, source, LIMITS).await)
    }
}

async fn serve(listener: &UnixListener, source: Arc<dyn Source>, limits: Limits) -> Infallible {
    let app = TowerToHyperService::new(router(source));
    let slots = Arc::new(Semaphore::new(limits.connections));
    loop {
        let slot =
            Arc::clone(&slots).acquire_owned().await.expect("nobody closes this local semaphore");
        let stream = accept(listener).await;
        // One request a connection: the deadline is then also that of the request.
        let connection = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(limits.request_bytes)
            .serve_connection(TokioIo::new(stream), app.clone());
        tokio::spawn(async move {
            match time::timeout(limits.deadline, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("control connection: {error}"),
                Err(_elapsed) => tracing::debug!("control connection: given up, too slow"),
            }
            drop(slot);
        });
    }
}

async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => return stream,
            Err(error) => {
                // Out of file descriptors most likely: waiting is the only cure.
                tracing::warn!("control socket: cannot accept a connection: {error}");
                time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn router(source: Arc<dyn Source>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/metrics", get(prometheus))
        .route("/v1/events", get(events))
        .route("/v1/explain", get(explain))
        .route("/v1/trace", get(trace))
        .route("/v1/power", post(power))
        .route("/v1/open", post(open))
        .route("/v1/move", post(move_vip))
        .route("/v1/reload", post(reload))
        .route("/v1/upgrade", post(upgrade))
        .route("/v1/reset", post(reset))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(source)
}

async fn status(State(source): State<Arc<dyn Source>>) -> Json<Status> {
    Json(source.status())
}

async fn prometheus(State(source): State<Arc<dyn Source>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&source.status()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    #[serde(default)]
    since: u64,
    #[serde(default)]
    wait: bool,
}

async fn events(
    State(source): State<Arc<dyn Source>>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Json<Vec<EventRecord>>, Refusal> {
    let Query(EventsQuery { since, wait }) = query?;
    if wait {
        let mut newest = source.newest_event();
        // Timed out or woken, the answer is the same: what there is.
        let _ = time::timeout(EVENT_WAIT, newest.wait_for(|&seq| seq > since)).await;
    }
    Ok(Json(source.events_since(since)))
}

async fn explain(
    State(source): State<Arc<dyn Source>>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Result<Json<Explanation>, Refusal> {
    let Query(query) = query?;
    query.check().map_err(|reason| Refusal(StatusCode::BAD_REQUEST, reason))?;
    let explanation = source
        .explain(&query)
        .map_err(|reason| Refusal(StatusCode::UNPROCESSABLE_ENTITY, reason))?;
    Ok(Json(explanation))
}

async fn trace(
    State(source): State<Arc<dyn Source>>,
    query: Result<Query<TraceQuery>, QueryRejection>,
) -> Result<Json<TraceReply>, Refusal> {
    let Query(query) = query?;
    let refused = |reason| Refusal(StatusCode::UNPROCESSABLE_ENTITY, reason);
    Ok(Json(source.trace(query).await.map_err(refused)?))
}

async fn power(
    State(source): State<Arc<dyn Source>>,
    request: Result<Json<PowerRequest>, JsonRejection>,
) -> Result<Json<PowerReply>, Refusal> {
    let Json(request) = request?;
    let refused = |reason| Refusal(StatusCode::UNPROCESSABLE_ENTITY, reason);
    Ok(Json(source.set_power(&request).await.map_err(refused)?))
}

async fn open(
    State(source): State<Arc<dyn Source>>,
    request: Result<Json<OpenRequest>, JsonRejection>,
) -> Result<Json<PowerReply>, Refusal> {
    let Json(request) = request?;
    let refused = |reason| Refusal(StatusCode::UNPROCESSABLE_ENTITY, reason);
    Ok(Json(source.set_open(&request).await.map_err(refused)?))
}

async fn move_vip(
    State(source): State<Arc<dyn Source>>,
    request: Result<Json<MoveRequest>, JsonRejection>,
) -> Result<Json<PowerReply>, Refusal> {
    let Json(request) = request?;
    let refused = |reason| Refusal(StatusCode::UNPROCESSABLE_ENTITY, reason);
    Ok(Json(source.move_vip(&request).await.map_err(refused)?))
}

async fn reload(
    State(source): State<Arc<dyn Source>>,
    request: Result<Json<ReloadRequest>, JsonRejection>,
) -> Result<Json<ReloadReply>, Refusal> {
    let Json(request) = request?;
    let refused = |reason| Refusal(StatusCode::UNPROCESSABLE_ENTITY, reason);
    Ok(Json(source.reload(request).await.map_err(refused)?))
}

async fn upgrade(
    State(source): State<Arc<dyn Source>>,
    request: Result<Json<UpgradeRequest>, JsonRejection>,
) -> Result<Json<UpgradeReply>, Refusal> {
    let Json(request) = request?;
    let refused = |reason| Refusal(StatusCode::UNPROCESSABLE_ENTITY, reason);
    Ok(Json(source.upgrade(request).await.map_err(refused)?))
}

async fn reset(State(source): State<Arc<dyn Source>>) -> Result<Json<ResetReply>, Refusal> {
    let refused = |reason| Refusal(StatusCode::UNPROCESSABLE_ENTITY, reason);
    Ok(Json(source.reset_given_away().await.map_err(refused)?))
}

async fn no_such_route(uri: Uri) -> Refusal {
    let path = uri.path();
    Refusal(
        StatusCode::NOT_FOUND,
        format!(
            "no route {path}: there are /v1/status, /v1/metrics, /v1/events, /v1/explain, /v1/trace, /v1/power, /v1/open, /v1/move, /v1/reload, /v1/upgrade and /v1/reset"
        ),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let path = uri.path();
    let changes = matches!(
        path,
        "/v1/power" | "/v1/open" | "/v1/move" | "/v1/reload" | "/v1/upgrade" | "/v1/reset"
    );
    let right = if changes { "POST" } else { "GET" };
    Refusal(StatusCode::METHOD_NOT_ALLOWED, format!("{path} answers {right}, not {method}"))
}

/// An error answer: its status and the sentence that explains it.
struct Refusal(StatusCode, String);

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, reason) = self;
        (status, Json(ErrorBody { error: reason })).into_response()
    }
}

/// The body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct ErrorBody {
    /// The sentence for people.
    pub error: String,
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream as Client,
        time::Instant,
    };

    use super::*;
    use crate::agent::history::History;

    /// An agent with a history and nothing to say.
    struct Quiet(History);

    impl Source for Quiet {
        fn status(&self) -> Status {
            unreachable!("no test asks for it")
        }

        fn events_since(&self, seq: u64) -> Vec<EventRecord> {
            self.0.since(seq)
        }

        fn newest_event(&self) -> watch::Receiver<u64> {
            self.0.newest()
        }

        fn explain(&self, _query: &ExplainQuery) -> Result<Explanation, String> {
            unreachable!("no test asks for it")
        }

        fn trace(&self, _query: TraceQuery) -> BoxFuture<'_, Result<TraceReply, String>> {
            unreachable!("no test asks for it")
        }

        fn set_power<'a>(
            &'a self,
            _request: &'a PowerRequest,
        ) -> BoxFuture<'a, Result<PowerReply, String>> {
            unreachable!("no test asks for it")
        }

        fn set_open<'a>(
            &'a self,
            _request: &'a OpenRequest,
        ) -> BoxFuture<'a, Result<PowerReply, String>> {
            unreachable!("no test asks for it")
        }

        fn move_vip<'a>(
            &'a self,
            _request: &'a MoveRequest,
        ) -> BoxFuture<'a, Result<PowerReply, String>> {
            unreachable!("no test asks for it")
        }

        fn reload(&self, _request: ReloadRequest) -> BoxFuture<'_, Result<ReloadReply, String>> {
            unreachable!("no test asks for it")
        }

        fn upgrade(&self, _: UpgradeRequest) -> BoxFuture<'_, Result<UpgradeReply, String>> {
            unreachable!("no test asks for it")
        }

        fn reset_given_away(&self) -> BoxFuture<'_, Result<ResetReply, String>> {
            unreachable!("no test asks for it")
        }
    }

    /// A server with limits of the test's own; ends and removes its socket with the value.
    struct Server {
        _runtime: tokio::runtime::Runtime,
        path: std::path::PathBuf,
    }

    impl Server {
        fn start(test: &str, limits: Limits) -> Self {
            let name = format!("vipfarm-limits-{test}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            let listener = runtime.block_on(async { UnixListener::bind(&path) }).expect("unused");
            let source = Arc::new(Quiet(History::new()));
            runtime.spawn(async move { serve(&listener, source, limits).await });
            Self { _runtime: runtime, path }
        }

        fn connect(&self) -> Client {
            let client = Client::connect(&self.path).expect("the server listens");
            client.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid time-out");
            client
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    #[test]
    fn a_request_never_sent_whole_is_dropped_at_the_deadline() {
        let limits = Limits { deadline: Duration::from_millis(200), ..LIMITS };
        let server = Server::start("deadline", limits);
        let mut client = server.connect();
        client.write_all(b"GET /v1/events HTTP/1.1\r\nhost:").expect("the socket takes it");
        let started = Instant::now();
        assert_eq!(client.read_to_end(&mut Vec::new()).expect("closed by the server"), 0);
        assert!(started.elapsed() >= Duration::from_millis(150));
    }

    #[test]
    fn connections_beyond_the_limit_wait_for_their_turn() {
        let limits = Limits { connections: 2, deadline: Duration::from_millis(300), ..LIMITS };
        let server = Server::start("connections", limits);
        let _idle = [server.connect(), server.connect()];
        let started = Instant::now();
        let mut client = server.connect();
        client.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer in the end");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(started.elapsed() >= Duration::from_millis(200), "served beside the idle ones");
    }
}
