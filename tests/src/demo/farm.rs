//! The demo's farm: its configuration, and what only the demo asks of it.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    farm::{self, Footprint},
    host::{Host, INTERFACE},
    interrupt::Interrupt,
    lab::{Lab, PREFIX, VIP},
};

/// Powers of the nodes, in order.
const POWERS: [u16; 3] = [2, 1, 1];

/// The farm's agents, and how their nodes looked before they came.
#[derive(Debug)]
pub(super) struct Farm<'a> {
    pub(super) agents: farm::Farm<'a>,
    before: BTreeMap<usize, Footprint>,
}

impl<'a> Farm<'a> {
    /// Writes the key and the configuration; no agent runs yet.
    pub(super) fn new(lab: &'a Lab, vipfarm: &Path) -> Result<Self> {
        let agents = farm::Farm::new(lab, vipfarm, "demo", &vips(lab))?;
        let look = |node| Ok((node, agents.footprint(node)?));
        let before = (1..=lab.nodes().len()).map(look).collect::<Result<_>>()?;
        Ok(Self { agents, before })
    }

    /// Waits until these nodes agree that they, and no others, are the farm: how long it took.
    pub(super) fn wait_converged(
        &mut self,
        nodes: &[usize],
        interrupt: &Interrupt,
    ) -> Result<Duration> {
        self.agents.wait_converged_or(nodes, |pause| interrupt.sleep(pause))
    }

    /// The picture of who owns which bucket, coloured if asked for.
    pub(super) fn bitmap(&self, node: usize, colour: bool) -> Result<String> {
        let mut command = self.agents.ask_command(node, &["bitmap"]);
        if colour {
            command.env_remove("NO_COLOR").env("CLICOLOR_FORCE", "1");
        }
        let output = farm::run_to_end(&mut command)?;
        ensure!(output.status.success(), "`vipfarm bitmap` ended with {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Stops all agents with SIGTERM; an error unless each exits 0 and leaves nothing behind.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.agents.stop()?;
        for (&node, before) in &self.before {
            let after = self.agents.footprint(node)?;
            ensure!(after == *before, "node{node} is {after:?}, and was {before:?}");
        }
        Ok(())
    }
}

fn vips(lab: &Lab) -> String {
    let power = |(node, power): (&Host, u16)| format!("{}: {power}", node.name());
    let powers: Vec<_> = lab.nodes().iter().zip(POWERS).map(power).collect();
    format!(
        "vips:
  - interface: {INTERFACE}
    mode: vmac_invisible
    addresses: [{VIP}/{PREFIX}]
    groups:
      - name: web
        powers: {{ {powers} }}
        rules:
          - {{ port: 80, proto: tcp, filter: on_port }}
          - {{ port: 7000, proto: udp, filter: on_port }}
",
        powers = powers.join(", "),
    )
}
