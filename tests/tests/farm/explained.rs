//! `explain` says who serves a client: that node answers, and no other.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
};

use vipfarm::{model::Mac, status::Explanation};
use vipfarm_lab::{Farm, Frame, Lab, frame::SYN, lab::VIP, require, skip, traffic::UdpEcho};

use crate::{
    all, lab, running,
    wire::{self, What, answers, node_of},
};

const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
const OTHER_BLOCK: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);
const OTHER_VMAC: Mac = Mac([0x5a, 0xfe, 0, 0, 2, 0]);

/// Every kind of rule: by port, by address, by IP identification, on any port and any address, on
/// one address, with powers, with power 0; and two blocks on one interface.
const SERVICES: &str = "vips:
  - interface: eth0
    addresses: [10.77.0.100/16, 10.77.0.101/16]
    groups:
      - name: web
        powers: { node1: 2, node2: 1, node3: 1 }
        rules:
          - { port: 80, proto: tcp, filter: on_port }
          - { port: 53, proto: udp, filter: on_ipid }
      - name: rest
        powers: { node1: 0, node2: 3, node3: 1 }
        rules:
          - { port: '*', proto: tcp, filter: on_addr }
          - { virtual_addr: 10.77.0.101, port: 80, proto: tcp, filter: on_addr }
  - interface: eth0
    vmac: 5a:fe:00:00:02:00
    addresses: [10.77.0.200/16]
    groups:
      - name: single
        powers: { node3: 1 }
        rules:
          - { port: 80, proto: tcp, filter: on_port }
";

/// One client's packet and what was asked of `explain`.
struct Case {
    client: SocketAddrV4,
    vip: SocketAddrV4,
    identification: Option<u16>,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_that_explain_names_answers_and_no_other() {
    let program = require!(skip::farm());
    let lab = lab("explained", 3, 60);
    let farm = running(&lab, &program, SERVICES);
    let dns = SocketAddrV4::new(VIP, 53);
    let _echoes: Vec<_> =
        lab.nodes().iter().map(|node| UdpEcho::start(node, dns).unwrap()).collect();

    let tcp = |vip, port| tcp_cases(&lab, SocketAddrV4::new(vip, port));
    let web = agree(&farm, "web", vmac_of(VIP), &tcp(VIP, 80));
    let rest = agree(&farm, "rest", vmac_of(VIP), &tcp(VIP, 8443));
    let special = agree(&farm, "rest", vmac_of(VIP), &tcp(SECOND, 80));
    let any = agree(&farm, "rest", vmac_of(VIP), &tcp(SECOND, 22));
    let single = agree(&farm, "single", OTHER_VMAC, &tcp(OTHER_BLOCK, 80));
    let by_id = agree(&farm, "web", vmac_of(VIP), &udp_cases(&lab, dns));

    let status = farm.status(1).unwrap();
    let load = |name: &str| {
        &status.groups.iter().find(|group| group.name == name).expect("a group of the file").load
    };
    assert_eq!(load("rest")["node1"], 0, "power 0");
    for (shares, group) in [(&web, "web"), (&rest, "rest"), (&single, "single"), (&by_id, "web")] {
        let count = shares.values().sum::<usize>();
        wire::assert_plausible(shares, load(group), count);
    }
    // By address: the port makes no difference, nor does the VIP.
    assert_eq!((&rest, &rest), (&special, &any));
    assert_eq!(single["node3"], single.values().sum::<usize>());
}

/// Sends all packets and compares who answered with what `explain` says from the file, and now and
/// then with what the three agents say. Returns how many each node answered.
fn agree<'a>(farm: &Farm<'a>, group: &str, vmac: Mac, cases: &[Case]) -> BTreeMap<&'a str, usize> {
    let lab = farm.lab();
    let client = lab.client(1);
    let frames: Vec<_> =
        cases.iter().map(|case| case.frame().macs(client.mac(), vmac).bytes()).collect();
    let vip = *cases[0].vip.ip();
    let mut answered: BTreeMap<SocketAddrV4, Vec<&str>> = BTreeMap::new();
    let answers = answers(client, &frames, vip);
    for answer in &answers {
        let (What::Reset { target } | What::Datagram { target }) = answer.what else {
            panic!("{answer:?}")
        };
        let IpAddr::V4(client) = answer.target else { panic!("{answer:?}") };
        let client = SocketAddrV4::new(client, target);
        answered.entry(client).or_default().push(node_of(lab, answer.mac));
    }
    for (index, case) in cases.iter().enumerate() {
        let by = answered.get(&case.client).map_or(&[][..], Vec::as_slice);
        let [by] = by[..] else { panic!("{} of {group} was answered by {by:?}", case.client) };
        // Each costs a process.
        if index % 6 == 0 {
            let explained = case.explain(farm, None);
            assert_eq!(explained.group.as_deref(), Some(group));
            assert_eq!(explained.owner.as_deref(), Some(by), "{explained:?}");
        }
        if index % 30 == 0 {
            for node in all(lab) {
                let explained = case.explain(farm, Some(node));
                let verdict = if explained.node == by { "accept" } else { "drop" };
                assert_eq!(explained.owner.as_deref(), Some(by), "{explained:?}");
                assert_eq!(explained.verdict, verdict, "{explained:?}");
            }
        }
    }
    wire::shares(lab, answers.iter().map(|answer| answer.mac))
}

/// All addresses, two ports each.
fn tcp_cases(lab: &Lab, vip: SocketAddrV4) -> Vec<Case> {
    let clients = lab.client(1).addresses().iter();
    let ports = [4000, 5001];
    let case =
        |client, port| Case { client: SocketAddrV4::new(client, port), vip, identification: None };
    clients.flat_map(|&client| ports.map(|port| case(client, port))).collect()
}

/// One address: only the IP identification differs, and the port by which the answer is known.
fn udp_cases(lab: &Lab, vip: SocketAddrV4) -> Vec<Case> {
    let client = lab.client(1).address();
    let case = |number: u16| Case {
        client: SocketAddrV4::new(client, 6000 + number),
        vip,
        identification: Some(number.wrapping_mul(547)),
    };
    (0..120).map(case).collect()
}

impl Case {
    fn frame(&self) -> Frame {
        match self.identification {
            None => Frame::tcp(self.client, self.vip, SYN),
            Some(number) => Frame::udp(self.client, self.vip, b"8 bytes!").identification(number),
        }
    }

    /// From the file, or what the agent of a node says.
    fn explain(&self, farm: &Farm<'_>, node: Option<usize>) -> Explanation {
        let (client, vip) = (self.client.to_string(), self.vip.to_string());
        let mut arguments = vec![client.as_str(), vip.as_str()];
        let number = self.identification.map(|number| number.to_string());
        if let Some(number) = &number {
            arguments.extend(["--proto", "udp", "--ip-id", number]);
        }
        match node {
            None => farm.explain_offline(&arguments).unwrap(),
            Some(node) => {
                let arguments = [&["explain", "--json"], &arguments[..]].concat();
                farm.ask_json(node, &arguments).unwrap()
            }
        }
    }
}

fn vmac_of(vip: Ipv4Addr) -> Mac {
    Mac::of_vip(vip)
}
