//! The control socket as a client sees it: real sockets, real requests, a made-up agent behind.

mod support;

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use vipfarm::{
    agent::{
        control::{ControlSocket, OpenError},
        history::Level,
    },
    cli::AgentAddress,
    commands::{Client, Failure, PATIENCE},
    status::{
        EventRecord, ExplainProto, ExplainQuery, Explanation, MoveRequest, PowerReply,
        PowerRequest, Status,
    },
};

use support::{RunDir, Served, power_request, status};

fn client(served: &Served) -> Client {
    let address = AgentAddress { run_dir: served.dir.0.clone(), farm: None, socket: None };
    Client::find(&address).expect("the farm's socket")
}

fn get<T: serde::de::DeserializeOwned>(served: &Served, path: &str) -> Result<T, Failure> {
    served.runtime.block_on(client(served).get(path, PATIENCE))
}

fn connect(served: &Served) -> UnixStream {
    let stream = UnixStream::connect(served.dir.path("web.sock")).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a valid time-out");
    stream
}

/// Sends bytes as they are and reads until the server closes.
fn raw(served: &Served, request: &[u8]) -> String {
    let mut stream = connect(served);
    // A server that refuses early may close before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn the_status_arrives_as_it_was_sent() {
    let served = Served::start();
    assert_eq!(get::<Status>(&served, "/v1/status").expect("an answer"), status());
}

#[test]
fn metrics_are_a_text_with_the_type_that_scrapers_ask_for() {
    let served = Served::start();
    let answer = raw(&served, b"GET /v1/metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(
        body.contains("vipfarm_packets_total{farm=\"web\",reason=\"accept\"} 184467"),
        "{body}"
    );
    let text = served.runtime.block_on(client(&served).get_text("/v1/metrics", PATIENCE));
    assert_eq!(text.expect("the same text"), body);
}

#[test]
fn events_are_those_after_the_given_number() {
    let served = Served::start();
    served.history.push(Level::Info, "started", "agent started");
    served.history.push(Level::Warn, "node_lost", "node2 is lost");
    let all: Vec<EventRecord> = get(&served, "/v1/events").expect("all events");
    assert_eq!(all.len(), 2);
    let last: Vec<EventRecord> = get(&served, "/v1/events?since=1").expect("the last event");
    assert_eq!(last, all[1..]);
    // There already is one: no reason to wait.
    let started = Instant::now();
    let waited: Vec<EventRecord> = get(&served, "/v1/events?since=1&wait=true").expect("at once");
    assert_eq!(waited, last);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_waiting_request_is_answered_by_the_next_event() {
    let served = Served::start();
    let history = Arc::clone(&served.history);
    served.runtime.spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        history.push(Level::Info, "view", "farm membership: node1");
    });
    let started = Instant::now();
    let events: Vec<EventRecord> = get(&served, "/v1/events?since=0&wait=true").expect("an event");
    assert_eq!(events[0].kind, "view");
    assert!((Duration::from_millis(150)..Duration::from_secs(3)).contains(&started.elapsed()));
}

#[test]
fn explain_carries_the_packet_there_and_the_answer_back() {
    let served = Served::start();
    let query = ExplainQuery {
        client: "203.0.113.7".parse().expect("an address"),
        client_port: Some(51_000),
        vip: "192.168.1.222".parse().expect("an address"),
        vip_port: Some(53),
        proto: ExplainProto::Udp,
        ip_id: Some(7),
        fragment: false,
        icmp_error: false,
        vlan: Some("20.10".parse().expect("a VLAN")),
    };
    let path = format!("/v1/explain?{}", query.to_url_query());
    let answer: Explanation = get(&served, &path).expect("an explanation");
    assert_eq!((answer.client_port, answer.vip_port), (Some(51_000), Some(53)));
    assert_eq!((&*answer.proto, answer.bucket), ("udp", Some(137)));
    assert_eq!(answer.vlan, [20, 10]);
}

