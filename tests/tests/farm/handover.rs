//! T12, T13: old connections stay where they are when their buckets move.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::net::TcpSocket;
use vipfarm_lab::{
    Farm, Host, Lab,
    farm::PATIENCE,
    lab::VIP_V6,
    process::Signal,
    require, skip,
    traffic::{Fate, HttpLoad, HttpServer, StreamEcho, Streams},
};

use crate::{
    HTTP, ONE_VIP, directed, eventually, has_event, lab, operated::load, packets, packets_of_all,
    running,
};

/// With three nodes, every one has some of them.
const CONNECTIONS: usize = 120;
const PAUSE: Duration = Duration::from_millis(10);

/// Connections through all of what is done, which none of them notices.
pub(crate) async fn through(
    lab: &Lab,
    farm: &mut Farm<'_>,
    doing: impl FnOnce(&mut Farm<'_>),
) -> Vec<Fate> {
    through_to(lab, farm, &[HTTP.into()], doing).await
}

/// The same of connections to each of those.
pub(crate) async fn through_to(
    lab: &Lab,
    farm: &mut Farm<'_>,
    targets: &[SocketAddr],
    doing: impl FnOnce(&mut Farm<'_>),
) -> Vec<Fate> {
    let echoes: Vec<_> =
        lab.nodes().iter().map(|node| StreamEcho::start(node, HTTP.port()).unwrap()).collect();
    let mut streams = Vec::new();
    for &target in targets {
        streams.push(Streams::start(lab.clients(), target, CONNECTIONS, PAUSE).await.unwrap());
    }
    let begin = Instant::now();
    doing(farm);
    std::thread::sleep(Duration::from_millis(500));
    let fates: Vec<_> = streams.into_iter().flat_map(Streams::stop).collect();
    let longest = fates.iter().map(|fate| fate.longest).max().unwrap_or_default();
    println!("{} connections for {:?}; the longest wait {longest:?}", fates.len(), begin.elapsed());
    drop(echoes);
    fates
}

pub(crate) fn nobody_noticed(fates: &[Fate]) {
    let broken: Vec<_> = fates.iter().filter(|fate| fate.broken.is_some()).collect();
    assert!(broken.is_empty(), "{} of {}: {broken:#?}", broken.len(), fates.len());
    assert!(fates.iter().all(|fate| fate.blocks > 10), "some hardly talked");
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_connections_outlive_power_changes_and_drains() {
    let program = require!(skip::farm());
    let lab = lab("lingering", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let fates = through(&lab, &mut farm, |farm| {
        farm.ask(1, &["power", "all", "node2=6", "node1=2"]).unwrap();
        farm.ask(2, &["drain", "node3"]).unwrap();
        farm.ask(2, &["drain", "node2"]).unwrap();
        farm.ask(3, &["undrain"]).unwrap();
        for power in [1, 9, 2, 0, 5] {
            farm.ask(1, &["power", "all", &format!("node1={power}")]).unwrap();
        }
    })
    .await;
    nobody_noticed(&fates);
    farm.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_connections_outlive_a_node_that_joins() {
    let program = require!(skip::farm());
    let lab = lab("joined", 3, 40);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    farm.start_node(1, &[]).unwrap();
    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    let fates = through(&lab, &mut farm, |farm| {
        farm.start_node(3, &[]).unwrap();
        farm.wait_converged(&[1, 2, 3]).unwrap();
    })
    .await;
    nobody_noticed(&fates);
    farm.stop().unwrap();
}

/// Where nodes hand over, a packet of an old connection takes one hop more; in both families.
#[tokio::test(flavor = "multi_thread")]
async fn t12_connections_outlive_moves_where_nodes_hand_over() {
    const NAME: &str = "t12_connections_outlive_moves_where_nodes_hand_over";
    let (program, object) = require!(NAME, directed::needs());
    let lab = directed::lab("handedback", 2, 40, &object);
    let mut farm = running(&lab, &program, &directed::directed());
    let targets = [HTTP.into(), SocketAddr::from((VIP_V6, HTTP.port()))];
    let fates = through_to(&lab, &mut farm, &targets, |farm| {
        farm.ask(2, &["drain", "node3"]).unwrap();
        farm.ask(1, &["power", "all", "node2=6", "node1=2"]).unwrap();
        farm.ask(3, &["undrain", "node3"]).unwrap();
    })
    .await;
    nobody_noticed(&fates);
    farm.stop().unwrap();
}

/// One bucket has connections at three nodes, of which its owner can name none.
#[tokio::test(flavor = "multi_thread")]
async fn t12_connections_stay_where_they_are_when_their_bucket_moves_again_and_comes_back() {
    const NAME: &str =
        "t12_connections_stay_where_they_are_when_their_bucket_moves_again_and_comes_back";
    let (program, object) = require!(NAME, directed::needs());
    for directed in [false, true] {
        let (lab, text) = if directed {
            (directed::lab("twice", 2, 40, &object), directed::directed())
        } else {
            (lab("twice", 3, 40), ONE_VIP.to_owned())
        };
        let mut farm = running(&lab, &program, &text);
        let _echoes: Vec<_> =
            lab.nodes().iter().map(|node| StreamEcho::start(node, HTTP.port()).unwrap()).collect();
        let mut streams = Vec::new();
        for serving in [1, 2, 3, 1] {
            let power = |node| format!("node{node}={}", u8::from(node == serving));
            farm.ask(1, &["power", "all", &power(1), &power(2), &power(3)]).unwrap();
            let new = Streams::start(lab.clients(), HTTP, CONNECTIONS, PAUSE).await.unwrap();
            streams.push(new);
        }
        std::thread::sleep(Duration::from_millis(1500));
        let fates: Vec<_> = streams.into_iter().flat_map(Streams::stop).collect();
        nobody_noticed(&fates);
        let copied = packets_of_all(&farm, "copied_back");
        assert_eq!(copied > 0, directed, "{copied}");
        farm.stop().unwrap();
    }
}

/// New connections all the while, whose handshakes leave no trace but a cookie: only the node that made
/// it can tell whose they are. Here the nodes share a kernel, which has one secret for all of them: two
/// may take a handshake that comes in a move, and one of them then has a connection without a client,
/// which is not waited for at the end.
#[tokio::test(flavor = "multi_thread")]
async fn t26_handshakes_by_cookie_outlive_moves_of_their_buckets() {
    let program = require!(skip::farm());
    let lab = lab("cookies", 3, 40);
    for node in lab.nodes() {
        node.set_sysctl("net/ipv4/tcp_syncookies", "2").unwrap();
    }
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    for node in 1..=3 {
        farm.start_node(node, &["--stop-timeout", "0s"]).unwrap();
    }
    farm.wait_converged(&[1, 2, 3]).unwrap();
    let _servers: Vec<_> =
        lab.nodes().iter().map(|node| HttpServer::start(node, HTTP.port()).unwrap()).collect();
    let load = HttpLoad::start(lab.clients(), HTTP, 400, Duration::from_secs(5)).unwrap();
    for power in [1, 9, 2, 0, 5, 1, 7, 0, 3] {
        farm.ask(1, &["power", "all", &format!("node1={power}")]).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(load.count() > 50, "{} while buckets moved", load.count());
    let requests = load.stop_after(250).await.unwrap();
    let failed: Vec<_> = requests.iter().filter(|request| request.outcome.is_err()).collect();
    assert!(failed.is_empty(), "{} {failed:?}", requests.len());
    farm.stop().unwrap();
}

/// A node that stops waits for its connections, whose clients lose nothing; new ones go elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn t12_a_node_that_stops_lets_its_connections_end() {
    let program = require!(skip::farm());
    let lab = lab("stopping", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let fates = through(&lab, &mut farm, |farm| {
        farm.agent(3).unwrap().signal(Signal::SIGTERM).unwrap();
        eventually("node3 serves nothing new", || load(farm, 1, "node3") == 0);
        std::thread::sleep(Duration::from_secs(2));
    })
    .await;
    // All of them have ended, which is what it waited for.
    nobody_noticed(&fates);
    let status = farm.agent(3).unwrap().wait_timeout(PATIENCE).unwrap();
    assert!(status.success(), "{status}");
    farm.stop_node(1).unwrap();
    farm.stop_node(2).unwrap();
}

/// What has not ended in time is reset, so that its clients know.
#[tokio::test(flavor = "multi_thread")]
async fn t12_a_node_that_stops_resets_what_did_not_end_in_time() {
    let program = require!(skip::farm());
    let lab = lab("impatient", 3, 40);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    for node in 1..=3 {
        farm.start_node(node, &["--stop-timeout", "500ms"]).unwrap();
    }
    farm.wait_converged(&[1, 2, 3]).unwrap();
    let fates = through(&lab, &mut farm, |farm| {
        farm.stop_node(3).unwrap();
    })
    .await;
    let broken: Vec<_> = fates.iter().filter_map(|fate| fate.broken.as_deref()).collect();
    assert!((10..80).contains(&broken.len()), "a third of them: {}", broken.len());
    assert!(broken.iter().all(|why| why.contains("reset")), "{broken:?}");
    farm.stop().unwrap();
}

/// Whose node dies is told so by a reset, as soon as the others have taken over; nobody else notices.
#[tokio::test(flavor = "multi_thread")]
async fn t13_a_dead_nodes_connections_are_reset_and_no_others() {
    let program = require!(skip::farm());
    let lab = lab("reset", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let fates = through(&lab, &mut farm, |farm| {
        // Some of what dies lingers there by then.
        farm.ask(1, &["power", "all", "node3=3"]).unwrap();
        farm.ask(1, &["power", "all", "node3=1"]).unwrap();
        lab.node(3).cut().unwrap();
        farm.kill(3).unwrap();
        farm.wait_converged(&[1, 2]).unwrap();
        std::thread::sleep(Duration::from_secs(2));
    })
    .await;
    let broken: Vec<_> = fates.iter().filter_map(|fate| fate.broken.as_deref()).collect();
    assert!((10..80).contains(&broken.len()), "a third of them: {}", broken.len());
    assert!(broken.iter().all(|why| why.contains("reset")), "{broken:?}");
    farm.stop_node(1).unwrap();
    farm.stop_node(2).unwrap();
}

/// An agent stalls until its lease has ended, and is in the view all the while: what its kernel did not serve
/// meanwhile it serves again.
#[tokio::test(flavor = "multi_thread")]
async fn t12_connections_that_linger_outlive_a_lease_that_ends_and_comes_back() {
    const PATIENT: &str =
        "membership: { period: 50ms, suspect: 120ms, lease: 170ms, fail: 3s }\nvips:";
    let program = require!(skip::farm());
    let lab = lab("late", 3, 40);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    farm.edit(|text| text.replace("vips:", PATIENT)).unwrap();
    farm.start().unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    let fates = through(&lab, &mut farm, |farm| {
        farm.ask(1, &["power", "all", "node3=0"]).unwrap();
        farm.freeze(3, true).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        farm.freeze(3, false).unwrap();
        eventually("its lease has ended", || has_event(farm, 3, "lease_lapsed"));
        farm.wait_converged(&[1, 2, 3]).unwrap();
        std::thread::sleep(Duration::from_secs(1));
    })
    .await;
    assert!(!has_event(&farm, 1, "node_lost"), "it was never out of the view");
    nobody_noticed(&fates);
    farm.stop().unwrap();
}

/// The former owner remembers what has ended, but a client that uses its port again is not its client.
#[tokio::test(flavor = "multi_thread")]
async fn t12_t27_a_port_that_is_used_again_is_a_new_connection() {
    const PORTS: std::ops::Range<u16> = 20_000..22_000;
    let program = require!(skip::farm());
    let lab = lab("reused", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    let _servers: Vec<_> =
        lab.nodes().iter().map(|node| HttpServer::start(node, HTTP.port()).unwrap()).collect();
    let mut asked = Vec::new();
    for (serves, rests) in [(1, 2), (2, 1)] {
        let powers = [format!("node{serves}=1"), format!("node{rests}=0")];
        farm.ask(1, &["power", "all", &powers[0], &powers[1]]).unwrap();
        for port in PORTS {
            asked.push(ask_from(&lab.clients()[0], port).await.unwrap());
        }
    }
    let nodes = [lab.nodes()[0].name(), lab.nodes()[1].name()];
    let expected = nodes.iter().flat_map(|&name| PORTS.map(move |_| name));
    assert!(asked.iter().map(String::as_str).eq(expected), "{asked:?}");
    // Their last words, which may as well be those of the former ones.
    let most = u64::try_from(PORTS.len()).unwrap();
    assert!(packets(&farm, 1, "lingering") <= most, "{}", packets(&farm, 1, "lingering"));
    farm.stop().unwrap();
}

/// The node that answers a request from that port, and closes the connection.
async fn ask_from(client: &Host, port: u16) -> io::Result<String> {
    let socket = client.in_ns(TcpSocket::new_v4)?;
    socket.set_reuseaddr(true)?;
    socket.bind((client.addresses()[0], port).into())?;
    let mut stream = socket.connect(HTTP.into()).await?.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /?id=1 HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().last().unwrap_or_default().to_owned())
}
