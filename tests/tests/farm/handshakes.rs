//! T26: handshakes that a move of their bucket interrupts, and data in the first segment of one.

use std::{
    io::{ErrorKind, IoSlice, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::Path,
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, sendmsg, socket};
use vipfarm::model::Mac;
use vipfarm_lab::{
    Capture, Captured, Direction, Farm, Frame, Host, Lab,
    farm::PATIENCE,
    frame::{ACK, RST, SYN},
    lab::VIP,
    require, skip,
};

use crate::{HTTP, ONE_VIP, all, directed, eventually, lab, running, vmac};

/// A client that no kernel answers for.
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 9, 9), 4000);
/// Its first sequence number.
const FIRST: u32 = 1_000_000;
const QUESTION: &[u8] = b"whose?";

/// A farm of both nodes that agree, whose agents wait for nobody when they are stopped: what is half open has
/// no client that would end it.
fn impatient<'a>(lab: &'a Lab, program: &Path, vips: &str) -> Farm<'a> {
    running(lab, program, &format!("stop_timeout: 0s\n{vips}"))
}

/// Has one node have all buckets.
fn give_to(farm: &Farm<'_>, node: usize) {
    let power = |it| format!("node{it}={}", u8::from(it == node));
    let powers: Vec<_> = all(farm.lab()).into_iter().map(power).collect();
    let words = ["power", "all"].into_iter().chain(powers.iter().map(String::as_str));
    farm.ask(1, &words.collect::<Vec<_>>()).unwrap();
}

fn listeners(lab: &Lab) -> Vec<TcpListener> {
    let listen = |node: &Host| {
        let listener = node.in_ns(|| TcpListener::bind(("0.0.0.0", HTTP.port()))).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    };
    lab.nodes().iter().map(listen).collect()
}

/// A connection that a node has accepted, and that the client has asked by.
fn asked(listener: &TcpListener) -> TcpStream {
    let mut accepted = None;
    eventually("the connection is accepted", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (mut stream, _) = accepted.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut question = [0; QUESTION.len()];
    stream.read_exact(&mut question).unwrap();
    assert_eq!(question, QUESTION);
    stream
}

fn has_nobody(listener: &TcpListener) -> bool {
    listener.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// A segment of a node to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    /// The number of the node.
    node: usize,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
}

impl Segment {
    fn of(lab: &Lab, frame: &Captured) -> Self {
        let word = |at: usize| u32::from_be_bytes(*frame.bytes[at..].first_chunk().unwrap());
        let by = |node: &Host| frame.bytes[6..12] == node.mac().0;
        Self {
            node: 1 + lab.nodes().iter().position(by).unwrap(),
            flags: frame.bytes[47],
            sequence: word(38),
            acknowledgement: word(42),
        }
    }
}

/// The client, each of whose segments is made by hand.
struct ByHand<'a> {
    lab: &'a Lab,
    port: u16,
    /// The MAC that it has for the VIP.
    to: Mac,
    answers: Capture,
}

impl<'a> ByHand<'a> {
    fn new(lab: &'a Lab, port: u16, to: Mac) -> Self {
        for node in lab.nodes() {
            node.set_neighbour((*CLIENT.ip()).into(), lab.client(1).mac()).unwrap();
        }
        let is_answer = move |frame: &Captured| {
            frame.direction == Direction::Incoming
                && frame.bytes.get(23) == Some(&6)
                && frame.bytes.get(26..30) == Some(&VIP.octets()[..])
                && frame.bytes.get(36..38) == Some(&port.to_be_bytes()[..])
        };
        Self { lab, port, to, answers: lab.client(1).capture_if(is_answer).unwrap() }
    }

    fn send(&self, flags: u8, sequence: u32, acknowledgement: u32, data: &[u8]) {
        let from = SocketAddrV4::new(*CLIENT.ip(), self.port);
        let segment = Frame::tcp(from, HTTP, flags).numbered(sequence, acknowledgement);
        let client = self.lab.client(1);
        client.inject(&segment.payload(data).macs(client.mac(), self.to).bytes()).unwrap();
    }

    /// Sends a SYN: who takes it.
    fn begin(&self) -> Segment {
        self.begin_at(FIRST, SYN | ACK)
    }

