//! What follows from this node's checks besides what the farm agrees on, and what is told of them and of
//! it by HTTP.

use std::{sync::PoisonError, time::Instant};

use super::{Reporter, Source};
use crate::{
    agent::{listener::Look, readiness},
    model::{Abstention, Http},
    status::{CheckStatus, Status},
};

impl Reporter {
    /// Resets what is left of groups that the farm has taken from this node because of a check that
    /// asks for that.
    pub(in crate::agent) async fn leave_what_fails(&self) {
        let snapshot = self.latest.get();
        let leaves = self.health.leaves(&self.configurations.get(snapshot.digest));
        let in_view = snapshot.view.abstentions.of(self.own);
        let given_up =
            move |kernel_group| leaves.is_from(kernel_group) && in_view.is_from(kernel_group);
        if leaves == Abstention::NONE {
            return;
        }
        match self.linger.reset_given_away(given_up).await {
            Ok(0) => {}
            Ok(reset) => self.info(
                "connections_reset",
                format!("{reset} TCP connections were reset because a check fails"),
            ),
            Err(error) => self.not_counted(&error),
        }
    }

    /// Puts VIPs back that somebody took off this node, if it is time to.
    pub(in crate::agent) async fn put_back_vips(&self) {
        let missing = self.health.missing();
        let is_due = || {
            let mut mender = self.mender.lock().unwrap_or_else(PoisonError::into_inner);
            mender.is_due(Instant::now(), !missing.is_empty())
        };
        if is_due()
            && let Err(error) = self.reloader.lock().await.put_back(&missing).await
        {
            self.warn("vip_not_put_back", format!("{error:#}"));
        }
    }

    /// Where the file has HTTP requests answered.
    pub(in crate::agent) fn http(&self) -> Http {
        self.configurations.get(self.latest.get().digest).farm.http.clone()
    }
}

impl Look for Reporter {
    fn state(&self) -> Status {
        let mut status = self.status();
        status.checks = status.checks.into_iter().map(CheckStatus::for_strangers).collect();
        status
    }

    fn is_ready(&self, what: Option<&str>) -> Option<bool> {
        let snapshot = self.latest.get();
        readiness::is_ready(&self.configurations.get(snapshot.digest), &snapshot, what)
    }
}
