//! T24: frames that a page does not hold.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};
use vipfarm::datapath::{Buffers, Error, Options};
use vipfarm_lab::{
    Direction, Farm, Host, Lab, farm::PATIENCE, host::INTERFACE, require, skip, world::World,
};

use crate::{HTTP, ONE_VIP, all, lab};

const JUMBO: u16 = 9000;
/// In each packet, the headers of IPv4 and of TCP with timestamps (RFC 7323).
const SEGMENT: u32 = JUMBO as u32 - 20 - 32;
const UPLOAD: usize = 1 << 20;
const UPLOADS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn t24_uploads_in_jumbo_frames_are_served_native_and_generic() {
    let program = require!(skip::farm());
    let lab = lab("jumbo", 2, 40);
    lab.set_mtu(JUMBO).unwrap();
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    for (mode, arguments) in [("native", &[][..]), ("generic", &["--generic"])] {
        for node in all(&lab) {
            farm.start_node(node, arguments).unwrap();
        }
        farm.wait_converged(&all(&lab)).unwrap();
        for node in all(&lab) {
            let vip = &farm.status(node).unwrap().vips[0];
            assert_eq!((vip.xdp.as_str(), vip.jumbo), (mode, true));
        }
        timeout(PATIENCE, upload_from_many(&lab, mode)).await.unwrap();
        farm.stop().unwrap();
    }
}

#[test]
fn t24_the_filter_for_single_buffers_names_the_mtu_that_it_bears() {
    require!(skip::lab());
    let lab = lab("mtu", 1, 1);
    lab.set_mtu(JUMBO).unwrap();
    let (world, node) = (World::new(), lab.node(1));
    let options = Options {
        interface: INTERFACE.into(),
        bpf_dir: lab.bpf_directory(),
        buffers: Buffers::One,
        ..world.options()
    };
    let attach = || node.in_ns(|| world.attach(&options));
    let Err(error @ Error::Native { .. }) = attach() else { panic!("it is attached") };
    let said = error.to_string();
    assert!(said.contains("to 3498 or less") && said.contains("Linux 5.18"), "{said}");
    lab.set_mtu(3498).unwrap();
    let plain = attach().unwrap();
    assert!(!plain.has_frags());
    node.in_ns(|| plain.remove()).unwrap();
}

/// Uploads from addresses of which each node has some: each arrives whole, in large frames.
async fn upload_from_many(lab: &Lab, mode: &str) {
    let client = lab.client(1);
    let large = |node: &Host| {
        node.capture_on_wire_if(|frame| {
            frame.direction == Direction::Outgoing && frame.bytes.len() > 4096
        })
    };
    let wires: Vec<_> = lab.nodes().iter().map(|node| large(node).unwrap()).collect();
    let mut servers = JoinSet::new();
    let served: Vec<_> = lab.nodes().iter().map(|node| serve(node, &mut servers)).collect();
    let mut uploads = JoinSet::new();
    for &from in &client.addresses()[..UPLOADS] {
        let socket = client.in_ns(TcpSocket::new_v4).unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        uploads.spawn(upload(socket));
    }
    uploads.join_all().await;
    let served: Vec<_> = served.iter().map(|count| count.load(Relaxed)).collect();
    assert!(served.iter().all(|&count| count > 0), "{mode}: by node: {served:?}");
    assert_eq!(served.iter().sum::<usize>(), UPLOADS, "{mode}");
    for (node, wire) in wires.into_iter().enumerate() {
        assert!(!wire.stop().is_empty(), "{mode}: no large frame to node{}", node + 1);
    }
}

/// Takes uploads and says how long each was; the count of them.
fn serve(node: &Host, servers: &mut JoinSet<()>) -> Arc<AtomicUsize> {
    let listener = node.in_ns(|| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80))).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    servers.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            spawn_blocking(move || {
                let mut stream = blocking(stream);
                let length = io::copy(&mut stream, &mut io::sink()).unwrap();
                count.fetch_add(1, Relaxed);
                stream.write_all(&length.to_ne_bytes()).unwrap();
            });
        }
    });
    served
}

async fn upload(socket: TcpSocket) {
    let stream = socket.connect(SocketAddr::from(HTTP)).await.unwrap();
    assert_eq!(getsockopt(&stream, TcpMaxSeg), Ok(SEGMENT));
    let upload = move || {
        let (mut stream, mut length) = (blocking(stream), [0; 8]);
        stream.write_all(&vec![7; UPLOAD]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_exact(&mut length).unwrap();
        assert_eq!(u64::from_ne_bytes(length), UPLOAD as u64);
    };
    spawn_blocking(upload).await.unwrap();
}

fn blocking(stream: TcpStream) -> std::net::TcpStream {
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}
