//! What the runtime does while the heartbeat thread runs: looks now and then, answers, and acts on what
//! the machine, the operator and the system ask for.

use std::{convert::Infallible, future::Future, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{self, MissedTickBehavior},
};

use super::{
    CONFLICT_ROUND,
    command::{Command, Commander},
    conflicts::{PROBE_ROUND, Prober},
    engine::Report,
    listener::Listener,
    notify::Notifier,
    report::Reporter,
    signals::{Asked, Signals},
    stop::{self, Stop},
    upgrade::Upgrade,
    watch::Change,
};
use crate::net;

/// An agent at work.
pub(super) struct Running<'s> {
    pub(super) reporter: Arc<Reporter>,
    pub(super) listener: Listener<Reporter>,
    pub(super) stop: Stop,
    pub(super) prober: Prober,
    pub(super) commander: Commander,
    pub(super) notifier: Arc<Notifier>,
    pub(super) incoming: mpsc::Receiver<Report>,
    /// Of the machine.
    pub(super) changed: mpsc::Receiver<Change>,
    pub(super) signals: &'s mut Signals,
    /// To have the agent replaced.
    pub(super) asked: mpsc::Receiver<Upgrade>,
    /// What was lost, if that is why the agent leaves.
    pub(super) why: Option<String>,
    /// What comes next, if the agent leaves to be replaced.
    pub(super) upgrade: Option<Upgrade>,
}

impl Running<'_> {
    /// Does what the runtime has to do until the heartbeat thread has ended; gives its result, the
    /// reason if the machine lost something, and what comes next if the agent is to be replaced.
    pub(super) async fn supervise<R>(
        mut self,
        mut finished: JoinHandle<R>,
        answering: impl Future<Output = std::io::Result<Infallible>>,
        watching: impl Future<Output = Result<(), net::Error>>,
    ) -> anyhow::Result<(R, Option<String>, Option<Upgrade>)> {
        tokio::pin!(answering, watching);
        let (mut answers, mut watches) = (true, true);
        let mut conflicts = time::interval(CONFLICT_ROUND);
        // Twice what the heartbeat thread needs to show something new.
        let mut proofs = time::interval(self.reporter.period() / 2);
        proofs.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stops = time::interval(stop::ROUND);
        stops.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut probes = time::interval(PROBE_ROUND);
        // A thawed agent does not make up for those it missed.
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let joined = loop {
            tokio::select! {
                Some(report) = self.incoming.recv() => {
                    let is_news = matches!(report, Report::Installed);
                    self.reporter.note(report).await;
                    if is_news {
                        self.go_on_stopping().await?;
                    }
                }
                joined = &mut finished => break joined?,
                Err(error) = &mut answering, if answers => {
                    answers = false;
                    self.reporter.warn("control_lost", format!("the control socket: {error}"));
                }
                Some(change) = self.changed.recv() => self.follow_change(change)?,
                outcome = &mut watching, if watches => {
                    watches = false;
                    if let Err(error) = outcome {
                        self.reporter.warn("watch_lost", format!(
                            "losses of interfaces and addresses will not be noticed: {error}"
                        ));
                    }
                }
                _ = conflicts.tick() => {
                    self.reporter.note_conflicts();
                    self.reporter.tracer.end_idle();
                    self.reporter.leave_what_fails().await;
                    self.reporter.count_connections().await;
                    self.reporter.tidy().await;
                    self.reporter.heed_powers();
                    self.reporter.put_back_vips().await;
                    self.follow_http().await;
                    self.reporter.keep_neighbours().await;
                }
                _ = probes.tick() => {
                    self.reporter.probe(&self.prober).await;
                }
                _ = proofs.tick() => self.reporter.note_proof(),
                _ = stops.tick(), if self.stop.is_waiting() => self.go_on_stopping().await?,
                Some(upgrade) = self.asked.recv() => self.begin_upgrade(upgrade)?,
                asked = self.signals.next() => match asked {
                    Asked::Stop => self.stop_for_good().await?,
                    Asked::ReadAnew => {
                        let reporter = Arc::clone(&self.reporter);
                        // Names may have to be looked up; what came of it is in the history.
                        tokio::spawn(async move { drop(reporter.read_anew(false).await) });
                    }
                },
            }
        };
        while let Ok(report) = self.incoming.try_recv() {
            self.reporter.note(report).await;
        }
        Arc::clone(&self.notifier).during(self.outstay()).await;
        Ok((joined, self.why, self.upgrade))
    }

    /// Leaves the farm and leaves everything in its place, unless the agent stops already.
    fn begin_upgrade(&mut self, upgrade: Upgrade) -> std::io::Result<()> {
        self.asked.close();
        if self.stop.is_asked() || self.why.is_some() {
            self.reporter.info("upgrade_failed", "no upgrade: the agent stops".into());
            return Ok(());
        }
        let hold = upgrade.hold;
        self.reporter.info(
            "upgrading",
            format!("this agent is being replaced; old connections are served for {hold:?}"),
        );
        self.upgrade = Some(upgrade);
        self.stop.hold(hold);
        self.notifier.reloading();
        self.commander.send(Command::Hold(hold))
    }

    async fn stop_for_good(&mut self) -> anyhow::Result<()> {
        self.upgrade = None;
        self.stop().await
    }

    async fn follow_http(&mut self) {
        for error in self.listener.follow(&self.reporter.http()).await {
            self.reporter.warn("http_not_listening", error);
        }
    }

    pub(super) fn leave(&self) -> std::io::Result<()> {
        self.notifier.stopping(self.reporter.hooks_time());
        self.commander.send(Command::Leave)
    }

    /// Acts on what the machine has lost or found again.
    fn follow_change(&mut self, change: Change) -> std::io::Result<()> {
        match change {
            Change::Missing(missing) => {
                self.reporter.health.note_missing(&missing);
                Ok(())
            }
            Change::Unknown(error) => {
                let message =
                    format!("losses of interfaces and addresses are not noticed for now: {error}");
                self.reporter.warn("watch_lost", message);
                Ok(())
            }
            Change::Lost(lost) => {
                self.reporter.warn("vip_lost", format!("{lost}: leaving the farm"));
                self.why = Some(lost);
                self.leave()
            }
            Change::NoCarrier(interfaces) => {
                let fit = interfaces.is_empty();
                if fit {
                    self.reporter
                        .info("carrier", "the VIPs' interfaces have a carrier again".into());
                } else {
                    let names = interfaces.into_iter().collect::<Vec<_>>().join(", ");
                    let message = format!(
                        "no carrier on {names}, which VIPs are on: this node serves nothing until it is back"
                    );
                    self.reporter.warn("carrier_lost", message);
                }
                // In force before the answer, for which nobody waits.
                let (reply, _) = oneshot::channel();
                self.commander.send(Command::SetFit { fit, reply })
            }
        }
    }
}
