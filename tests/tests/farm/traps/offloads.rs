//! T24, T25: what network devices do for their hosts: checksums not filled in, segments merged.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use vipfarm_lab::{
    Capture, Captured, Direction, Farm, Frame, Host, Lab, require, skip,
    traffic::{HttpLoad, HttpServer, UdpEcho},
};

use super::{
    BOTH, PATIENCE, VIPS, Wires, filler, lab, listen,
    narrow::{fetch, serve_a_megabyte},
};
use crate::{
    all, vmac,
    wire::{self, SILENCE, What},
};

/// Of a datagram: no two are alike.
fn payload(number: u16) -> Vec<u8> {
    let length = 6 + 11 * usize::from(number);
    number.to_be_bytes().into_iter().chain(filler(length)).collect()
}

/// The IP packets of datagrams to a VIP among the frames of captures.
fn datagrams(captures: Vec<Capture>, vip: IpAddr, direction: Direction) -> Vec<Vec<Vec<u8>>> {
    let wanted = |frame: &Captured| {
        frame.direction == direction
            && wire::packet(frame).is_some_and(|packet| {
                packet.target == vip && packet.what == What::Datagram { target: 7000 }
            })
    };
    let of = |capture: Capture| {
        let frames = capture.stop().into_iter().filter(&wanted);
        frames.map(|frame| frame.bytes[14..].to_vec()).collect()
    };
    captures.into_iter().map(of).collect()
}

/// T25: what a filter lets in is what came, but for the MACs, though no checksum is filled in yet.
fn datagrams_are_let_in_as_they_came(lab: &Lab, vip: IpAddr) {
    let captures = |of: fn(&Host) -> Capture| lab.nodes().iter().map(of).collect::<Vec<_>>();
    let wires = captures(|node| node.capture_on_wire().unwrap());
    let stacks = captures(|node| node.capture().unwrap());
    let client = lab.client(1);
    let at = SocketAddr::new(vip, 7000);
    let mut made = Vec::new();
    for (number, own) in (0..).zip(client.addresses_like(vip)) {
        let socket = client.in_ns(|| UdpSocket::bind((own, 0))).unwrap();
        let payload = payload(number);
        socket.send_to(&payload, at).unwrap();
        made.push(Frame::udp(socket.local_addr().unwrap(), at, &payload).bytes()[14..].to_vec());
    }
    thread::sleep(SILENCE);
    let came = datagrams(wires, vip, Direction::Outgoing);
    let mut taken = datagrams(stacks, vip, Direction::Incoming).concat();
    taken.sort_unstable();
    for mut came in came {
        came.sort_unstable();
        assert_eq!(came.len(), made.len());
        assert!(came == taken, "the filters changed packets, or lost some");
    }
    // The first differs from one with a right checksum there only.
    let header = if vip.is_ipv4() { 20 } else { 40 };
    let udp = |packet: &Vec<u8>| packet[header..].to_vec();
    let unfilled = taken.iter().map(udp).filter(|it| !made.iter().map(udp).any(|made| made == *it));
    assert_eq!(unfilled.count(), made.len(), "their checksums are filled in: nothing is shown");
}

/// Every node adds up what it is sent, and says what it came to.
fn add_up(_: u8, mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    stream.write_all(&sum(&bytes).to_be_bytes())
}

/// Of the bytes, each weighed by its place.
fn sum(bytes: &[u8]) -> u64 {
    (1..).zip(bytes).fold(0, |sum, (at, &byte)| sum.wrapping_add(at * u64::from(byte)))
}

/// Sends a megabyte in large pieces, which devices cut and merge.
fn upload(client: &Host, at: SocketAddr, what: &str) {
    let begin = Instant::now();
    let bytes: Vec<_> = filler(1 << 20).collect();
    let mut stream = client.in_ns(|| TcpStream::connect_timeout(&at, PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(u64::from_be_bytes(answer), sum(&bytes), "{what}, {at}");
    let took = begin.elapsed();
    assert!(took < PATIENCE / 3, "{what}: {took:?} for a megabyte to {at}");
}

async fn is_served(lab: &Lab, what: &str) {
    for vip in VIPS {
        let at = SocketAddr::new(vip, 80);
        let load = HttpLoad::start(lab.clients(), at, 200, Duration::from_millis(900)).unwrap();
        let requests = load.stop_after(50).await.unwrap();
        let failed: Vec<_> = requests.iter().filter(|request| request.outcome.is_err()).collect();
        assert!(failed.is_empty(), "{what}, {vip}: {failed:?}");
        let (_, took) = fetch(lab.client(1).namespace(), SocketAddr::new(vip, 8080));
        assert!(took < Duration::from_secs(1), "{what}, {vip}: {took:?} for a megabyte");
        upload(lab.client(1), SocketAddr::new(vip, 8081), what);
        datagrams_are_let_in_as_they_came(lab, vip);
    }
    assert!(lab.fdb().unwrap().iter().all(|entry| entry.mac != vmac()));
}

#[tokio::test(flavor = "multi_thread")]
async fn t24_t25_checksums_to_be_filled_in_and_merged_segments_are_served_in_both_modes() {
    let program = require!(skip::farm());
    require!(skip::ethtool());
    let lab = lab("offloads", 3, 20);
    let _wires = Wires::of(&lab, "t24-t25");
    let mut farm = Farm::new(&lab, &program, "test", BOTH).unwrap();
    let _servers: Vec<_> =
        lab.nodes().iter().map(|node| HttpServer::start(node, 80).unwrap()).collect();
    let echo = |(node, vip)| UdpEcho::start(node, SocketAddr::new(vip, 7000)).unwrap();
    let nodes_and_vips = lab.nodes().iter().flat_map(|node| VIPS.map(|vip| (node, vip)));
    let _echoes: Vec<_> = nodes_and_vips.map(echo).collect();
    serve_a_megabyte(&lab, 8080);
    listen(&lab, 8081, add_up);
    for (mode, arguments) in [("native", &[][..]), ("generic", &["--generic"])] {
        for node in all(&lab) {
            farm.start_node(node, arguments).unwrap();
        }
        farm.wait_converged(&all(&lab)).unwrap();
        for gro in ["on", "off"] {
            for (number, node) in (1..).zip(lab.nodes()) {
                assert_eq!(farm.status(number).unwrap().vips[0].xdp, mode);
                node.run(&format!("ethtool -K eth0 gro {gro}")).unwrap();
                let features = node.run("ethtool -k eth0").unwrap();
                let set = format!("generic-receive-offload: {gro}");
                assert!(features.contains(&set), "{mode}: {features}");
            }
            is_served(&lab, &format!("{mode}, GRO {gro}")).await;
        }
        farm.stop().unwrap();
    }
}
