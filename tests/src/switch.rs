//! The switch: a bridge in a namespace of its own, one port per host, named as the host.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde::Deserialize;
use vipfarm::model::Mac;

use crate::{
    iproute::{bridge_batch, ip, ip_batch, query, tc},
    lab::Topology,
    ns::Namespace,
};

const BRIDGE: &str = "br0";

/// The second switch of a lab that has one, and the ends of the cable between the two.
const SECOND: &str = "br2";
const CABLE: [&str; 2] = ["uplink", "downlink"];

/// A learnt or static entry of the switch's forwarding database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdbEntry {
    /// The station.
    pub mac: Mac,
    /// The port it is behind: a host's name.
    pub port: String,
}

/// The bridge and how its ports are set.
#[derive(Debug)]
pub(crate) struct Switch {
    pub(crate) namespace: Namespace,
    flood: bool,
}

impl Switch {
    pub(crate) fn new(namespace: Namespace, topology: &Topology) -> Self {
        Self { namespace, flood: topology.flood }
    }

    /// The `ip -batch` lines that make the bridge.
    ///
    /// Without STP a port forwards as soon as it joins.
    pub(crate) fn script(topology: &Topology) -> Vec<String> {
        let ageing = topology.ageing.as_millis() / 10;
        let snooping = u8::from(topology.mcast_snooping);
        vec![
            format!(
                "link add {BRIDGE} type bridge stp_state 0 ageing_time {ageing} \
                 mcast_snooping {snooping}"
            ),
            format!("link set {BRIDGE} up"),
        ]
    }

    /// Lets a port take part. Leaving has reset its settings, so they are made again.
    pub(crate) fn join(&self, port: &str) -> Result<()> {
        self.join_all(&[port])
    }

    pub(crate) fn join_all(&self, ports: &[&str]) -> Result<()> {
        for port in ports {
            self.ip(&format!("link set {port} master {BRIDGE}"))?;
        }
        let flood = if self.flood { "on" } else { "off" };
        let lines: Vec<_> =
            ports.iter().map(|port| format!("link set dev {port} flood {flood}")).collect();
        bridge_batch(self.namespace.name(), &lines)
    }

    /// Takes a port out: its carrier stays, and nothing passes any more.
    pub(crate) fn leave(&self, port: &str) -> Result<()> {
        self.ip(&format!("link set {port} nomaster"))
    }

    /// Loses what the station `from` sends to a port.
    pub(crate) fn lose(&self, port: &str, from: Mac) -> Result<()> {
        let namespace = self.namespace.name();
        tc(namespace, &format!("qdisc replace dev {port} clsact"), "")?;
        let filter = format!("filter add dev {port} egress bpf direct-action bytecode");
        tc(namespace, &filter, &drop_from(from))
    }

    /// Undoes [`Switch::lose`], for all stations.
    pub(crate) fn lose_nothing(&self, port: &str) -> Result<()> {
        tc(self.namespace.name(), &format!("qdisc del dev {port} clsact"), "")
    }

    /// Moves ports to a second switch, which a cable connects with the first.
    pub(crate) fn move_to_second(&self, ports: &[&str]) -> Result<()> {
        let [up, down] = CABLE;
        let mut lines = vec![
            format!("link add {SECOND} type bridge stp_state 0"),
            format!("link set {SECOND} up"),
            format!("link add {up} type veth peer name {down}"),
            format!("link set {up} up master {BRIDGE}"),
            format!("link set {down} up master {SECOND}"),
        ];
        lines.extend(ports.iter().map(|port| format!("link set {port} master {SECOND}")));
        ip_batch(Some(self.namespace.name()), &lines)
    }

    /// Takes the cable between the two switches out, or plugs it in.
    pub(crate) fn set_cable(&self, up: bool) -> Result<()> {
        self.set_link(CABLE[0], up)
    }

    /// Sets a port's link up or down; the host sees its carrier follow.
    pub(crate) fn set_link(&self, port: &str, up: bool) -> Result<()> {
        self.ip(&format!("link set {port} {}", if up { "up" } else { "down" }))
    }

    /// Who is behind which port, the ports' own addresses left out.
    pub(crate) fn fdb(&self) -> Result<Vec<FdbEntry>> {
        #[derive(Deserialize)]
        struct Row {
            mac: String,
            ifname: String,
            master: Option<String>,
            state: Option<String>,
        }
        let rows: Vec<Row> = query("bridge", self.namespace.name(), "fdb show")?;
        let stations = rows.into_iter().filter(|row| {
            row.master.as_deref() == Some(BRIDGE) && row.state.as_deref() != Some("permanent")
        });
        let entry = |row: Row| {
            let mac = row.mac.parse().map_err(anyhow::Error::msg).context("read the FDB")?;
            Ok(FdbEntry { mac, port: row.ifname })
        };
        stations.map(entry).collect()
    }

    /// The ports with a listener of that group, as snooped.
    pub(crate) fn listeners(&self, group: IpAddr) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Row {
            #[serde(default)]
            mdb: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            port: String,
            grp: String,
        }
        let rows: Vec<Row> = query("bridge", self.namespace.name(), "mdb show")?;
        let of_group = |entry: &Entry| entry.grp.parse() == Ok(group);
        let entries = rows.into_iter().flat_map(|row| row.mdb).filter(of_group);
        Ok(entries.map(|entry| entry.port).collect())
    }

    fn ip(&self, line: &str) -> Result<()> {
        ip(self.namespace.name(), line)
    }
}

/// A classic BPF program, as `tc` reads it, that drops what this station has sent: 2 is `TC_ACT_SHOT`,
/// -1 lets the frame go on.
fn drop_from(Mac([a, b, c, d, e, f]): Mac) -> String {
    let (high, low) = (u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, f]));
    format!("6,32 0 0 6,21 0 3 {high},40 0 0 10,21 0 1 {low},6 0 0 2,6 0 0 {}", u32::MAX)
}
