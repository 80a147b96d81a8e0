//! The question and the answer of `explain`.

use std::{
    fmt::{self, Write as _},
    net::{AddrParseError, IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::failover::Why;
use crate::model::VlanTags;

/// One client's packet: the parameters of `GET /v1/explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// Client address, of the VIP's family.
    pub client: IpAddr,
    /// Client port; TCP and UDP only, needed where the rule's filter is `on_port`.
    pub client_port: Option<u16>,
    /// VIP.
    pub vip: IpAddr,
    /// Destination port; TCP and UDP need it, the others have none.
    pub vip_port: Option<u16>,
    /// Protocol.
    pub proto: ExplainProto,
    /// IPv4 identification; UDP only, needed where the rule's filter is `on_ipid`.
    pub ip_id: Option<u16>,
    /// Whether it is about a fragment without the transport header.
    #[serde(default)]
    pub fragment: bool,
    /// Whether it is about an ICMP error that quotes the VIP's answer to that packet.
    #[serde(default)]
    pub icmp_error: bool,
    /// The VLAN that it comes in; needed where the VIP is one in several.
    pub vlan: Option<VlanTags>,
}

impl ExplainQuery {
    /// Whether such a packet can exist; the error says what is wrong or missing.
    pub fn check(&self) -> Result<(), String> {
        let Self { client, client_port, vip, vip_port, proto, ip_id, fragment, .. } = *self;
        if client.is_ipv4() != vip.is_ipv4() {
            return Err(format!(
                "client {client} and VIP {vip} are of different families: no packet can go from one to the other"
            ));
        }
        if let Some(why) = no_client(client, vip) {
            return Err(format!("{client} is no client's address{why}"));
        }
        if proto.has_ports() && vip_port.is_none() {
            return Err(format!(
                "{proto} needs the VIP's port: write {}",
                HostPort { addr: vip, port: Some(80) }
            ));
        }
        if !proto.has_ports() && client_port.or(vip_port).is_some() {
            return Err(format!("{proto} has no ports: leave them out"));
        }
        if ip_id.is_some() && !(proto == ExplainProto::Udp && vip.is_ipv4()) {
            return Err("the IP identification matters for UDP over IPv4 only: leave it out".into());
        }
        if fragment && proto == ExplainProto::Arp {
            return Err("arp is never in fragments".into());
        }
        if self.icmp_error {
            self.check_error()?;
        }
        if let ExplainProto::Other(number) = proto
            && vip.is_ipv6()
            && EXTENSIONS.contains(&number)
        {
            return Err(format!("{number} is an extension header of IPv6, not a protocol"));
        }
        Ok(())
    }

    /// Whether there can be an ICMP error about the answer to such a packet.
    fn check_error(&self) -> Result<(), String> {
        if self.proto == ExplainProto::Arp {
            return Err("no ICMP error is sent about arp".into());
        }
        if self.fragment {
            return Err(
                "an ICMP error is never in fragments, and quotes the answer: leave --fragment out"
                    .into(),
            );
        }
        if self.ip_id.is_some() {
            return Err("an ICMP error quotes the answer, which has another IP identification: leave it out".into());
        }
        Ok(())
    }

    /// The query as the part of a URL after `?`; every character in it may stand there unescaped.
    pub fn to_url_query(&self) -> String {
        let Self { client, client_port, vip, vip_port, proto, ip_id, .. } = self;
        let mut query = format!("client={client}&vip={vip}&proto={proto}");
        for (key, value) in [("client_port", client_port), ("vip_port", vip_port), ("ip_id", ip_id)]
        {
            if let Some(value) = value {
                write!(query, "&{key}={value}").expect("a String takes every write");
            }
        }
        if self.fragment {
            query.push_str("&fragment=true");
        }
        if self.icmp_error {
            query.push_str("&icmp_error=true");
        }
        if let Some(vlan) = self.vlan {
            write!(query, "&vlan={vlan}").expect("a String takes every write");
        }
        query
    }
}

/// Why nobody can ask from that address, as the end of a sentence.
fn no_client(client: IpAddr, vip: IpAddr) -> Option<&'static str> {
    match client {
        _ if client.is_unspecified() => Some(""),
        _ if client == vip => Some(": it is the VIP itself"),
        _ if client.is_loopback() => Some(": it never leaves its machine"),
        _ if client.is_multicast() => Some(": it is a group of stations"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(": it is all stations"),
        _ => None,
    }
}

/// The extension headers that may come before the transport header (RFC 8200 section 4).
const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];

/// The protocols whose packets can be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ExplainProto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo request, of IPv4 or IPv6.
    Icmp,
    /// ARP request, or the neighbour solicitation of IPv6.
    Arp,
    /// Another one by its number (IANA protocol numbers); never one of the above.
    Other(u8),
}

impl ExplainProto {
    /// Whether its packets carry ports.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

impl FromStr for ExplainProto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |name: &str| Err(format!("protocol {text} has a name here: write {name}"));
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            "arp" => Ok(Self::Arp),
            _ => match text.parse() {
                Ok(6) => named("tcp"),
                Ok(17) => named("udp"),
                Ok(1 | 58) => named("icmp"),
                Ok(number) => Ok(Self::Other(number)),
                Err(_) => Err(format!(
                    "`{text}` is not tcp, udp, icmp, arp or a protocol's number from 0 to 255"
                )),
            },
        }
    }
}

impl TryFrom<String> for ExplainProto {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ExplainProto> for String {
    fn from(proto: ExplainProto) -> Self {
        proto.to_string()
    }
}

impl fmt::Display for ExplainProto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Arp => f.write_str("arp"),
            Self::Other(number) => number.fmt(f),
        }
    }
}

