//! Questions about an interface that the kernel answers by `ioctl(2)` alone.

use std::{
    ffi::{CString, c_char},
    io, mem,
    os::fd::AsRawFd,
    ptr,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `SIOCETHTOOL` (`linux/sockios.h`).
pub(super) const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// An empty request about the interface of that name.
pub(super) fn request(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: zero bytes are a valid request.
    let mut request = unsafe { mem::zeroed::<libc::ifreq>() };
    let name = CString::new(interface)?;
    if name.as_bytes_with_nul().len() > request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, &byte) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = c_char::from_ne_bytes([byte]);
    }
    Ok(request)
}

/// Asks in the network namespace of the calling thread; the request points to nothing that is gone.
pub(super) fn ask(what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the kernel reads the request and writes it, or what it points to; both are alive.
    let result = unsafe { libc::ioctl(any.as_raw_fd(), what, ptr::from_mut(request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
