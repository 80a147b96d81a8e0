//! What an interface's driver says of itself: its name, its MTU, and which XDP it has, by the generic
//! netlink family `netdev` (Linux 6.3).

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

use super::ioctl::{SIOCETHTOOL, ask, request};

/// `ETHTOOL_GDRVINFO` (`linux/ethtool.h`).
const GET_DRIVER_INFO: u32 = 3;

/// `struct ethtool_drvinfo`, as far as it is read.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// An interface's driver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Driver {
    /// Its name; `None` where it does not say.
    pub name: Option<String>,
    /// The interface's MTU in bytes.
    pub mtu: u32,
    /// Its XDP; `None` where the kernel does not tell.
    pub xdp: Option<XdpFeatures>,
}

/// What a driver can do in XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpFeatures {
    /// Programs run in the driver, and may drop, pass and send back.
    pub native: bool,
    /// Frames may come in several buffers.
    pub several_buffers: bool,
}

impl XdpFeatures {
    /// `NETDEV_XDP_ACT_BASIC` and `NETDEV_XDP_ACT_RX_SG` (`linux/netdev.h`).
    fn of_flags(flags: u64) -> Self {
        Self { native: flags & 1 != 0, several_buffers: flags & 1 << 5 != 0 }
    }
}

impl Driver {
    /// That of an interface in the network namespace of the calling thread. Errors if there is no such
    /// interface.
    pub fn of(interface: &str, index: u32) -> io::Result<Self> {
        Ok(Self { name: name(interface)?, mtu: mtu(interface)?, xdp: xdp_features(index).ok() })
    }
}

fn name(interface: &str) -> io::Result<Option<String>> {
    let mut info = DriverInfo { command: GET_DRIVER_INFO, driver: [0; 32], rest: [0; 160] };
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    match ask(SIOCETHTOOL, &mut request) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => {
            let end = info.driver.iter().position(|&byte| byte == 0).unwrap_or(info.driver.len());
            Ok(Some(String::from_utf8_lossy(&info.driver[..end]).into_owned()))
        }
    }
}

fn mtu(interface: &str) -> io::Result<u32> {
    let mut request = request(interface)?;
    ask(libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: the kernel has filled in this one, a number.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u32::try_from(mtu).unwrap_or(0))
}

/// `GENL_ID_CTRL`, its command `CTRL_CMD_GETFAMILY` and attributes (`linux/genetlink.h`).
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `NETDEV_CMD_DEV_GET` and its attributes (`linux/netdev.h`).
const DEVICE_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;

/// Netlink's header and that of generic netlink: 16 and 4 bytes.
const HEADERS: usize = 20;

fn xdp_features(index: u32) -> io::Result<XdpFeatures> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let answer = talk(&socket, &message(CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0"))?;
    let missing = || io::Error::from(io::ErrorKind::Unsupported);
    let family = attribute(&answer, FAMILY_ID).and_then(|id| id.first_chunk::<2>());
    let family = u16::from_ne_bytes(*family.ok_or_else(missing)?);
    let answer = talk(&socket, &message(family, DEVICE_GET, IFINDEX, &index.to_ne_bytes()))?;
    let flags = attribute(&answer, XDP_FEATURES).and_then(|flags| flags.first_chunk::<8>());
    Ok(XdpFeatures::of_flags(u64::from_ne_bytes(*flags.ok_or_else(missing)?)))
}

/// A request with one attribute.
fn message(family: u16, command: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    const NLM_F_REQUEST: u16 = 1;
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
    let padded = value.len().next_multiple_of(4);
    let mut bytes = u32::from(length(HEADERS + 4 + padded)).to_ne_bytes().to_vec();
    bytes.extend(family.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend([0; 8]);
    // Version 1, and two bytes that are reserved.
    bytes.extend([command, 1, 0, 0]);
    bytes.extend(length(4 + value.len()).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(HEADERS + 4 + padded, 0);
    bytes
}

/// The attributes of the answer; the kernel's refusal is the error.
fn talk(socket: &Socket, message: &[u8]) -> io::Result<Vec<u8>> {
    const NLMSG_ERROR: u16 = 2;
    socket.send(message, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let kind = answer.get(4..6).and_then(|kind| kind.first_chunk()).ok_or_else(short)?;
    if u16::from_ne_bytes(*kind) == NLMSG_ERROR {
        let code = answer.get(16..).and_then(|code| code.first_chunk()).ok_or_else(short)?;
        return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(*code)));
    }
    Ok(answer.get(HEADERS..).ok_or_else(short)?.to_vec())
}

/// The value of the first attribute of that kind.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (&[l0, l1, k0, k1], _) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([k0, k1]) == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_a_large_mtu_and_no_driver_of_that_name() {
        // Index 1 in every namespace.
        let driver = Driver::of("lo", 1).expect("there is one in each namespace");
        assert!(driver.mtu >= 1500, "{driver:?}");
        assert!(driver.xdp.is_none_or(|xdp| !xdp.native), "{driver:?}");
        let absent = Driver::of("vipfarm-absent", 0).expect_err("there is none");
        assert_eq!(absent.raw_os_error(), Some(libc::ENODEV));
        Driver::of("a-name-longer-than-any-interface", 0).expect_err("too long");
    }

    #[test]
    fn attributes_are_found_behind_others_and_broken_ones_end_the_search() {
        let bytes = &message(0x10, 3, 2, b"netdev\0")[HEADERS..];
        assert_eq!(attribute(bytes, 2), Some(&b"netdev\0"[..]));
        assert_eq!(attribute(bytes, 1), None);
        let two = [bytes, &message(0x10, 3, 7, &[1, 2])[HEADERS..]].concat();
        assert_eq!(attribute(&two, 7), Some(&[1, 2][..]));
        assert_eq!(attribute(&[0, 0, 2, 0], 2), None, "shorter than its own header");
        assert_eq!(attribute(&[9, 0, 2, 0, 1], 2), None, "longer than what is there");
    }

    #[test]
    fn features_are_told_apart_by_their_bits() {
        let of = XdpFeatures::of_flags;
        assert_eq!(of(0b1), XdpFeatures { native: true, several_buffers: false });
        assert_eq!(of(0b10_0000), XdpFeatures { native: false, several_buffers: true });
    }
}
