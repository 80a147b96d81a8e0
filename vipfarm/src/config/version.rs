//! What the file format knows and this version does not serve yet.

use crate::model::{Mode, Open};

use super::diagnostic::Report;
use super::vip::VipDraft;

/// Refuses modes other than `vmac_invisible`, VIPs that are opened by hand, and IPv6 VIPs.
pub(super) fn refuse_unserved(vip: &VipDraft, report: &mut Report) {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let mode = match vip.mode.value {
        Mode::VmacInvisible => None,
        Mode::VmacDirected => Some("vmac_directed"),
        Mode::Failover => Some("failover"),
    };
    if let Some(mode) = mode {
        report.error(
            vip.mode.at,
            format!("vipfarm {VERSION} does not serve `mode: {mode}` yet"),
            "use `mode: vmac_invisible`",
        );
    }
    if vip.open.value == Open::Manual {
        report.error(
            vip.open.at,
            format!(
                "vipfarm {VERSION} cannot open a VIP by hand yet, so this one would stay closed"
            ),
            "use `open: auto`",
        );
    }
    for address in vip.addresses.iter().filter(|address| address.value.addr.is_ipv6()) {
        report.error(
            address.at,
            format!("vipfarm {VERSION} serves IPv4 VIPs only, not {} yet", address.value.addr),
            "remove the address",
        );
    }
}