/// An address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`,
/// `[2001:db8::1]:80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort {
    /// The address.
    pub addr: IpAddr,
    /// The port, when one is given.
    pub port: Option<u16>,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(addr) = text.parse() {
            return Ok(Self { addr, port: None });
        }
        let socket: SocketAddr = text.parse().map_err(|_source: AddrParseError| {
            "not an address such as 192.0.2.1, 192.0.2.1:80, 2001:db8::1 or [2001:db8::1]:80"
                .to_owned()
        })?;
        Ok(Self { addr: socket.ip(), port: Some(socket.port()) })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.addr, port).fmt(f),
            None => self.addr.fmt(f),
        }
    }
}

/// The answer of `GET /v1/explain`: what becomes of one client's packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Client address.
    pub client: String,
    /// Client port; absent when it does not matter.
    pub client_port: Option<u16>,
    /// VIP.
    pub vip: String,
    /// Destination port; absent for protocols without.
    pub vip_port: Option<u16>,
    /// `tcp`, `udp`, `icmp`, `arp` or a protocol's number.
    pub proto: String,
    /// Whether it is a fragment without the transport header.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fragment: bool,
    /// Whether it is an ICMP error that quotes the VIP's answer to such a packet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub icmp_error: bool,
    /// Identifiers of the tags of the VIP's VLAN, the outer one first; none if it is in no VLAN.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlan: Vec<u16>,
    /// Whether the VIP is closed until `vipfarm open` (`open: manual`), and the rest says what is so once
    /// it is open: from the file alone. An agent tells what is so now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub assumes_open: bool,
    /// The group whose rule matched.
    pub group: Option<String>,
    /// The rule that matched, as in the file.
    pub rule: Option<String>,
    /// The bucket; absent for a failover VIP, of which one node has all.
    pub bucket: Option<u8>,
    /// The owner's name: of the bucket, of the failover VIP, or the node that is the client itself.
    pub owner: Option<String>,
    /// Why it is the owner of the failover VIP; absent for other VIPs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// The node whose point of view this is; from the file alone the owner, unless another was asked for.
    pub node: String,
    /// `pass`, `accept`, `drop` or `forward`, at `node`; `local` for a packet that does not leave it.
    pub verdict: String,
    /// The reason, one of the words of `packets`; `own_client` for a packet that does not leave its node.
    pub reason: String,
    /// The sentence for people.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(proto: ExplainProto) -> ExplainQuery {
        ExplainQuery {
            client: [192, 0, 2, 1].into(),
            client_port: None,
            vip: [192, 168, 1, 222].into(),
            vip_port: proto.has_ports().then_some(80),
            proto,
            ip_id: None,
            fragment: false,
            icmp_error: false,
            vlan: None,
        }
    }

    #[test]
    fn a_packet_of_each_protocol_can_exist() {
        for text in ["tcp", "udp", "icmp", "arp", "47"] {
            let proto: ExplainProto = text.parse().expect(text);
            assert_eq!(query(proto).check(), Ok(()), "{proto}");
            assert_eq!(serde_json::to_value(proto).expect("a word"), text);
        }
    }

    #[test]
    fn an_impossible_packet_is_refused_with_the_reason() {
        let tcp = query(ExplainProto::Tcp);
        let icmp = query(ExplainProto::Icmp);
        let [v6, v6_vip] =
            ["2001:db8::1", "2001:db8::222"].map(|text| text.parse().expect("an address"));
        for (query, reason) in [
            (ExplainQuery { client: v6, ..tcp }, "different families"),
            (ExplainQuery { vip_port: None, ..tcp }, "write 192.168.1.222:80"),
            (ExplainQuery { vip_port: None, client: v6, vip: v6_vip, ..tcp }, "[2001:db8::222]:80"),
            (ExplainQuery { client_port: Some(1), ..icmp }, "icmp has no ports"),
            (ExplainQuery { ip_id: Some(1), ..tcp }, "UDP over IPv4 only"),
            (ExplainQuery { client: [0; 4].into(), ..tcp }, "0.0.0.0 is no client's address"),
            (ExplainQuery { client: tcp.vip, ..tcp }, "it is the VIP itself"),
            (ExplainQuery { client: [127, 3, 0, 1].into(), ..tcp }, "never leaves its machine"),
            (ExplainQuery { client: [224, 0, 0, 5].into(), ..tcp }, "a group of stations"),
            (ExplainQuery { client: [255; 4].into(), ..tcp }, "it is all stations"),
            (ExplainQuery { fragment: true, ..query(ExplainProto::Arp) }, "never in fragments"),
            (ExplainQuery { icmp_error: true, ..query(ExplainProto::Arp) }, "no ICMP error"),
            (ExplainQuery { icmp_error: true, fragment: true, ..tcp }, "leave --fragment out"),
            (
                ExplainQuery { icmp_error: true, ip_id: Some(1), ..query(ExplainProto::Udp) },
                "another IP identification",
            ),
            (
                ExplainQuery { client: v6, vip: v6_vip, ..query(ExplainProto::Other(44)) },
                "44 is an extension header",
            ),
        ] {
            let error = query.check().expect_err(reason);
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_protocol_has_one_spelling() {
        for (text, reason) in [
            ("6", "write tcp"),
            ("17", "write udp"),
            ("1", "write icmp"),
            ("58", "write icmp"),
            ("256", "from 0 to 255"),
            ("sctp", "a protocol's number"),
        ] {
            let error = text.parse::<ExplainProto>().expect_err(text);
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn an_address_with_or_without_port_parses_to_what_it_prints() {
        for text in ["192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]:80"] {
            assert_eq!(text.parse::<HostPort>().expect(text).to_string(), text);
        }
        for text in ["", "web", "192.0.2.1:", "192.0.2.1:65536", "192.0.2.256", "[2001:db8::1]"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }
}
