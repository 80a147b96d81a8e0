//! A frame in a few words.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use crate::{model::Mac, status::HostPort};

/// Who sends what to whom, as far as the frame's bytes say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// VLAN identifiers, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    vlans: Vec<u16>,
    /// Protocol: `tcp`, `arp`, ..; an IP protocol's number; an Ethernet type as `0x88cc`.
    proto: String,
    /// From: an address, with its port if it has one.
    source: String,
    /// To.
    target: String,
    /// What else tells it from its like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What is behind the Ethernet header.
struct Inner {
    proto: String,
    source: String,
    target: String,
    note: Option<String>,
}

impl Summary {
    /// Of a frame, which may end anywhere.
    pub fn of(frame: &[u8]) -> Self {
        let mut vlans = Vec::new();
        let mut at = 12;
        while let Some([0x81, 0x00] | [0x88, 0xa8]) = bytes::<2>(frame, at)
            && let Some(tag) = bytes(frame, at + 2)
        {
            vlans.push(u16::from_be_bytes(tag) & 0xfff);
            at += 4;
        }
        let kind = bytes(frame, at).map(u16::from_be_bytes);
        let packet = frame.get(at + 2..).unwrap_or_default();
        let inner = match kind {
            Some(0x0800) => ipv4(packet),
            Some(0x0806) => arp(packet),
            Some(0x86dd) => ipv6(packet),
            _ => None,
        };
        let Inner { proto, source, target, note } = inner.unwrap_or_else(|| {
            let mac = |at| bytes(frame, at).map_or_else(|| "?".into(), |mac| Mac(mac).to_string());
            let proto = kind.map_or_else(|| "?".into(), |kind| format!("{kind:#06x}"));
            Inner { proto, source: mac(6), target: mac(0), note: None }
        });
        Self { vlans, proto, source, target, note }
    }

    /// VLAN identifiers, outermost first.
    pub fn vlans(&self) -> &[u16] {
        &self.vlans
    }

    /// Protocol: `tcp`, `arp`, ..; an IP protocol's number; an Ethernet type as `0x88cc`.
    pub fn proto(&self) -> &str {
        &self.proto
    }

    /// From: an address, with its port if it has one.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// To: likewise.
    pub fn target(&self) -> &str {
        &self.target
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for vlan in &self.vlans {
            write!(f, "vlan {vlan} ")?;
        }
        write!(f, "{} {} -> {}", self.proto, self.source, self.target)?;
        match &self.note {
            Some(note) => write!(f, ", {note}"),
            None => Ok(()),
        }
    }
}

fn bytes<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn arp(packet: &[u8]) -> Option<Inner> {
    let addr = |at| bytes(packet, at).map(|addr| Ipv4Addr::from_octets(addr).to_string());
    let note = match bytes(packet, 6)? {
        [0, 1] => "request".into(),
        [0, 2] => "reply".into(),
        [high, low] => format!("operation {}", u16::from_be_bytes([high, low])),
    };
    Some(Inner { proto: "arp".into(), source: addr(14)?, target: addr(24)?, note: Some(note) })
}

/// What an IP header says.
struct Header {
    source: HostPort,
    target: HostPort,
    proto: u8,
    /// In bytes; `None` if the packet is whole.
    fragment: Option<u16>,
}

fn ipv4(packet: &[u8]) -> Option<Inner> {
    let addr = |at| Some(Ipv4Addr::from_octets(bytes(packet, at)?).into());
    let [first] = bytes(packet, 0)?;
    let [proto] = bytes(packet, 9)?;
    let flags = u16::from_be_bytes(bytes(packet, 6)?);
    let header = Header {
        source: HostPort { addr: addr(12)?, port: None },
        target: HostPort { addr: addr(16)?, port: None },
        proto,
        fragment: (flags & 0x3fff != 0).then_some((flags & 0x1fff) << 3),
    };
    let transport = packet.get(usize::from(first & 15) * 4..);
    Some(header.with(transport.unwrap_or_default()))
}

fn ipv6(packet: &[u8]) -> Option<Inner> {
    let addr = |at| Some(Ipv6Addr::from_octets(bytes(packet, at)?).into());
    let mut header = Header {
        source: HostPort { addr: addr(8)?, port: None },
        target: HostPort { addr: addr(24)?, port: None },
        proto: bytes::<1>(packet, 6)?[0],
        fragment: None,
    };
    // Extension headers (RFC 8200 section 4): hop-by-hop, routing, fragment, destination.
    let mut at = 40;
    while let (0 | 43 | 44 | 60, Some([next, units, high, low])) = (header.proto, bytes(packet, at))
    {
        let is_fragment = header.proto == 44;
        header.proto = next;
        at += if is_fragment { 8 } else { 8 + usize::from(units) * 8 };
        if is_fragment {
            let offset = u16::from_be_bytes([high, low]) & 0xfff8;
            header.fragment = (offset != 0 || low & 1 != 0).then_some(offset);
            if offset != 0 {
                break;
            }
        }
    }
    Some(header.with(packet.get(at..).unwrap_or_default()))
}

impl Header {
    /// With what its transport header adds.
    fn with(mut self, transport: &[u8]) -> Inner {
        let has_transport = self.fragment.is_none_or(|offset| offset == 0);
        let mut note = match self.fragment {
            None => None,
            Some(0) => Some("first fragment".to_owned()),
            Some(offset) => Some(format!("fragment at {offset}")),
        };
        let proto = match self.proto {
            6 => "tcp".into(),
            17 => "udp".into(),
            1 => "icmp".into(),
            58 => "icmpv6".into(),
            number => format!("protocol {number}"),
        };
        if has_transport {
            match self.proto {
                6 | 17 => {
                    self.source.port = bytes(transport, 0).map(u16::from_be_bytes);
                    self.target.port = bytes(transport, 2).map(u16::from_be_bytes);
                }
                1 | 58 => note = note.or_else(|| icmp(self.proto, transport)),
                _ => {}
            }
        }
        Inner { proto, source: self.source.to_string(), target: self.target.to_string(), note }
    }
}

fn icmp(proto: u8, message: &[u8]) -> Option<String> {
    let about = || Some(Ipv6Addr::from_octets(bytes(message, 8)?));
    let [kind] = bytes(message, 0)?;
    Some(match (proto, kind) {
        (1, 8) | (58, 128) => "echo request".into(),
        (1, 0) | (58, 129) => "echo reply".into(),
        (58, 135) => format!("solicits {}", about()?),
        (58, 136) => format!("advertises {}", about()?),
        _ => format!("type {kind}"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_have_a_summary(
            start in prop_oneof![
                Just(&[][..]),
                Just(&[0x08, 0x00, 0x45][..]),
                Just(&[0x81, 0x00, 0, 7, 0x08, 0x06][..]),
                Just(&[0x86, 0xdd, 0x60][..]),
            ],
            rest in vec(prop_oneof![2 => Just(0), 1 => Just(44), 1 => any::<u8>()], 0..120),
        ) {
            let frame = [&[2; 12][..], start, &rest].concat();
            for end in 0..frame.len() {
                prop_assert!(Summary::of(&frame[..end]).to_string().contains(" -> "));
            }
        }
    }
}
