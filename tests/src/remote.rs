//! A client on another network: what it sends comes through a router, and what it is sent must fit
//! a narrower link there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::{
    host::{Host, INTERFACE},
    iproute::ip_batch,
    lab::{Lab, beside, keep_quiet},
    ns::Namespace,
};

/// The router's address on the other network, and the client's.
const ROUTER: [&str; 2] = ["10.79.0.1/24", "fd00:79::1/64"];
const CLIENT: [&str; 2] = ["10.79.0.2/24", "fd00:79::2/64"];

/// The other network.
const NETWORK: [&str; 2] = ["10.79.0.0/24", "fd00:79::/64"];

/// The client's addresses, one of each family.
pub const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 79, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x79, 0, 0, 0, 0, 0, 2)),
];

/// The router's interface to the other network.
const PORT: &str = "far";

impl Lab {
    /// Makes a host the router to a client on another network, and the nodes know the way. Packets
    /// of more than `mtu` bytes do not reach that client, of which nobody but the router knows; it
    /// says so as often as it must (no limit to its errors). Needs
    /// [`Topology::ipv6`](crate::Topology::ipv6); once a lab.
    pub fn add_remote(&self, router: &Host, mtu: u16) -> Result<Namespace> {
        let name = format!("{}-remote", self.id());
        ip_batch(None, &[format!("netns add {name}")]).context("make a namespace")?;
        let remote = Namespace::open(&name)?;
        remote.in_ns(keep_quiet)?;
        for (sysctl, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ] {
            router.set_sysctl(sysctl, value)?;
        }
        let add = |device: &'static str, addresses: [&str; 2]| {
            let add = move |address| format!("addr add {address} dev {device}");
            addresses.map(add).into_iter().chain([format!("link set {device} up")])
        };
        let link = [
            format!("link add {PORT} type veth peer name {INTERFACE} netns {name}"),
            format!("link set {PORT} mtu {mtu}"),
        ];
        let router_lines: Vec<_> = link.into_iter().chain(add(PORT, ROUTER)).collect();
        ip_batch(Some(router.namespace().name()), &router_lines).context("make a router")?;
        let routes = [("0.0.0.0/0", ROUTER[0]), ("::/0", ROUTER[1])].map(|(to, router)| {
            let via = router.split('/').next().unwrap_or(router);
            format!("route add {to} via {via}")
        });
        let lines: Vec<_> = add(INTERFACE, CLIENT).chain(routes).collect();
        ip_batch(Some(&name), &lines).context("make a remote client")?;
        let gateways = [router.address().into(), IpAddr::from(beside(router.address()))];
        let ways: Vec<_> = NETWORK
            .iter()
            .zip(gateways)
            .map(|(network, gateway)| format!("route add {network} via {gateway}"))
            .collect();
        for node in self.nodes() {
            ip_batch(Some(node.namespace().name()), &ways)
                .with_context(|| format!("tell {} the way", node.name()))?;
        }
        Ok(remote)
    }
}
