//! What `ethtool -K DEVICE rxvlan on|off txvlan on|off` does.

use std::{ffi::c_char, io, os::fd::AsRawFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `linux/sockios.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// `linux/ethtool.h`.
const GET_FLAGS: u32 = 0x25;
const SET_FLAGS: u32 = 0x26;
/// `ETH_FLAG_TXVLAN` and `ETH_FLAG_RXVLAN`.
const VLAN: u32 = 1 << 7 | 1 << 8;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether the device of the thread's own namespace is to keep VLAN tags beside the frames.
pub(crate) fn set_vlan_offload(device: &str, on: bool) -> io::Result<()> {
    let flags = ethtool(device, GET_FLAGS, 0)?;
    ethtool(device, SET_FLAGS, if on { flags | VLAN } else { flags & !VLAN }).map(drop)
}

fn ethtool(device: &str, command: u32, data: u32) -> io::Result<u32> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = Value { command, data };
    // SAFETY: zero bytes are a valid request.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the kernel reads the request and reads or writes the value behind it; both are alive.
    let done = unsafe { libc::ioctl(any.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}
