//! An `AF_PACKET` socket on one interface: every frame as it passes, both ways.

use std::{
    ffi::c_int,
    io,
    mem::{size_of, zeroed},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use nix::{
    net::if_::if_nametoindex,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    capture::{Captured, Direction},
    ns::Namespace,
};

/// libc's constants in the width of the fields they go into.
const AF_PACKET: u16 = 17;
const ETH_P_ALL: u16 = 0x0003;
const ETH_P_8021Q: u16 = 0x8100;

/// Longest frame: a super-frame of segmentation offload and its header.
const MAX_FRAME: usize = 65_536 + 64;

/// Kernel buffer in bytes: a second of the lab's busiest link.
const RECEIVE_BUFFER: c_int = 16 << 20;

/// A bound packet socket.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens it on `interface` of `namespace`.
    pub(crate) fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        namespace
            .in_ns(|| open_here(interface))
            .map(|fd| Self { fd })
            .with_context(|| format!("open a packet socket on {interface} of {}", namespace.name()))
    }

    /// Sends one frame as it is.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length describe `frame`.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Room for the longest frame, to be reused from one [`PacketSocket::receive`] to the next.
    pub(crate) fn buffer() -> Vec<u8> {
        vec![0; MAX_FRAME]
    }

    /// The next frame, or `None` when there was none for `timeout`.
    pub(crate) fn receive(
        &self,
        buffer: &mut [u8],
        timeout: Duration,
    ) -> io::Result<Option<Captured>> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, timeout)? == 0 {
            return Ok(None);
        }
        self.receive_ready(buffer)
    }

    fn receive_ready(&self, buffer: &mut [u8]) -> io::Result<Option<Captured>> {
        let mut control = [0_u64; 32];
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: zero bytes are a valid address and a valid message header.
        let (mut from, mut message) = unsafe { zeroed::<(libc::sockaddr_ll, libc::msghdr)>() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = length_of::<libc::sockaddr_ll>();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in `message` is valid for its length and outlives the call.
        let received =
            unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let Ok(length) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        };
        let bytes = buffer[..length].to_vec();
        let outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
        let direction = if outgoing { Direction::Outgoing } else { Direction::Incoming };
        let mut captured = Captured { at: SystemTime::now(), direction, bytes };
        // SAFETY: the kernel has filled `message`, and its control buffer is still alive.
        unsafe { read_control(&message, &mut captured) };
        Ok(Some(captured))
    }
}

fn open_here(interface: &str) -> io::Result<OwnedFd> {
    let index = if_nametoindex(interface)?.cast_signed();
    // Protocol 0 hears nothing before bind() has chosen the interface.
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: socket() just returned it to us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    set_option(&fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
    // SAFETY: zero bytes are a valid address.
    let mut address = unsafe { zeroed::<libc::sockaddr_ll>() };
    address.sll_family = AF_PACKET;
    address.sll_protocol = ETH_P_ALL.to_be();
    address.sll_ifindex = index;
    // SAFETY: the pointer and the length describe `address`.
    let bound = unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length_of::<libc::sockaddr_ll>())
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

fn set_option(fd: &OwnedFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`.
    let set = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length_of::<c_int>(),
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[expect(clippy::cast_possible_truncation, reason = "the kernel's structures are small")]
fn length_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// Takes the kernel's time stamp, and puts back the VLAN tag that the kernel moved out of the frame.
///
/// # Safety
/// `message` must have been filled by `recvmsg` and its control buffer must be alive.
unsafe fn read_control(message: &libc::msghdr, captured: &mut Captured) {
    // SAFETY: the caller's promise; each header is inside the buffer, or null ends the loop.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, inside the buffer; the data of these types are plain integers.
        unsafe {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    captured.at = system_time(data.cast::<libc::timespec>().read_unaligned());
                }
                (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                    let auxiliary = data.cast::<libc::tpacket_auxdata>().read_unaligned();
                    restore_tag(&auxiliary, &mut captured.bytes);
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}

fn system_time(stamp: libc::timespec) -> SystemTime {
    let seconds = u64::try_from(stamp.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(stamp.tv_nsec).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds)
}

fn restore_tag(auxiliary: &libc::tpacket_auxdata, frame: &mut Vec<u8>) {
    const ADDRESSES: usize = 12;
    if auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID == 0 || frame.len() < ADDRESSES {
        return;
    }
    let known = auxiliary.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let protocol = if known { auxiliary.tp_vlan_tpid } else { ETH_P_8021Q };
    let [a, b] = protocol.to_be_bytes();
    let [c, d] = auxiliary.tp_vlan_tci.to_be_bytes();
    frame.splice(ADDRESSES..ADDRESSES, [a, b, c, d]);
}
