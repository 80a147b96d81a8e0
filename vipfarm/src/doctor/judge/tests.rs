use super::*;
use crate::{
    datapath::XdpMode,
    doctor::facts::{Families, InterfaceFacts, Lack, LackFacts},
    net::{Driver, Settings, XdpFeatures},
};

/// A machine on which there is nothing to be said.
fn healthy() -> Facts {
    let native = XdpFeatures { native: true, several_buffers: true };
    let interface = InterfaceFacts {
        name: "eth0".into(),
        holder: "eth0.10".into(),
        up: true,
        carrier: true,
        lro: false,
        families: Families { v4: true, v6: true },
        driver: Driver { name: Some("virtio_net".into()), mtu: 1500, xdp: Some(native) },
        occupied: false,
        programs_before: vec![],
        pinned: None,
        generic: false,
        has_vmac: false,
        settings: Settings { writable: true, ..Settings::default() },
    };
    let file = |kind, mode| FileFacts {
        path: "/etc/vipfarm/some".into(),
        kind,
        mode,
        owner: 0,
        group: 0,
        problem: None,
    };
    Facts {
        release: "6.18.5".into(),
        version: Some((6, 18)),
        jit: Some(true),
        programs: Some(Ok(true)),
        capabilities: u64::MAX,
        locks_memory: false,
        real_time: RealTime::Granted,
        bpf_dir: ("/sys/fs/bpf/vipfarm".into(), true),
        files: vec![file(FileKind::Configuration, 0o644), file(FileKind::Key, 0o600)],
        misfits: vec![],
        lacks: vec![],
        agent: false,
        default_route: Some("eth0.10".into()),
        interfaces: vec![interface],
    }
}

/// What is found on the healthy machine after a change, but for what is well.
fn found(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = healthy();
    change(&mut facts);
    let findings = judge(&facts).into_iter();
    findings.filter(|finding| finding.severity > Severity::Ok).collect()
}

/// Of that change, exactly one finding follows: with that severity, and that in its fix.
fn finds(check: &str, severity: Severity, fix: &str, change: impl FnOnce(&mut Facts)) {
    let findings = found(change);
    let [finding] = &findings[..] else { panic!("{check}: {findings:?}") };
    assert_eq!((finding.check, finding.severity), (check, severity), "{finding:?}");
    let said = finding.fix.as_deref().unwrap_or_default();
    assert!(said.contains(fix) && said.is_empty() == fix.is_empty(), "{finding:?}");
}

/// The same of its interface.
fn finds_of_interface(
    check: &str,
    severity: Severity,
    fix: &str,
    change: impl FnOnce(&mut InterfaceFacts),
) {
    finds(check, severity, fix, |facts| change(&mut facts.interfaces[0]));
}

use Severity::{Error, Note, Warning};

#[test]
fn a_healthy_machine_is_all_well() {
    assert_eq!(found(|_| ()), []);
    let checks: Vec<_> = judge(&healthy()).iter().map(|finding| finding.check).collect();
    let expected = [
        "kernel",
        "programs",
        "capabilities",
        "memory",
        "real_time",
        "bpffs",
        "file",
        "key",
        "xdp",
    ];
    assert_eq!(checks, expected);
}

#[test]
fn kernels_are_judged_by_their_version() {
    finds("kernel", Error, "5.15", |facts| facts.version = Some((5, 14)));
    finds("kernel", Note, "", |facts| facts.version = Some((5, 17)));
    finds("kernel", Warning, "5.15", |facts| facts.version = None);
    finds("jit", Warning, "bpf_jit_enable=1", |facts| facts.jit = Some(false));
    finds("programs", Error, "report this", |facts| facts.programs = Some(Err("no".into())));
}

#[test]
fn a_missing_capability_is_named_with_its_use() {
    for capability in NEEDED {
        let without = |facts: &mut Facts| {
            facts.capabilities =
                NEEDED.iter().filter(|it| it.name != capability.name).fold(0, |set, it| {
                    set | (0..64).map(|bit| 1 << bit).find(|&bit| it.is_in(bit)).unwrap_or(0)
                });
        };
        match capability.name {
            // Whether real time was granted is found out by trying.
            "CAP_SYS_NICE" => assert_eq!(found(without), []),
            "CAP_IPC_LOCK" => finds("memory", Warning, "LimitMEMLOCK=infinity", without),
            name => finds("capabilities", Error, &format!("AmbientCapabilities={name}"), without),
        }
    }
    let limited = found(|facts| (facts.capabilities, facts.locks_memory) = (0, true));
    assert_eq!(limited.len(), 1, "locked memory can be granted by a limit: {limited:?}");
    assert!(limited[0].why.contains("CAP_BPF loads the filter"), "{limited:?}");
}

