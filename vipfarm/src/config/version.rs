//! What the file format knows and this version does not serve yet.

use crate::model::Open;

use super::diagnostic::Report;
use super::vip::VipDraft;

/// Refuses VIPs that are opened by hand.
pub(super) fn refuse_unserved(vip: &VipDraft, report: &mut Report) {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    if vip.open.value == Open::Manual {
        report.error(
            vip.open.at,
            format!(
                "vipfarm {VERSION} cannot open a VIP by hand yet, so this one would stay closed"
            ),
            "use `open: auto`",
        );
    }
}
