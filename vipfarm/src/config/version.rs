//! What the file format knows and this version does not serve yet.

use crate::model::Mode;

use super::diagnostic::Report;
use super::vip::VipDraft;

/// Refuses modes other than `vmac_invisible` and IPv6 VIPs.
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
    for address in vip.addresses.iter().filter(|address| address.value.addr.is_ipv6()) {
        report.error(
            address.at,
            format!("vipfarm {VERSION} serves IPv4 VIPs only, not {} yet", address.value.addr),
            "remove the address",
        );
    }
}