#[test]
fn real_time_and_pins_are_judged() {
    let (why, fix) = (|| "no".to_owned(), || "grant it".to_owned());
    finds("real_time", Error, "grant it", |it| it.real_time = RealTime::Needed(why(), fix()));
    finds("real_time", Warning, "grant it", |it| it.real_time = RealTime::Missing(why(), fix()));
    finds("real_time", Note, "", |it| it.real_time = RealTime::Dispensable(why()));
    finds("bpffs", Error, "mount -t bpf", |facts| facts.bpf_dir.1 = false);
}

#[test]
fn files_that_others_can_change_are_told() {
    finds("file", Warning, "chmod 644", |facts| {
        (facts.files[0].mode, facts.files[0].group) = (0o664, 1000);
    });
    assert_eq!(found(|facts| facts.files[0].mode = 0o664), [], "root's group is root");
    finds("file", Warning, "chown root", |facts| facts.files[0].owner = 1000);
    let problem = || Some(("mode 0644".to_owned(), "run `chmod 600`".to_owned()));
    finds("key", Error, "chmod 600", |facts| facts.files[1].problem = problem());
}

#[test]
fn what_does_not_fit_keeps_its_sentence_and_its_fix() {
    let sentence = "eth0 is down: `ip link set eth0 up`";
    finds("place", Error, "`ip link set eth0 up`", |it| it.misfits.push(sentence.into()));
    finds("place", Error, "correct the farm's file", |it| it.misfits.push("no colon".into()));
}

#[test]
fn interfaces_are_judged_by_what_they_do_to_frames() {
    finds_of_interface("link", Error, "ip link set eth0 up", |it| it.up = false);
    finds_of_interface("link", Warning, "cable", |it| it.carrier = false);
    finds_of_interface("other_xdp", Error, "ip link set dev eth0 xdp off", |it| it.occupied = true);
    finds_of_interface("bridge", Warning, "vmac_directed", |it| {
        (it.driver.name, it.has_vmac) = (Some("bridge".into()), true);
    });
    assert_eq!(found(|it| it.interfaces[0].driver.name = Some("bridge".into())), []);
    let before = || vec!["stranger (egress)".to_owned()];
    finds_of_interface("tc_order", Warning, "behind vipfarm's", |it| it.programs_before = before());
    finds_of_interface("lro", Error, "ethtool -K eth0 lro off", |it| it.lro = true);
    finds_of_interface("xdp", Note, "", |it| it.driver.xdp = None);
    let none = XdpFeatures { native: false, several_buffers: false };
    finds_of_interface("xdp", Warning, "--generic", |it| it.driver.xdp = Some(none));
    finds_of_interface("xdp", Warning, "--generic", |it| {
        (it.occupied, it.pinned) = (true, Some(XdpMode::Generic));
    });
    let asked_for = |it: &mut InterfaceFacts| {
        (it.generic, it.lro, it.driver.mtu, it.driver.xdp) = (true, true, 9000, Some(none));
    };
    assert_eq!(found(|facts| asked_for(&mut facts.interfaces[0])), []);
    let own = |it: &mut InterfaceFacts| (it.occupied, it.pinned) = (true, Some(XdpMode::Native));
    assert_eq!(found(|facts| own(&mut facts.interfaces[0])), [], "an agent's filter");
}

