//! Programs on the switch's ports, from the lab's own eBPF object (`cargo xtask build` makes it).
//!
//! veth drops what a host sends with `XDP_TX` or redirects unless the other end of the pair has an
//! XDP program too: a real switch port has no such need. The same place serves to lose frames.

use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{Xdp, XdpMode},
};

use crate::ns::Namespace;

/// What a program on a switch port does with the frames that the host behind it sends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum PortProgram {
    /// Lets them pass.
    Pass,
    /// Drops that share of them, `0.0..=1.0`, by chance.
    Lossy(f64),
}

impl PortProgram {
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Lossy(_) => "lossy",
        }
    }

    /// Loads it from `object` and attaches it to every port of the namespace; it stays until the result is dropped.
    pub(crate) fn attach(
        self,
        object: &Path,
        namespace: &Namespace,
        ports: &[String],
    ) -> Result<Ebpf> {
        if !object.is_file() {
            bail!("{} is missing: build it with `cargo xtask build`", object.display());
        }
        namespace
            .in_ns(|| self.attach_here(object, ports))
            .with_context(|| format!("`{}` of {}", self.name(), object.display()))
    }

    fn attach_here(self, object: &Path, ports: &[String]) -> Result<Ebpf> {
        let mut ebpf = EbpfLoader::new().load_file(object).context("load the object")?;
        if let Self::Lossy(share) = self {
            let map = ebpf.map_mut("LOSS").context("no map `LOSS`")?;
            let mut loss = Array::<_, u32>::try_from(map).context("`LOSS`")?;
            loss.set(0, threshold(share), 0).context("set `LOSS`")?;
        }
        let program = ebpf.program_mut(self.name()).context("no such program")?;
        let program: &mut Xdp = program.try_into().context("not an XDP program")?;
        program.load().context("load the program")?;
        for port in ports {
            program.attach(port, XdpMode::Driver).with_context(|| format!("attach to {port}"))?;
        }
        Ok(ebpf)
    }
}

/// A frame is lost when 32 random bits are below this.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the share is between 0 and 1, and the cast of a float saturates"
)]
fn threshold(share: f64) -> u32 {
    (share * f64::from(u32::MAX)) as u32
}
