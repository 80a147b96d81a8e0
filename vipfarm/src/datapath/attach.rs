//! Attaches the programs to the interface, or puts them in the place of a dead agent's.

use std::{io, mem, ops::RangeInclusive};

use aya::{
    Ebpf,
    programs::{
        ProgramError, SchedClassifier, TcAttachType, Xdp,
        links::{FdLink, LinkError, LinkOrder, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
        xdp::{XdpLink, XdpMode as AyaMode},
    },
    sys::SyscallError,
    util::KernelVersion,
};

use super::{Error, Options, XdpMode, object, pins::Pins};

/// The TC programs. Their names are those of the filters where the kernel has no TCX, hence the
/// prefix.
const TC_PROGRAMS: [(&str, TcAttachType); 2] =
    [("vipfarm_fixup", TcAttachType::Ingress), ("vipfarm_guard", TcAttachType::Egress)];

/// Where the TC programs are on a clsact qdisc: by a fixed number, hardly anybody else's, a filter is
/// found again and its program replaced.
const HANDLE: TcHandle = TcHandle::new(0, 0x5afe);

/// Before others' filters, one of which could end the chain. Some are taken: a priority is for filters
/// of one kind.
const PRIORITIES: RangeInclusive<u16> = 1..=16;

/// Where the XDP link is pinned; the name says how it is attached.
pub(super) fn xdp_pin(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Native => "filter-native",
        XdpMode::Generic => "filter-generic",
    }
}

/// Attaches everything. The filter first: whoever else has the interface is found out by it before
/// anything is touched, and it accepts nothing before the lease begins.
///
/// The links stay pinned when this process dies. A pinned link of a former agent gets the new
/// program by one atomic update; one whose device is gone is replaced.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    options: &Options,
    frags: bool,
    pins: &Pins,
) -> Result<XdpMode, Error> {
    // The former agent's `filter` still jumps through its own table: pin the new one beside it,
    // and let it take the name when the new `filter` is in place.
    let jump = object::fill_jump(ebpf)?;
    pins.unpin("jump-new")?;
    jump.pin(pins.path("jump-new")).map_err(|error| Error::Kernel {
        what: "the pin of the jump table",
        reason: error.to_string(),
    })?;
    let mode = attach_xdp(object::xdp(ebpf, "filter")?, options, frags, pins)?;
    pins.rename("jump-new", "jump")?;
    for (name, direction) in TC_PROGRAMS {
        let program = object::classifier(ebpf, name)?;
        if options.clsact || !has_tcx() {
            attach_clsact(program, name, direction, &options.interface)?;
        } else {
            attach_tcx(program, name, direction, &options.interface, pins)?;
        }
    }
    Ok(mode)
}

/// Takes away what no pin holds: TC filters of kernels without TCX. That there are none is fine.
pub(super) fn detach_filters(interface: &str) -> Result<(), Error> {
    for (name, direction) in TC_PROGRAMS {
        match tc::qdisc_detach_program(interface, direction, name) {
            // The last is: no clsact qdisc, or no such device.
            Ok(()) | Err(TcError::NetlinkError(_)) => {}
            Err(TcError::IoError(error)) if is_absent(&error) => {}
            Err(error) => return Err(tc_error(&error)),
        }
    }
    Ok(())
}

/// TCX came with Linux 6.6 (commit e420bed02507).
fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

fn attach_xdp(
    program: &mut Xdp,
    options: &Options,
    frags: bool,
    pins: &Pins,
) -> Result<XdpMode, Error> {
    let wanted = if options.generic { XdpMode::Generic } else { XdpMode::Native };
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let pin = xdp_pin(mode);
        if let Some(link) = adopt(pins, pin)? {
            let link: Result<XdpLink, LinkError> = link.try_into();
            // A driver without native XDP left a generic link when native was wanted: keep it.
            let fits = mode == wanted || wanted == XdpMode::Native;
            if fits && link.is_ok_and(|link| program.attach_to_link(link).is_ok()) {
                return Ok(mode);
            }
            pins.unpin(pin)?;
        }
    }
    let mut mode = wanted;
    let mut attached = program.attach(&options.interface, aya_mode(mode));
    if wanted == XdpMode::Native && os_error(&attached) == Some(libc::EOPNOTSUPP) {
        mode = XdpMode::Generic;
        attached = program.attach(&options.interface, aya_mode(mode));
    }
    let id = attached.map_err(|error| xdp_error(error, options, frags, mode))?;
    let link =
        program.take_link(id).map_err(|error| object::program_error("the XDP link", &error))?;
    let link: FdLink = link.try_into().map_err(|_netlink: LinkError| Error::Kernel {
        what: "an XDP link",
        reason: "this kernel attaches XDP by netlink only; 5.15 or later is needed".into(),
    })?;
    pin_link(link, pins, xdp_pin(mode))?;
    Ok(mode)
}