#[test]
fn jumbo_frames_need_a_kernel_and_a_driver_that_filter_them() {
    let jumbo = |it: &mut InterfaceFacts| it.driver.mtu = 9000;
    assert_eq!(found(|facts| jumbo(&mut facts.interfaces[0])), []);
    finds_of_interface("mtu", Error, "ip link set eth0 mtu 1500", |it| {
        jumbo(it);
        it.driver.xdp = Some(XdpFeatures { native: true, several_buffers: false });
    });
    let old = found(|facts| {
        jumbo(&mut facts.interfaces[0]);
        facts.version = Some((5, 15));
    });
    let mtu = old.iter().find(|finding| finding.check == "mtu").expect("beside the kernel's note");
    assert_eq!(mtu.fix.as_deref(), Some("ip link set eth0 mtu 3498"));
    let unknown = found(|facts| {
        jumbo(&mut facts.interfaces[0]);
        facts.interfaces[0].driver.xdp = None;
    });
    assert!(unknown.iter().any(|it| it.check == "mtu" && it.severity == Note), "{unknown:?}");
}

#[test]
fn settings_are_those_of_the_interface_that_has_the_vips() {
    let set = |change: fn(&mut Settings)| move |it: &mut InterfaceFacts| change(&mut it.settings);
    let of = finds_of_interface;
    of("rp_filter", Warning, "conf.eth0/10.rp_filter=2", set(|it| it.rp_filter = 1));
    of("arp_ignore", Error, "all.arp_ignore=1", set(|it| it.arp_ignore = 8));
    of("arp_filter", Warning, "conf.eth0/10.arp_filter=0", set(|it| it.arp_filter = true));
    of("proxy_arp", Warning, "conf.all.proxy_arp=0", set(|it| it.proxy_arp = true));
    of("proxy_arp", Warning, "eth0/10.proxy_arp_pvlan=0", set(|it| it.proxy_arp_pvlan = true));
    of("ipv6", Error, "eth0/10.disable_ipv6=0", set(|it| it.ipv6_off = true));
    of("sysctls", Error, "remount,rw", set(|it| it.writable = false));
    finds("route", Note, "dev eth0.10", |facts| facts.default_route = Some("eth1".into()));
    assert_eq!(found(|facts| facts.interfaces[0].settings.rp_filter = 2), [], "loose");
    assert_eq!(found(|facts| facts.interfaces[0].settings.arp_ignore = 2), [], "some are answered");
    let v6_alone = |it: &mut InterfaceFacts| {
        it.families.v4 = false;
        it.settings = Settings { rp_filter: 1, arp_ignore: 8, proxy_arp: true, ..it.settings };
    };
    assert_eq!(found(|facts| v6_alone(&mut facts.interfaces[0])), [], "ARP is IPv4's");
}

#[test]
fn a_finding_is_one_line_in_logs() {
    let findings = found(|facts| facts.interfaces[0].lro = true);
    let line = findings[0].to_string();
    assert!(line.starts_with("lro of eth0: the hardware merges"), "{line}");
    assert!(line.ends_with(": ethtool -K eth0 lro off"), "{line}");
}

#[test]
fn a_check_that_cannot_pass_is_an_error_and_a_hook_that_cannot_run_a_warning() {
    let folder = |present| Lack::NoFolder { path: "/run/web".into(), present };
    for (lack, severity, fix) in [
        (Lack::NoProgram("/bin/look".into()), Error, "install /bin/look"),
        (Lack::NotExecutable("/bin/look".into()), Error, "chmod 755 /bin/look"),
        (Lack::NoUser("there is no user web".into()), Error, "correct `user`"),
        (Lack::NoInterface("eth0, lo".into()), Error, "this machine has eth0, lo"),
        (folder(true), Warning, "mkdir -p /run/web"),
        (folder(false), Note, "mkdir -p /run/web"),
    ] {
        finds("check", severity, fix, |facts| {
            facts.lacks = vec![LackFacts { of: "it".into(), is_check: true, lack }];
        });
    }
    finds("hook", Warning, "install /bin/tell", |facts| {
        let lack = Lack::NoProgram("/bin/tell".into());
        facts.lacks = vec![LackFacts { of: "on_ready".into(), is_check: false, lack }];
    });
}

#[test]
fn a_node_that_the_file_does_not_have_is_no_fault_of_the_file() {
    let (farm, name, nodes) = ("web".into(), "zz".into(), "node1, node2".into());
    let misfit = crate::agent::site::SiteError::NoSuchNode { farm, name, nodes }.to_string();
    finds("place", Error, "correct `--node`", |facts| facts.misfits = vec![misfit]);
}