#[test]
fn an_explanation_the_farm_cannot_give_is_a_refusal_with_its_reason() {
    let served = Served::start();
    let path = "/v1/explain?client=192.0.2.1&vip=192.0.2.2&vip_port=80&proto=tcp";
    let Err(Failure::Refused(reason)) = get::<Explanation>(&served, path) else {
        panic!("answered")
    };
    assert_eq!(reason, "192.0.2.2 is no VIP of farm web");
    assert!(raw(&served, b"GET /v1/explain?client=192.0.2.1&vip=192.0.2.2&vip_port=80&proto=tcp HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 422 "));
}

#[test]
fn a_change_of_powers_is_taken_or_refused_with_its_reason() {
    let served = Served::start();
    let post = |request: &PowerRequest| {
        let reply = client(&served);
        served.runtime.block_on(reply.post::<PowerReply>("/v1/power", request, PATIENCE))
    };
    assert_eq!(post(&power_request()).expect("it is taken").version, 1);
    let Err(Failure::Refused(reason)) =
        post(&PowerRequest { node: "node9".into(), ..power_request() })
    else {
        panic!("taken")
    };
    assert_eq!(reason, "farm web has no node `node9`");
    let nonsense = b"POST /v1/power HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]";
    assert!(raw(&served, nonsense).starts_with("HTTP/1.1 400 "));
    let answer = raw(&served, b"GET /v1/power HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.contains("/v1/power answers POST, not GET"), "{answer}");
}

#[test]
fn a_vip_that_cannot_be_moved_is_refused_with_the_reason() {
    let served = Served::start();
    let request = MoveRequest { vip: "192.168.1.222".into(), node: None, persist: false };
    let reply = client(&served);
    let reply = reply.post::<PowerReply>("/v1/move", &request, PATIENCE);
    let Err(Failure::Refused(reason)) = served.runtime.block_on(reply) else { panic!("moved") };
    assert_eq!(reason, "192.168.1.222 is on all nodes at once");
    let answer = raw(&served, b"GET /v1/move HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.contains("/v1/move answers POST, not GET"), "{answer}");
}

#[test]
fn malformed_questions_are_usage_errors_that_name_the_field() {
    let served = Served::start();
    for (path, reason) in [
        ("/v1/explain?client=nobody&vip=192.0.2.2&proto=tcp", "client"),
        ("/v1/explain?client=192.0.2.1&vip=192.0.2.2&proto=sctp", "sctp"),
        ("/v1/explain?client=192.0.2.1&vip=192.0.2.2&proto=tcp", "needs the VIP's port"),
        ("/v1/explain?client=192.0.2.1&proto=tcp", "vip"),
        ("/v1/events?since=-1", "since"),
        ("/v1/events?after=1", "after"),
    ] {
        let Err(Failure::Usage(error)) = get::<serde_json::Value>(&served, path) else {
            panic!("{path} was answered")
        };
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_reset_is_asked_for_by_post_and_refused_with_the_reason() {
    let served = Served::start();
    let answer = raw(&served, b"POST /v1/reset HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
    assert!(answer.contains(r#"{"error":"this node is not drained"}"#), "{answer}");
    let answer = raw(&served, b"GET /v1/reset HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.contains("/v1/reset answers POST, not GET"), "{answer}");
}

#[test]
fn unknown_routes_and_methods_say_what_there_is() {
    let served = Served::start();
    let answer = raw(&served, b"GET /v2/status HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.contains(r#"{"error":"no route /v2/status: there are /v1/status"#), "{answer}");
    let answer = raw(&served, b"POST /v1/status HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains(r#"{"error":"/v1/status answers GET, not POST"}"#), "{answer}");
}

#[test]
fn an_oversized_request_is_refused_and_the_next_one_answered() {
    let served = Served::start();
    let endless = [b"GET /v1/status HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 1 << 20]].concat();
    let answer = raw(&served, &endless);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let body = [
        b"GET /v1/status HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n".to_vec(),
        vec![0; 1 << 20],
    ]
    .concat();
    raw(&served, &body);
    assert_eq!(get::<Status>(&served, "/v1/status").expect("still served"), status());
}

#[test]
fn bytes_that_are_not_http_harm_nobody() {
    let served = Served::start();
    for noise in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"\0\0\0\0\r\n\r\n", b"hello\r\n\r\n", b""]
    {
        let mut stream = connect(&served);
        let _ = stream.write_all(noise);
        drop(stream);
    }
    assert!(raw(&served, b"hello\r\n\r\n").starts_with("HTTP/1.1 400 "));
    get::<Status>(&served, "/v1/status").expect("still served");
}

#[test]
fn half_sent_requests_do_not_keep_others_waiting() {
    let served = Served::start();
    let half_sent: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut stream = connect(&served);
            stream.write_all(b"GET /v1/sta").expect("the socket takes it");
            stream
        })
        .collect();
    let started = Instant::now();
    get::<Status>(&served, "/v1/status").expect("an answer meanwhile");
    assert!(started.elapsed() < Duration::from_secs(2));
    drop(half_sent);
}

#[test]
fn two_clients_are_served_at_once() {
    let served = Served::start();
    let (client, other) = (client(&served), client(&served));
    let history = Arc::clone(&served.history);
    served.runtime.block_on(async move {
        let waiting = client.get::<Vec<EventRecord>>("/v1/events?wait=true", PATIENCE);
        let meanwhile = async {
            other.get::<Status>("/v1/status", PATIENCE).await.expect("while the first waits");
            history.push(Level::Info, "view", "farm membership: node1");
        };
        let (events, ()) = tokio::join!(waiting, meanwhile);
        assert_eq!(events.expect("the event").len(), 1);
    });
}

#[test]
fn only_the_agents_user_and_group_may_connect() {
    let served = Served::start();
    let mode = fs::metadata(served.dir.path("web.sock")).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(fs::read_dir(&served.dir.0).expect("the directory").count(), 1, "nothing else");
}

#[test]
fn a_second_agent_of_the_farm_is_refused_with_the_firsts_pid() {
    let served = Served::start();
    let error = ControlSocket::open(&served.dir.0, "web").expect_err("it is taken");
    let pid = std::process::id();
    assert!(
        error
            .to_string()
            .starts_with(&format!("an agent of farm `web` already runs here (pid {pid})")),
        "{error}"
    );
    get::<Status>(&served, "/v1/status").expect("the first still serves");
    ControlSocket::open(&served.dir.0, "dns").expect("another farm may run beside");
}

#[test]
fn the_socket_of_a_dead_agent_is_replaced() {
    let dir = RunDir::new();
    let path = dir.path("web.sock");
    // Closing a listener leaves its name behind, as a crash does.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a fresh directory"));
    assert!(UnixStream::connect(&path).is_err());
    let socket = ControlSocket::open(&dir.0, "web").expect("nobody listens there");
    UnixStream::connect(&path).expect("now somebody does");
    drop(socket);
    assert!(!path.exists(), "a clean end leaves nothing behind");
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = RunDir::new();
    let path = dir.path("web.sock");
    fs::write(&path, "precious").expect("a fresh directory");
    let error = ControlSocket::open(&dir.0, "web").expect_err("not ours");
    assert!(matches!(error, OpenError::Socket { .. }), "{error}");
    assert!(error.to_string().ends_with("not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
}

#[test]
fn of_many_agents_that_start_at_once_one_gets_the_socket() {
    let dir = RunDir::new();
    let path = dir.path("web.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a stale socket"));
    let opened: Vec<_> = std::thread::scope(|scope| {
        let agents: Vec<_> =
            (0..8).map(|_| scope.spawn(|| ControlSocket::open(&dir.0, "web"))).collect();
        agents.into_iter().map(|agent| agent.join().expect("no panic")).collect()
    });
    assert_eq!(opened.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{opened:?}");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let error = ControlSocket::open(Path::new("/proc/vipfarm"), "web").expect_err("not there");
    assert!(error.to_string().starts_with("cannot use /proc/vipfarm for the control socket"));
}
