//! A TC program of somebody else, which lets every frame go on and ends the chain.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::net::if_::if_nametoindex;

/// `BPF_PROG_LOAD`, `BPF_LINK_CREATE`, `BPF_PROG_TYPE_SCHED_CLS`, `BPF_TCX_INGRESS` and
/// `BPF_TCX_EGRESS` (`linux/bpf.h`).
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;

/// `BPF_F_BEFORE`.
const BEFORE: u32 = 1 << 3;

/// `r0 = TC_ACT_OK; exit`.
const ENDS_THE_CHAIN: [u64; 2] = [0xb7, 0x95];

/// Attaches such a program in both directions, before or behind those that are there, on an interface
/// of the calling thread's namespace; for as long as what it returns lives.
///
/// # Errors
/// If the kernel refuses it, or has no TCX (Linux 6.6).
pub fn attach(interface: &str, first: bool) -> io::Result<[OwnedFd; 2]> {
    let program = load()?;
    let index = if_nametoindex(interface)?;
    let fd = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    let link = |direction: u32| {
        let mut attributes = [0_u64; 8];
        attributes[0] = pair(fd, index);
        attributes[1] = pair(direction, if first { BEFORE } else { 0 });
        bpf(LINK_CREATE, &mut attributes)
    };
    Ok([link(TCX_INGRESS)?, link(TCX_EGRESS)?])
}

fn load() -> io::Result<OwnedFd> {
    let mut attributes = [0_u64; 8];
    attributes[0] = pair(SCHED_CLS, 2);
    attributes[1] = ENDS_THE_CHAIN.as_ptr() as u64;
    attributes[2] = c"GPL".as_ptr() as u64;
    attributes[6] = u64::from_ne_bytes(*b"stranger");
    bpf(PROG_LOAD, &mut attributes)
}

/// Two words of 32 bits in the order of their places in memory, on a machine that has the low byte first.
fn pair(first: u32, second: u32) -> u64 {
    u64::from(second) << 32 | u64::from(first)
}

fn bpf(command: libc::c_long, attributes: &mut [u64; 8]) -> io::Result<OwnedFd> {
    let size = size_of_val(attributes);
    // SAFETY: the attributes are valid for their size, and what they point to is static.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, for this caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
