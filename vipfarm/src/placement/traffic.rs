//! Which traffic goes by which group of a file, and how: what makes a bucket the same in two files.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::model::{Farm, Filter, Mode, Proto, VlanTags};

/// Where packets go: a virtual address in its VLAN, the protocol (`None` = one without ports), and the port
/// (`None` = any that no rule names).
type Service = (VlanTags, IpAddr, Option<Proto>, Option<u16>);

/// What a service goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct By {
    /// The kernel group.
    group: usize,
    filter: Filter,
    keeps_flows: bool,
}

/// All that the rules of a file cover.
#[derive(Debug)]
pub(super) struct Traffic(BTreeMap<Service, By>);

impl Traffic {
    pub(super) fn of(farm: &Farm) -> Self {
        const BUILT_IN: By = By { group: 0, filter: Filter::OnAddr, keeps_flows: false };
        let (mut services, mut first) = (BTreeMap::new(), 1);
        for block in &farm.vips {
            let rules = block.groups.iter().flat_map(|group| &group.rules);
            let ports: BTreeSet<_> = rules.map(|rule| rule.port).chain([None]).collect();
            for addr in block.addresses.iter().map(|vip| vip.addr) {
                let by = |proto, port| {
                    let (index, rule) = block.rule_for(addr, proto, port)?;
                    let keeps_flows = rule.linger.is_some();
                    Some(By { group: first + index, filter: rule.filter, keeps_flows })
                };
                let resolution = by(Proto::Arp, None).unwrap_or(BUILT_IN);
                let other = if block.mode == Mode::Failover { resolution } else { BUILT_IN };
                let mut put =
                    |proto, port, by| services.insert((block.vlan, addr, proto, port), by);
                put(Some(Proto::Arp), None, resolution);
                put(None, None, other);
                for proto in [Proto::Tcp, Proto::Udp] {
                    for &port in &ports {
                        if let Some(by) = by(proto, port) {
                            put(Some(proto), port, by);
                        }
                    }
                }
            }
            first += block.groups.len();
        }
        Self(services)
    }

    fn by(&self, service: Service) -> Option<By> {
        let (vlan, addr, proto, _) = service;
        self.0.get(&service).or_else(|| self.0.get(&(vlan, addr, proto, None))).copied()
    }

    /// Of each service that both files have: the group that it goes by, the one that it went by, and whether
    /// that is in the same way.
    pub(super) fn since<'t>(
        &'t self,
        former: &'t Self,
    ) -> impl Iterator<Item = (usize, usize, bool)> + 't {
        self.0.keys().chain(former.0.keys()).filter_map(|&service| {
            let (by, before) = (self.by(service)?, former.by(service)?);
            Some((by.group, before.group, before == By { group: before.group, ..by }))
        })
    }
}
