//! The UDP flows that stay with this node when their bucket moves, by rules that have them linger.

use std::net::{IpAddr, SocketAddr};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData, MapError},
};
use vipfarm_common::packet::{FLOW_V6, FlowKey, MAX_FLOWS, seen_in, seen_ns};

use super::{Error, object};

/// As the map has it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(FlowKey);

// SAFETY: plain bytes and an integer, without padding: 40 bytes aligned to four.
unsafe impl Pod for Key {}

/// The kernel's memory of one interface.
pub struct Flows(HashMap<MapData, Key, u64>);

/// A flow that this node has served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowSeen {
    /// The client's end.
    pub client: SocketAddr,
    /// The farm's end.
    pub vip: SocketAddr,
    /// The VLANs of its packets: see [`vipfarm_common::layout::vlans`].
    pub vlans: u32,
    /// When its last datagram came, in nanoseconds of the boot clock.
    pub at_ns: u64,
    /// In which tenure of its bucket: see [`vipfarm_common::layout::Group::tenure`].
    pub tenure: u16,
}

impl Flows {
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self, Error> {
        object::take(ebpf, "FLOWS").map(Self)
    }

    /// The flows remembered. Some may be missing, or there twice, if there are more than the kernel can
    /// remember: then it makes room while this goes on.
    pub fn all(&self) -> Result<Vec<FlowSeen>, Error> {
        let mut flows = Vec::new();
        // Where the walk meets a flow that is forgotten just then, it begins anew.
        for key in self.0.keys().take(2 * MAX_FLOWS as usize) {
            let key = key.map_err(|error| object::map_error(&error))?;
            match self.0.get(&key, 0) {
                Ok(seen) => flows.push(key.seen(seen)),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(object::map_error(&error)),
            }
        }
        Ok(flows)
    }
}

impl Key {
    fn seen(&self, seen: u64) -> FlowSeen {
        let FlowKey { client, vip, client_port, vip_port, place } = self.0;
        let is_v6 = place & FLOW_V6 != 0;
        let end = |bytes: [u8; 16], port| {
            let [a, b, c, d, ..] = bytes;
            let addr = if is_v6 { IpAddr::from(bytes) } else { IpAddr::from([a, b, c, d]) };
            SocketAddr::new(addr, u16::from_be_bytes(port))
        };
        FlowSeen {
            client: end(client, client_port),
            vip: end(vip, vip_port),
            vlans: place & !FLOW_V6,
            at_ns: seen_ns(seen),
            tenure: seen_in(seen),
        }
    }
}
