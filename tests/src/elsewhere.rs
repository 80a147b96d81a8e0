//! The nodes' other network: an interface of each node, and clients, on a switch of its own.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Context, Result, ensure};
use vipfarm::model::Mac;

use crate::{
    host::{Host, INTERFACE},
    iproute::{ip, ip_batch},
    lab::{Lab, PREFIX, beside, keep_quiet},
    ns::Namespace,
};

/// Its switch.
const BRIDGE: &str = "br1";

/// Prefix length of its IPv6 network, which lies within that of the first one.
pub const PREFIX_V6_ELSEWHERE: u8 = 112;

/// The IPv4 address that farms share there; the IPv6 one is [`beside`] it.
pub const VIP_ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 100);

impl Lab {
    /// Gives every node another interface, `eth1`, with an address in 10.78.0.0/16 that is returned
    /// for each and the IPv6 one [`beside`] it; and makes that many clients on its network, with the
    /// given number of addresses each. Once a lab.
    pub fn add_network(&self, clients: u8, client_addresses: u8) -> Result<Vec<Ipv4Addr>> {
        let namespace = |i| format!("{}-elsewhere{i}", self.id());
        let lines: Vec<_> = (1..=clients).map(|i| format!("netns add {}", namespace(i))).collect();
        ip_batch(None, &lines).context("make the namespaces of another network")?;
        let client = |i| {
            let addresses = (1..=client_addresses).map(|n| Ipv4Addr::new(10, 78, i, n)).collect();
            anyhow::Ok(Host {
                name: format!("elsewhere{i}"),
                namespace: Namespace::open(&namespace(i))?,
                switch: Arc::clone(&self.switch),
                addresses,
                mac: Mac([2, 0, 0, 1, b'C', i]),
                logs: self.directory(),
            })
        };
        let hosts: Vec<_> = (1..=clients).map(client).collect::<Result<_>>()?;

        let mut lines = vec![
            format!("link add {BRIDGE} type bridge stp_state 0 mcast_snooping 0"),
            format!("link set {BRIDGE} up"),
        ];
        let mut cable = |port: &str, host: &Host, interface: &str, mac: Mac| {
            let peer = host.namespace.name();
            lines.push(format!(
                "link add {port} type veth peer name {interface} address {mac} netns {peer}"
            ));
            lines.push(format!("link set {port} up master {BRIDGE}"));
        };
        for (i, node) in (1..).zip(&self.nodes) {
            cable(&port(node), node, "eth1", self.mac_elsewhere(i));
        }
        for host in &hosts {
            host.namespace.in_ns(keep_quiet)?;
            cable(&host.name, host, INTERFACE, host.mac);
        }
        ip_batch(Some(self.switch.namespace.name()), &lines).context("make another network")?;

        let addresses: Vec<_> = (1..).zip(&self.nodes).map(|(i, _)| address(i)).collect();
        for (node, &address) in self.nodes.iter().zip(&addresses) {
            join(node, "eth1", &[address])?;
        }
        for host in &hosts {
            join(host, INTERFACE, &host.addresses)?;
        }
        ensure!(self.elsewhere.set(hosts).is_ok(), "a lab has one other network");
        Ok(addresses)
    }

    /// The clients of the other network.
    pub fn clients_elsewhere(&self) -> &[Host] {
        self.elsewhere.get().map_or(&[], Vec::as_slice)
    }

    /// The MAC of `eth1` of `node<i>`, counted from 1.
    pub fn mac_elsewhere(&self, i: u8) -> Mac {
        Mac([2, 0, 0, 1, b'N', i])
    }

    /// As [`Host::cut`], of a node's `eth1`.
    pub fn cut_elsewhere(&self, node: &Host) -> Result<()> {
        self.switch.leave(&port(node))
    }

    /// Undoes [`Lab::cut_elsewhere`].
    pub fn heal_elsewhere(&self, node: &Host) -> Result<()> {
        ip(self.switch.namespace.name(), &format!("link set {} master {BRIDGE}", port(node)))
    }

    /// The ports of the other switch.
    pub(crate) fn ports_elsewhere(&self) -> Vec<String> {
        let nodes = self.nodes.iter().filter(|_| self.elsewhere.get().is_some());
        nodes.map(port).chain(self.clients_elsewhere().iter().map(|it| it.name.clone())).collect()
    }
}

fn address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, 0, node)
}

fn port(node: &Host) -> String {
    format!("{}-{BRIDGE}", node.name)
}

fn join(host: &Host, interface: &str, addresses: &[Ipv4Addr]) -> Result<()> {
    let mut lines = vec!["link set lo up".to_owned(), format!("link set {interface} up")];
    for &address in addresses {
        lines.push(format!("addr add {address}/{PREFIX} dev {interface}"));
        let beside = beside(address);
        lines.push(format!("addr add {beside}/{PREFIX_V6_ELSEWHERE} dev {interface}"));
    }
    ip_batch(Some(host.namespace.name()), &lines).context("join another network")
}