fn attach_tcx(
    program: &mut SchedClassifier,
    name: &'static str,
    direction: TcAttachType,
    interface: &str,
    pins: &Pins,
) -> Result<(), Error> {
    if let Some(link) = adopt(pins, name)? {
        let link: Result<SchedClassifierLink, LinkError> = link.try_into();
        if link.is_ok_and(|link| program.attach_to_link(link).is_ok()) {
            return Ok(());
        }
        pins.unpin(name)?;
    }
    // Another's program that came before could end the chain, and this one would do nothing.
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = program
        .attach_with_options(interface, direction, order)
        .and_then(|id| program.take_link(id))
        .map_err(|error| object::program_error("a TCX link", &error))?;
    let link: FdLink = link.try_into().map_err(|error: LinkError| Error::Kernel {
        what: "a TCX link",
        reason: error.to_string(),
    })?;
    pin_link(link, pins, name)
}

/// A filter on the clsact qdisc survives this process by itself; a former agent's gets the new program
/// in place.
fn attach_clsact(
    program: &mut SchedClassifier,
    name: &'static str,
    direction: TcAttachType,
    interface: &str,
) -> Result<(), Error> {
    match tc::qdisc_add_clsact(interface) {
        // It is there already, which kernels say in several ways; if it is not, attaching fails.
        Ok(()) | Err(TcError::AlreadyAttached | TcError::NetlinkError(_)) => {}
        Err(error) => return Err(tc_error(&error)),
    }
    let former = |priority| {
        SchedClassifierLink::attached(interface, direction, priority, HANDLE, None)
            .map_err(|error| tc_error(&TcError::IoError(error)))
    };
    let mut attached = None;
    for priority in PRIORITIES {
        // Refused if there is none.
        attached = program.attach_to_link(former(priority)?).ok();
        if attached.is_some() {
            break;
        }
    }
    let mut anew = || {
        let at = |priority| NlOptions { priority, handle: HANDLE, classid: None };
        let mut tries = PRIORITIES.map(|priority| {
            let options = TcAttachOptions::Netlink(at(priority));
            program.attach_with_options(interface, direction, options)
        });
        let first = tries.next().expect("there are priorities");
        first.or_else(|error| tries.find_map(Result::ok).ok_or(error))
    };
    let id = attached.map_or_else(&mut anew, Ok);
    let link = id
        .and_then(|id| program.take_link(id))
        .map_err(|error| object::program_error(name, &error))?;
    // Dropping it would detach the filter.
    mem::forget(link);
    Ok(())
}

/// Others' TCX programs that come before the TC programs here, and may end the chain: by name, each with
/// its direction. The kernel tells of them from 6.6 on.
pub(super) fn programs_before(interface: &str) -> Vec<String> {
    let mut before = Vec::new();
    for (name, direction) in TC_PROGRAMS {
        let Ok((_, chain)) = SchedClassifier::query_tcx(interface, direction) else { continue };
        let names =
            || chain.iter().map(|it| it.name_as_str().unwrap_or("a program without a name"));
        if let Some(place) = names().position(|it| it == name) {
            let way = if direction == TcAttachType::Ingress { "ingress" } else { "egress" };
            before.extend(names().take(place).map(|it| format!("{it} ({way})")));
        }
    }
    before
}

/// The link that a former agent pinned under that name.
fn adopt(pins: &Pins, name: &str) -> Result<Option<FdLink>, Error> {
    match PinnedLink::from_pin(pins.path(name)) {
        Ok(link) => Ok(Some(link.into())),
        Err(LinkError::SyscallError(SyscallError { io_error, .. })) if is_absent(&io_error) => {
            Ok(None)
        }
        Err(error) => Err(Error::Kernel { what: "a pinned link", reason: error.to_string() }),
    }
}

fn pin_link(link: FdLink, pins: &Pins, name: &str) -> Result<(), Error> {
    // The pin alone holds the link from here on.
    link.pin(pins.path(name))
        .map(drop)
        .map_err(|error| Error::Kernel { what: "the pin of a link", reason: error.to_string() })
}

fn aya_mode(mode: XdpMode) -> AyaMode {
    match mode {
        XdpMode::Native => AyaMode::Driver,
        XdpMode::Generic => AyaMode::Skb,
    }
}

fn os_error<T>(result: &Result<T, ProgramError>) -> Option<i32> {
    match result {
        Err(ProgramError::SyscallError(SyscallError { io_error, .. })) => io_error.raw_os_error(),
        _ => None,
    }
}

fn xdp_error(error: ProgramError, options: &Options, frags: bool, mode: XdpMode) -> Error {
    let interface = options.interface.clone();
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => {
            match io_error.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST) => Error::Occupied { interface },
                Some(libc::EPERM) => Error::Permission { call: "bpf(BPF_LINK_CREATE)" },
                _ if mode == XdpMode::Native => Error::Native { interface, frags, error: io_error },
                _ => Error::Kernel { what: "the XDP program", reason: io_error.to_string() },
            }
        }
        // After EINVAL aya tries the older netlink interface, whose error has the driver's words.
        ProgramError::XdpError(error) if mode == XdpMode::Native => {
            Error::Native { interface, frags, error: io::Error::other(error) }
        }
        other => object::program_error("the XDP program", &other),
    }
}

fn tc_error(error: &TcError) -> Error {
    Error::Kernel { what: "a TC filter", reason: error.to_string() }
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}