    /// The same with another sequence number, until it is answered by that.
    fn begin_at(&self, sequence: u32, flags: u8) -> Segment {
        let known = self.answers.frames().len();
        self.send(SYN, sequence, 0, &[]);
        let mut answer = None;
        eventually("the SYN is answered", || {
            let frames = self.answers.frames();
            let mut new = frames[known..].iter().map(|frame| Segment::of(self.lab, frame));
            answer = new.find(|segment| segment.flags == flags);
            answer.is_some()
        });
        answer.unwrap()
    }

    /// Ends the handshake that a SYN-ACK has begun, by a question.
    fn ask(&self, answer: Segment) {
        self.send(ACK, answer.acknowledgement, answer.sequence + 1, QUESTION);
    }

    /// What nodes have sent.
    fn answers(self) -> Vec<Segment> {
        self.answers.stop().iter().map(|frame| Segment::of(self.lab, frame)).collect()
    }
}

fn is_reset(segment: &Segment) -> bool {
    segment.flags & RST != 0
}

/// A client by hand whose SYN the first node has answered, before all buckets went to the second one; and
/// that answer.
fn begun<'a>(lab: &'a Lab, farm: &Farm<'_>) -> (ByHand<'a>, Segment) {
    give_to(farm, 1);
    let client = ByHand::new(lab, 4000, vmac());
    let answer = client.begin();
    assert_eq!(answer.node, 1);
    give_to(farm, 2);
    (client, answer)
}

#[test]
fn t26_a_handshake_whose_last_segment_was_lost_in_a_move_ends_where_it_began() {
    let program = require!(skip::farm());
    let lab = lab("lastword", 2, 1);
    let mut farm = impatient(&lab, &program, ONE_VIP);
    let listeners = listeners(&lab);
    let (client, answer) = begun(&lab, &farm);
    client.ask(answer);
    let _served = asked(&listeners[0]);
    assert!(has_nobody(&listeners[1]));
    let answers = client.answers();
    assert!(answers.iter().all(|it| it.node == 1 && !is_reset(it)), "{answers:?}");
    farm.stop().unwrap();
}

/// By cookie the former owner has no trace of it. Here the nodes share a kernel, which has one secret for all
/// of them: so the client asks again when nothing lingers.
#[test]
fn t26_a_client_whose_syn_ack_was_lost_before_a_move_is_served_by_the_new_owner() {
    let program = require!(skip::farm());
    let lab = lab("synack", 2, 1);
    for node in lab.nodes() {
        node.set_sysctl("net/ipv4/tcp_syncookies", "2").unwrap();
    }
    let mut farm = impatient(&lab, &program, ONE_VIP);
    let listeners = listeners(&lab);
    let (client, _lost) = begun(&lab, &farm);
    eventually("nothing lingers", || farm.status(1).unwrap().groups[0].handover.lingering == 0);
    let answer = client.begin();
    assert_eq!(answer.node, 2);
    client.ask(answer);
    let _served = asked(&listeners[1]);
    assert!(has_nobody(&listeners[0]));
    let answers = client.answers();
    assert!(!answers.iter().any(is_reset), "{answers:?}");
    farm.stop().unwrap();
}

/// Without cookies the former owner has a request for it still, and refuses what acknowledges the other node's
/// number: the client is told so at once, and served when it connects anew.
#[test]
fn t26_a_client_whose_syn_ack_was_lost_before_a_move_is_served_or_told_at_once() {
    let program = require!(skip::farm());
    let lab = lab("halfopen", 2, 1);
    let mut farm = impatient(&lab, &program, ONE_VIP);
    let listeners = listeners(&lab);
    let (client, _lost) = begun(&lab, &farm);
    let answer = client.begin();
    assert_eq!(answer.node, 2, "one node answers what is asked again");
    client.ask(answer);
    let _served = asked(&listeners[1]);
    assert!(has_nobody(&listeners[0]));
    let refused = client.answers.wait_for(PATIENCE, |frame| is_reset(&Segment::of(&lab, frame)));
    assert!(refused.is_some_and(|frame| Segment::of(&lab, &frame).node == 1));

    let anew = ByHand::new(&lab, 4001, vmac());
    let answer = anew.begin();
    assert_eq!(answer.node, 2);
    anew.ask(answer);
    let _served = asked(&listeners[1]);
    let answers = anew.answers();
    assert!(answers.iter().all(|it| it.node == 2 && !is_reset(it)), "{answers:?}");
    farm.stop().unwrap();
}

