//! What the file format knows and this version does not serve yet.

use crate::model::Mode;

use super::diagnostic::Report;
use super::vip::VipDraft;

/// Refuses `mode: failover`.
pub(super) fn refuse_unserved(vip: &VipDraft, report: &mut Report) {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    if vip.mode.value == Mode::Failover {
        report.error(
            vip.mode.at,
            format!("vipfarm {VERSION} does not serve `mode: failover` yet"),
            "use `mode: vmac_invisible` or `mode: vmac_directed`",
        );
    }
}
