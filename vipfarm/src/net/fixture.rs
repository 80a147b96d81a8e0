//! Interfaces for unit tests.

use super::{Interface, Offloads};
use crate::model::Mac;

/// One that is up, with that number, named by it, the MAC 02:00:00:00:00:01 and these addresses.
pub(crate) fn interface(index: u32, addresses: &[&str]) -> Interface {
    Interface {
        index,
        name: format!("eth{index}"),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        up: true,
        carrier: true,
        xdp_program: None,
        offloads: Offloads::default(),
        vlan: None,
        addresses: addresses.iter().map(|net| net.parse().expect("a net")).collect(),
    }
}