/// A client that was started anew has forgotten its connection. Its SYN comes to the node that has that one
/// still, and to no other: as on any host, it is told so, ends the connection, and asks again.
#[test]
fn t27_a_port_that_is_used_again_while_its_connection_lingers_is_served_where_nodes_hand_over() {
    const NAME: &str = "t27_a_port_that_is_used_again_while_its_connection_lingers_is_served_where_nodes_hand_over";
    const ANEW: u32 = FIRST + 100_000_000;
    let (program, object) = require!(NAME, directed::needs());
    let lab = directed::lab("forgotten", 1, 1, &object);
    let mut farm = impatient(&lab, &program, &directed::directed());
    let listeners = listeners(&lab);
    give_to(&farm, 1);
    let client = ByHand::new(&lab, 4000, lab.node(1).mac());
    client.ask(client.begin());
    let mut forgotten = asked(&listeners[0]);
    give_to(&farm, 2);
    let told = client.begin_at(ANEW, ACK);
    assert_eq!(told.node, 1, "it has the connection of before");
    client.send(RST, told.acknowledgement, 0, &[]);
    let ended = forgotten.read(&mut [0]).unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset, "{ended}");
    let answer = client.begin_at(ANEW, SYN | ACK);
    assert_eq!(answer.node, 2);
    client.ask(answer);
    let _served = asked(&listeners[1]);
    assert!(has_nobody(&listeners[0]));
    farm.stop().unwrap();
}

/// Answers each client's question by the node's name.
fn answer_all(host: &Host) {
    let listener = host.in_ns(|| TcpListener::bind(("0.0.0.0", HTTP.port()))).unwrap();
    let name = host.name().to_owned();
    // Ends with the test's process.
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut question = Vec::new();
            let _ = stream.read_to_end(&mut question);
            let _ = stream.write_all(&[name.as_bytes(), b" ", &question].concat());
        }
    });
}

/// Asks with the question in the SYN, if the client has a cookie: all that comes back.
fn ask_fast(client: &Host) -> String {
    let tcp =
        || socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let fd = client.in_ns(tcp);
    let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
    let data = [IoSlice::new(QUESTION)];
    let sent = sendmsg(fd.as_raw_fd(), &data, &[], flags, Some(&SockaddrIn::from(HTTP))).unwrap();
    assert_eq!(sent, QUESTION.len());
    let mut stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// How many connections a node has accepted with data in their SYN.
fn opened_fast(node: &Host) -> u64 {
    let counters = node.run("cat /proc/net/netstat").unwrap();
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let mut row = || lines.next().unwrap().split(' ');
    let (mut names, mut values) = (row(), row());
    let at = names.position(|name| name == "TCPFastOpenPassive").unwrap();
    values.nth(at).unwrap().parse().unwrap()
}

/// A cookie is good at each node with the same key, and the data in a SYN is its owner's alone; where the key is
/// another one, the kernel falls back to a handshake.
#[test]
fn t26_data_in_a_syn_is_served_once_before_and_after_a_move() {
    const KEY: &str = "01234567-89abcdef-01234567-89abcdef";
    const OTHER_KEY: &str = "89abcdef-01234567-89abcdef-01234567";
    // Clients (1) and servers (2), also those that have not asked for it (0x400).
    const FOR_ALL: &str = "1027";
    let program = require!(skip::farm());
    let lab = lab("fastopen", 2, 1);
    for host in lab.nodes().iter().chain(lab.clients()) {
        host.set_sysctl("net/ipv4/tcp_fastopen", FOR_ALL).unwrap();
        host.set_sysctl("net/ipv4/tcp_fastopen_key", KEY).unwrap();
    }
    let mut farm = impatient(&lab, &program, ONE_VIP);
    lab.nodes().iter().for_each(answer_all);
    let ask = |expected: [u64; 2]| {
        let answer = ask_fast(lab.client(1));
        assert_eq!([1, 2].map(|node| opened_fast(lab.node(node))), expected, "{answer}");
        answer
    };
    let by = |node: usize| format!("node{node} {}", String::from_utf8_lossy(QUESTION));
    give_to(&farm, 1);
    assert_eq!(ask([0, 0]), by(1), "the client has no cookie yet");
    assert_eq!(ask([1, 0]), by(1));
    give_to(&farm, 2);
    assert_eq!(ask([1, 1]), by(2), "the cookie is node1's");
    lab.node(1).set_sysctl("net/ipv4/tcp_fastopen_key", OTHER_KEY).unwrap();
    give_to(&farm, 1);
    assert_eq!(ask([1, 1]), by(1), "it is good no more");
    assert_eq!(ask([2, 1]), by(1), "and there is another one");
    farm.stop().unwrap();
}
