//! Many datagrams by one system call: `sendmmsg` and `recvmmsg`.
//!
//! On libc, for the `MultiHeaders` of nix 0.31 cannot be used twice: what the kernel wrote into their
//! lengths stays, so that a datagram finds no room for the control messages that its forerunner did
//! not have, and a loss would never be seen. Headers are made anew for each call, on the stack; the
//! buffers behind them once.

use std::{
    mem,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{SockaddrLike, SockaddrStorage},
};

use crate::{membership::MAX_DATAGRAM, model::MAX_NODES};

/// Datagrams of one system call at most: a round of heartbeats in the largest farm.
pub(super) const BATCH: usize = MAX_NODES;

/// Bytes of what comes beside a datagram: its time of arrival and the number of lost ones.
const CONTROL: usize = control_space::<libc::timespec>() + control_space::<u32>();

/// Buffers for the datagrams of one call.
pub(super) struct Inbox(Box<[Slot]>);

#[derive(Clone)]
#[repr(align(8))]
struct Control([u8; CONTROL]);

#[derive(Clone)]
struct Slot {
    /// One byte more than the longest datagram: what is longer is seen to be.
    data: [u8; MAX_DATAGRAM + 1],
    control: Control,
    source: libc::sockaddr_storage,
}

/// One that was read.
#[derive(Debug)]
pub(super) struct Datagram<'i> {
    /// Who sent it; `None` for what is not an IP address.
    pub source: Option<IpAddr>,
    /// Its bytes, at most one more than [`MAX_DATAGRAM`].
    pub bytes: &'i [u8],
    /// When it arrived, since 1970 on the wall clock; needs `SO_TIMESTAMPNS`.
    pub arrived: Option<Duration>,
    /// How many the kernel had dropped for want of room when this one came, if any; needs
    /// `SO_RXQ_OVFL`.
    pub dropped: Option<u32>,
}

/// Sends a datagram to all; says to how many it left. An error about one does not keep it from the
/// next.
pub(super) fn send(socket: BorrowedFd<'_>, datagram: &[u8], peers: &[SockaddrStorage]) -> usize {
    let mut part =
        libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
    let mut headers = [no_header(); BATCH];
    let (mut sent, mut rest) = (0, peers);
    while !rest.is_empty() {
        let count = rest.len().min(BATCH);
        for (header, peer) in headers.iter_mut().zip(rest) {
            header.msg_hdr.msg_name = peer.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = peer.len();
            header.msg_hdr.msg_iov = &raw mut part;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: that many headers are valid; they point to addresses and bytes that live on, and
        // which the kernel only reads.
        let left = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                vlen(count),
                libc::MSG_DONTWAIT,
            )
        };
        // It ends at the first peer that cannot be sent to, and is an error if none came before.
        let left = usize::try_from(left).unwrap_or(0);
        sent += left;
        rest = &rest[left.max(1)..];
    }
    sent
}

impl Inbox {
    pub(super) fn new() -> Self {
        // SAFETY: a plain structure of numbers, for which zeroes are valid.
        let source = unsafe { mem::zeroed() };
        let slot = Slot { data: [0; MAX_DATAGRAM + 1], control: Control([0; CONTROL]), source };
        Self(vec![slot; BATCH].into())
    }

    /// Reads what waits, in the order of its arrival, `most` datagrams and [`BATCH`] at most, and
    /// does not wait itself: `EAGAIN` if there is nothing.
    pub(super) fn read(
        &mut self,
        socket: BorrowedFd<'_>,
        most: usize,
    ) -> nix::Result<impl ExactSizeIterator<Item = Datagram<'_>>> {
        // SAFETY: a plain structure of pointers and numbers, for which zeroes are valid.
        let mut parts: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
        let mut headers = [no_header(); BATCH];
        for ((slot, part), header) in self.0.iter_mut().zip(&mut parts).zip(&mut headers) {
            part.iov_base = slot.data.as_mut_ptr().cast();
            part.iov_len = slot.data.len();
            header.msg_hdr.msg_name = (&raw mut slot.source).cast();
            header.msg_hdr.msg_namelen = socklen(size_of_val(&slot.source));
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = slot.control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = slot.control.0.len();
        }
        // SAFETY: that many headers are valid; they point to buffers of the lengths that they name,
        // which nobody else uses meanwhile.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                vlen(most.min(BATCH)),
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(Errno::result(count)?).unwrap_or(0);
        Ok(self.0[..count].iter().enumerate().map(move |(at, slot)| slot.datagram(&headers[at])))
    }
}

impl Slot {
    /// The datagram that the kernel described by `header`.
    fn datagram(&self, header: &libc::mmsghdr) -> Datagram<'_> {
        let length = header.msg_len as usize;
        let control = &self.control.0[..header.msg_hdr.msg_controllen];
        Datagram {
            source: ip_of(&self.source, header.msg_hdr.msg_namelen),
            bytes: &self.data[..length],
            arrived: control_message(control, libc::SCM_TIMESTAMPNS).and_then(duration),
            dropped: control_message(control, libc::SO_RXQ_OVFL)
                .and_then(|bytes| Some(u32::from_ne_bytes(*bytes.first_chunk()?))),
        }
    }
}

/// The content of the first control message of that type at the level of sockets.
fn control_message(mut control: &[u8], wanted: libc::c_int) -> Option<&[u8]> {
    const LEVEL: usize = mem::offset_of!(libc::cmsghdr, cmsg_level);
    const TYPE: usize = mem::offset_of!(libc::cmsghdr, cmsg_type);
    loop {
        let length = usize::from_ne_bytes(*control.first_chunk()?);
        let (header, content) =
            control.get(..length)?.split_at_checked(size_of::<libc::cmsghdr>())?;
        let number = |at: usize| Some(i32::from_ne_bytes(*header.get(at..)?.first_chunk()?));
        if number(LEVEL)? == libc::SOL_SOCKET && number(TYPE)? == wanted {
            return Some(content);
        }
        control = control.get(length.next_multiple_of(align_of::<libc::cmsghdr>())..)?;
    }
}

/// A `timespec`.
fn duration(bytes: &[u8]) -> Option<Duration> {
    let (seconds, nanos) = bytes.split_first_chunk()?;
    let nanos = i64::from_ne_bytes(*nanos.first_chunk()?);
    let seconds = u64::try_from(i64::from_ne_bytes(*seconds)).ok()?;
    Some(Duration::new(seconds, u32::try_from(nanos).ok()?))
}

fn ip_of(source: &libc::sockaddr_storage, length: libc::socklen_t) -> Option<IpAddr> {
    // SAFETY: it points to as many bytes as the largest address has, all of them initialised.
    let address = unsafe { SockaddrStorage::from_raw(ptr::from_ref(source).cast(), Some(length)) };
    let address = address?;
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn no_header() -> libc::mmsghdr {
    // SAFETY: a plain structure of pointers and numbers, for which zeroes are valid.
    unsafe { mem::zeroed() }
}

const fn control_space<T>() -> usize {
    size_of::<libc::cmsghdr>() + size_of::<T>().next_multiple_of(align_of::<libc::cmsghdr>())
}

fn vlen(count: usize) -> libc::c_uint {
    libc::c_uint::try_from(count).expect("at most a batch")
}

fn socklen(length: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(length).expect("an address's length")
}
