//! What an interface's hardware does to frames before the filter sees them.

use std::io;

use super::ioctl::{SIOCETHTOOL, ask, request};

/// `ETHTOOL_GFLAGS` (`linux/ethtool.h`) and its bits.
const GET_FLAGS: u32 = 0x25;
const RX_VLAN: u32 = 1 << 8;
const LRO: u32 = 1 << 15;

/// The settings that matter to the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// TCP segments are merged (large receive offload).
    pub lro: bool,
    /// VLAN tags are taken off the frame.
    pub rx_vlan: bool,
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

impl Offloads {
    /// Those of an interface in the network namespace of the calling thread; none for a device that
    /// knows no such settings. Errors if there is no such interface.
    pub fn of(interface: &str) -> io::Result<Self> {
        let mut value = Value { command: GET_FLAGS, data: 0 };
        let mut request = request(interface)?;
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        match ask(SIOCETHTOOL, &mut request) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Self::default()),
            Err(error) => Err(error),
            Ok(()) => Ok(Self::of_flags(value.data)),
        }
    }

    fn of_flags(flags: u32) -> Self {
        Self { lro: flags & LRO != 0, rx_vlan: flags & RX_VLAN != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_flags_are_told_apart() {
        assert_eq!(Offloads::of_flags(!(LRO | RX_VLAN)), Offloads::default());
        assert_eq!(Offloads::of_flags(1 << 15), Offloads { lro: true, rx_vlan: false });
        assert_eq!(Offloads::of_flags(1 << 8), Offloads { lro: false, rx_vlan: true });
    }

    #[test]
    fn a_device_without_hardware_strips_no_tags_and_one_that_is_not_there_is_an_error() {
        assert!(!Offloads::of("lo").expect("there is one in each namespace").rx_vlan);
        let absent = Offloads::of("vipfarm-absent").expect_err("there is none");
        assert_eq!(absent.raw_os_error(), Some(libc::ENODEV));
        assert!(Offloads::of("a-name-longer-than-any-interface").is_err());
    }
}
