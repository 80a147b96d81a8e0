//! ICMP and `ICMPv6`: echo requests go by the client's address (T10), errors by the packet that they
//! quote (T9). Where one node has all that is for a VIP, it has any of it.

use super::{Address, Flow, Frame, Ip, V4, V6, ip};
use crate::{
    layout::{RULE_ON_IPID, VIP_FAILOVER, VIP_NO_ECHO, VIP_OTHER},
    packet::{Packet, Tables},
    reason::Reason,
    vip::{self, TCP, UDP},
};

/// RFC 792.
const ECHO_REQUEST: u8 = 8;
const DESTINATION_UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// RFC 4443: errors are the types from 1 (destination unreachable) to 4 (parameter problem).
const ECHO_REQUEST_V6: u8 = 128;

/// A quoted packet: who sent it to whom, and where its ports are.
struct Quoted<A> {
    client: A,
    /// Identity of the VIP that sent it, 0 if none did.
    vip: u32,
    proto: u8,
    transport: usize,
    /// Not the first part of its packet, so without ports.
    is_later: bool,
}

impl<P: Packet, T: Tables> Frame<'_, P, T> {
    #[inline(always)]
    pub(super) fn icmp_v4(&self, ip: &Ip<V4>) -> Result<Flow<V4>, Reason> {
        let [kind, ..] = self.packet.at::<8>(ip.transport).ok_or(Reason::Malformed)?;
        match kind {
            ECHO_REQUEST => echo(ip),
            _ if ip.found.vip & VIP_FAILOVER != 0 => Ok(Flow::by_address(ip.client, ip.proto)),
            DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM => {
                self.answered(ip, &self.quoted_v4(ip.transport + 8)?)
            }
            _ => Err(Reason::IcmpType),
        }
    }

    #[inline(always)]
    pub(super) fn icmp_v6(&self, ip: &Ip<V6>) -> Result<Flow<V6>, Reason> {
        let [kind, ..] = self.packet.at::<8>(ip.transport).ok_or(Reason::Malformed)?;
        match kind {
            ECHO_REQUEST_V6 => echo(ip),
            _ if ip.found.vip & VIP_FAILOVER != 0 => Ok(Flow::by_address(ip.client, ip.proto)),
            1..=4 => self.answered(ip, &self.quoted_v6(ip.transport + 8)?),
            _ => Err(Reason::IcmpType),
        }
    }

    /// The flow whose answer was quoted: it was sent *by* the VIP, so its destination is the client.
    #[inline(always)]
    fn answered<A: Address>(&self, ip: &Ip<A>, quoted: &Quoted<A>) -> Result<Flow<A>, Reason> {
        let &Quoted { client, proto, .. } = quoted;
        if quoted.vip & 0xff != ip.found.vip & 0xff {
            return Err(Reason::IcmpForeign);
        }
        match proto {
            TCP | UDP => {
                if quoted.is_later {
                    return Err(Reason::Fragment);
                }
                // Eight bytes are all that a router must quote (RFC 792), and the ports are in them.
                let ports = self.packet.at::<4>(quoted.transport).ok_or(Reason::Malformed)?;
                let [a, b, c, d] = ports;
                // The answer's IP-ID says nothing of the request's.
                let rule = vip::rule_of(
                    self.now,
                    ip.found.mixed,
                    ip.found.vip,
                    proto == UDP,
                    u16::from_ne_bytes([a, b]),
                );
                if rule & RULE_ON_IPID != 0 {
                    let copied = self.copies_to_all(ip.found.vip);
                    return Err(if copied { Reason::CopiedIcmp } else { Reason::IcmpShared });
                }
                Ok(Flow { client, client_port: [c, d], vip_port: [a, b], ip_id: [0; 2], proto })
            }
            _ if proto == A::ICMP || ip.found.vip & VIP_OTHER != 0 => {
                Ok(Flow::by_address(client, proto))
            }
            _ => Err(Reason::IcmpForeign),
        }
    }

    #[inline(always)]
    fn quoted_v4(&self, inner: usize) -> Result<Quoted<V4>, Reason> {
        let ip = self.packet.at::<20>(inner).ok_or(Reason::Malformed)?;
        if ip[0] >> 4 != 4 || ip[0] & 15 < 5 {
            return Err(Reason::Malformed);
        }
        let source = [ip[12], ip[13], ip[14], ip[15]];
        Ok(Quoted {
            client: V4([ip[16], ip[17], ip[18], ip[19]]),
            vip: vip::look_up_v4(self.now, self.active, source, self.ethernet.vlans).vip,
            proto: ip[9],
            transport: inner + usize::from(ip[0] & 15) * 4,
            is_later: u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0,
        })
    }

    #[inline(always)]
    fn quoted_v6(&self, inner: usize) -> Result<Quoted<V6>, Reason> {
        let [first, _, _, _, _, _, next, _] =
            self.packet.at::<8>(inner).ok_or(Reason::Malformed)?;
        if first >> 4 != 6 {
            return Err(Reason::Malformed);
        }
        let source = self.packet.at::<16>(inner + 8).ok_or(Reason::Malformed)?;
        let client = self.packet.at::<16>(inner + 24).ok_or(Reason::Malformed)?;
        let headers = ip::extensions::<P, 2>(self.packet, next, inner + 40)?;
        Ok(Quoted {
            client: V6(client),
            vip: vip::look_up_v6(self.now, self.active, source, self.ethernet.vlans).vip,
            proto: headers.proto,
            transport: headers.transport,
            is_later: headers.is_later(),
        })
    }
}

#[inline(always)]
fn echo<A: Address>(ip: &Ip<A>) -> Result<Flow<A>, Reason> {
    if ip.found.vip & VIP_NO_ECHO != 0 {
        return Err(Reason::EchoDenied);
    }
    Ok(Flow::by_address(ip.client, A::ICMP))
}
