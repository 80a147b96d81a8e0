//! `vipfarm trace` shows one client's packets as each node judges them, and nobody else's.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use vipfarm::status::TracedFrame;
use vipfarm_lab::{
    Farm, Frame, Lab, Topology,
    frame::SYN,
    lab::{VIP, VIP_V6},
    require, skip,
};

use crate::{HTTP, all, asks_in_vain, eventually, has_event, running, vmac};

const BOTH: &str = "vips:
  - interface: eth0
    addresses: [10.77.0.100/16, 'fd00:77::a4d:64/64']
    groups:
      - name: all
        rules:
          - { port: 80, proto: tcp, filter: on_port }
";

/// A `trace` that runs on a node.
struct Trace {
    child: Child,
    frames: Arc<Mutex<Vec<TracedFrame>>>,
}

impl Trace {
    fn start(farm: &Farm<'_>, node: usize, client: &str) -> Self {
        let mut command = farm.ask_command(node, &["trace", client, "--for", "1m", "--json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let frames = Arc::<Mutex<Vec<_>>>::default();
        let seen = Arc::clone(&frames);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let frame = serde_json::from_str(&line).unwrap();
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
            }
        });
        eventually("it runs", || farm.status(node).unwrap().detour);
        Self { child, frames }
    }

    /// What was shown, but for the ARP of the client's own kernel.
    fn frames(&self) -> Vec<TracedFrame> {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.iter().filter(|frame| frame.packet.proto() == "tcp").cloned().collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A farm, and on each node a trace of the lab's first client.
fn traced<'a>(lab: &'a Lab, program: &std::path::Path) -> (Farm<'a>, Vec<Trace>) {
    let farm = running(lab, program, BOTH);
    let client = lab.client(1).address().to_string();
    let traces = all(lab).into_iter().map(|node| Trace::start(&farm, node, &client));
    let traces = traces.collect();
    (farm, traces)
}

fn dual(name: &str) -> Lab {
    let topology = Topology { client_addresses: 2, ipv6: true, ..Topology::new(3, 1) };
    Lab::new(name, &topology).unwrap()
}

fn syn(lab: &Lab, from: SocketAddr, to: SocketAddr) {
    let client = lab.client(1);
    client.inject(&Frame::tcp(from, to, SYN).macs(client.mac(), vmac()).bytes()).unwrap();
}

#[test]
fn a_trace_shows_one_clients_packets_and_each_nodes_verdict() {
    let program = require!(skip::farm());
    let lab = dual("traced");
    let (farm, mut traces) = traced(&lab, &program);
    let [client, other] = [0, 1].map(|index| IpAddr::from(lab.client(1).addresses()[index]));
    for port in 4000..4020 {
        syn(&lab, (other, port).into(), HTTP.into());
        syn(&lab, (client, port).into(), HTTP.into());
    }
    syn(&lab, (client, 4000).into(), (VIP, 81).into());
    eventually("all are shown", || traces.iter().all(|trace| trace.frames().len() >= 21));
    let mut accepted = BTreeMap::<String, usize>::new();
    let shown: Vec<_> = traces.iter().map(Trace::frames).collect();
    for number in 0..20 {
        let port = 4000 + u16::try_from(number).unwrap();
        let owner = farm.owner((client, port).into(), HTTP).unwrap();
        for (frames, node) in shown.iter().zip(lab.nodes()) {
            let frame = &frames[number];
            assert_eq!(frame.packet.source(), format!("{client}:{port}"), "in their order");
            assert_eq!(frame.packet.target(), HTTP.to_string());
            let expected =
                if owner == node.name() { ("accept", "mine") } else { ("drop", "not_mine") };
            assert_eq!((&*frame.verdict, &*frame.reason), expected, "{frame:?}");
            assert_eq!(frame.owner.as_ref(), Some(&owner));
            assert_eq!(
                (frame.bucket, &frame.group),
                (shown[0][number].bucket, &Some("all".into()))
            );
            let rule = "virtual_addr: *, port: 80, proto: tcp, filter: on_port";
            assert_eq!(frame.rule.as_deref(), Some(rule));
        }
        *accepted.entry(owner).or_default() += 1;
    }
    assert!(accepted.len() > 1, "{accepted:?}");
    for frames in &shown {
        assert_eq!(frames.len(), 21, "nobody else's: {frames:?}");
        assert_eq!((&*frames[20].reason, &frames[20].rule), ("no_rule", &None));
    }

    let words = format!("{client} is being traced");
    asks_in_vain(&farm, 1, &["trace", &other.to_string()], 1, &words);
    assert!(has_event(&farm, 1, "trace"));
    traces.clear();
    eventually("the hot path is free again", || {
        all(&lab).into_iter().all(|node| !farm.status(node).unwrap().detour)
    });
    // It ends by itself, too.
    let end = farm.ask(1, &["trace", &client.to_string(), "--for", "100ms"]).unwrap();
    assert_eq!(end, "");
    eventually("and is off", || !farm.status(1).unwrap().detour);
}

#[test]
fn a_trace_of_a_port_of_an_ipv6_client_shows_no_other() {
    let program = require!(skip::farm());
    let lab = dual("traced6");
    let farm = running(&lab, &program, BOTH);
    let addresses = lab.client(1).addresses_like(VIP_V6.into());
    let traces: Vec<_> = all(&lab)
        .into_iter()
        .map(|node| Trace::start(&farm, node, &format!("[{}]:4001", addresses[0])))
        .collect();
    for port in [4000, 4001] {
        for &address in &addresses {
            syn(&lab, (address, port).into(), (VIP_V6, 80).into());
        }
    }
    eventually("each node shows it", || traces.iter().all(|trace| !trace.frames().is_empty()));
    let frames: Vec<_> = traces.iter().flat_map(Trace::frames).collect();
    assert_eq!(frames.len(), 3, "{frames:?}");
    assert!(frames.iter().all(|frame| frame.packet.source() == format!("[{}]:4001", addresses[0])));
    let accepting = frames.iter().filter(|frame| frame.verdict == "accept").count();
    assert_eq!((accepting, frames[0].bucket.is_some()), (1, true));
}
