//! What `ethtool -K DEVICE tx on|off` does.

use std::{ffi::c_char, io, os::fd::AsRawFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// linux/ethtool.h.
const ETHTOOL_STXCSUM: u32 = 0x17;
/// linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether the device of the thread's own namespace is to compute the checksums of what it sends.
pub(crate) fn set_transmit_checksums(device: &str, on: bool) -> io::Result<()> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = Value { command: ETHTOOL_STXCSUM, data: u32::from(on) };
    // SAFETY: zero bytes are a valid request.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the kernel reads the request and, behind its pointer, the value; both are alive.
    let set = unsafe { libc::ioctl(any.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
