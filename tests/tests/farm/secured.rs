//! What an agent may do, what others may do to it, and what it tells nobody.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Command,
};

use vipfarm::{agent::rights::NEEDED, config::key::Secret};
use vipfarm_lab::{
    Farm,
    farm::{PATIENCE, exit_code_and_words, run_to_end},
    require, skip,
};

use crate::{ONE_VIP, all, eventually, lab, refused::refuses, running};

/// The unit that packages install.
const UNIT: &str = include_str!("../../../packaging/vipfarm.service");

/// A field of the status of each of a process's threads.
fn of_threads(pid: u32, field: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")));
    let value = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)).map(str::trim);
        line.unwrap_or_else(|| panic!("{field} is missing: {text}")).to_owned()
    };
    statuses.filter_map(|text| text.ok().map(value)).collect()
}

/// That the process, all of its threads, has the six capabilities and can get no other one.
fn has_its_capabilities_alone(pid: u32) {
    for field in ["CapPrm:", "CapEff:", "CapBnd:"] {
        for value in of_threads(pid, field) {
            let set = u64::from_str_radix(&value, 16).unwrap();
            assert_eq!(set.count_ones(), 6, "{field} {value}");
            assert!(NEEDED.iter().all(|capability| capability.is_in(set)), "{field} {value}");
        }
    }
    for field in ["CapInh:", "CapAmb:"] {
        for value in of_threads(pid, field) {
            let set = u64::from_str_radix(&value, 16).unwrap();
            let needed = NEEDED.iter().filter(|capability| capability.is_in(set)).count();
            assert_eq!(set.count_ones() as usize, needed, "{field} {value}");
        }
    }
    assert!(of_threads(pid, "NoNewPrivs:").iter().all(|value| value == "1"));
}

/// Whether root with all rights but that to trace others may look into a process.
fn may_be_looked_into(pid: u32) -> bool {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", "readlink"]);
    let link = format!("/proc/{pid}/cwd");
    assert!(fs::read_link(&link).is_ok(), "{link} is there");
    run_to_end(command.arg(link)).unwrap().status.success()
}

#[test]
fn an_agent_keeps_six_capabilities_and_nobody_looks_into_its_memory() {
    let program = require!(skip::farm());
    let lab = lab("capable", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    let pid = farm.agent(1).unwrap().id();
    has_its_capabilities_alone(pid);
    let mut other = lab.node(1).command("setpriv");
    other.args(["--bounding-set=-sys_ptrace", "sleep", "60"]);
    let other = lab.node(1).spawn("other", other).unwrap();
    eventually("it sleeps", || {
        fs::read_to_string(format!("/proc/{}/comm", other.id())).is_ok_and(|it| it == "sleep\n")
    });
    assert!(may_be_looked_into(other.id()), "others may be");
    assert!(!may_be_looked_into(pid));

    // So it is with the next one, in the same process.
    farm.ask(1, &["upgrade"]).unwrap();
    farm.wait_converged(&all(&lab)).unwrap();
    has_its_capabilities_alone(pid);
    assert!(!may_be_looked_into(pid));
    farm.stop().unwrap();
}

/// What the unit says of a setting.
fn unit(setting: &str) -> &'static str {
    let value = UNIT.lines().find_map(|line| line.strip_prefix(setting)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("the unit has no {setting}"))
}

/// The command that runs a node's agent with what the unit grants to root.
fn as_the_unit(farm: &Farm<'_>, node: usize) -> Command {
    let granted = unit("CapabilityBoundingSet").to_lowercase().replace("cap_", "+");
    let granted = format!("-all,{}", granted.replace(' ', ","));
    let agent = farm.agent_command(node);
    let mut command = farm.lab().node(node).command("prlimit");
    command.args(["--core=0:0", "setpriv", "--no-new-privs"]);
    command.arg(format!("--bounding-set={granted}")).arg(format!("--inh-caps={granted}"));
    command.arg(format!("--ambient-caps={granted}"));
    command.arg(agent.get_program()).args(agent.get_args());
    command
}

#[test]
fn an_agent_serves_and_is_replaced_with_what_the_unit_grants() {
    let program = require!(skip::farm());
    let lab = lab("unit", 2, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let before = farm.footprint(1).unwrap();
    let mut agent = lab.node(1).spawn("agent", as_the_unit(&farm, 1)).unwrap();
    farm.start_node(2, &[]).unwrap();
    let agreed = |farm: &Farm<'_>| farm.check_agreement(&[1, 2]).is_ok();
    eventually("they agree", || {
        let ended = agent.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?} {:?}", agent.last_lines(9));
        agreed(&farm)
    });
    has_its_capabilities_alone(agent.id());
    assert!(farm.status(1).unwrap().lateness.real_time);
    farm.ask(1, &["upgrade"]).unwrap();
    eventually("they agree again", || agreed(&farm));
    farm.ask(1, &["reload"]).unwrap();
    agent.stop(PATIENCE).unwrap();
    assert_eq!(farm.footprint(1).unwrap(), before);
    farm.stop().unwrap();
}

#[test]
fn keys_are_in_no_log_and_no_answer() {
    let program = require!(skip::farm());
    let lab = lab("secret", 2, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let mut command = farm.agent_command(1);
    command.env("VIPFARM_LOG", "trace").arg("--trace");
    let mut agent = lab.node(1).spawn("agent", command).unwrap();
    farm.start_node(2, &[]).unwrap();
    eventually("they agree", || farm.check_agreement(&[1, 2]).is_ok());
    let mut said = String::new();
    for verb in
        [&["status", "--json"][..], &["events", "--json"], &["metrics"], &["nodes", "--json"]]
    {
        said += &farm.ask(1, verb).unwrap();
    }
    agent.stop(PATIENCE).unwrap();
    said += &fs::read_to_string(agent.log()).unwrap();
    assert!(said.contains("DEBUG") || said.contains("TRACE"), "nothing was logged");

    let secret = Secret::load(&farm.key()).unwrap();
    let keys = [
        fs::read_to_string(farm.key()).unwrap().trim().to_owned(),
        hex(&secret.membership_key()),
        hex(&secret.bucket_key()),
    ];
    let said = said.to_lowercase();
    for key in keys {
        // Also as a list of numbers, as debug output has it.
        let bytes = key.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        let bytes = bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).take(6);
        let list = bytes.map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
        assert!(!said.contains(&key) && !said.contains(&list));
    }
    farm.stop().unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[test]
fn the_control_socket_is_its_users_alone() {
    const NOBODY: u32 = 65_534;
    let program = require!(skip::farm());
    let lab = lab("socket", 2, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let directory = farm.run_directory(1);
    fs::create_dir_all(&directory).unwrap();
    for mode in [0o775, 0o757, 0o1777] {
        fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
        let words = [&format!("mode {mode:04o}"), "chmod 755", "--run-dir"];
        refuses(&farm, &mut farm.agent_command(1), 1, &words);
    }
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    chown(&directory, Some(NOBODY), None).unwrap();
    refuses(&farm, &mut farm.agent_command(1), 1, &["belongs to user 65534", "chown 0"]);
    chown(&directory, Some(0), None).unwrap();

    // Whatever the umask is.
    let agent = farm.agent_command(1);
    let mut command = lab.node(1).command("sh");
    command.args(["-c", "umask 0; exec \"$@\"", "sh"]);
    command.arg(agent.get_program()).args(agent.get_args());
    let mut agent = lab.node(1).spawn("agent", command).unwrap();
    eventually("it answers", || farm.status(1).is_ok());
    let socket = fs::metadata(directory.join("test.sock")).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.uid(), socket.gid()), (0o660, 0, 0));
    let ask = farm.ask_command(1, &["status"]);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    command.arg(ask.get_program()).args(ask.get_args());
    let (code, said) = exit_code_and_words(&mut command).unwrap();
    assert!(code != Some(0) && said.contains("ermission denied"), "{code:?} {said}");
    agent.stop(PATIENCE).unwrap();
    farm.stop().unwrap();
}

#[test]
fn a_file_that_anybody_may_change_is_refused_at_the_start_and_by_a_reload() {
    let program = require!(skip::farm());
    let lab = lab("exposed", 2, 1);
    let mut farm = Farm::new(&lab, &program, "test", ONE_VIP).unwrap();
    let set = |farm: &Farm<'_>, mode| {
        fs::set_permissions(farm.config(1), Permissions::from_mode(mode)).unwrap();
    };
    set(&farm, 0o646);
    let words = ["has mode 0646: anybody could change", "chmod 644"];
    refuses(&farm, &mut farm.agent_command(1), 2, &words);
    set(&farm, 0o644);
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1]).unwrap();
    set(&farm, 0o666);
    let (code, said) = exit_code_and_words(&mut farm.ask_command(1, &["reload"])).unwrap();
    assert!(code == Some(1) && said.contains(words[1]), "{code:?} {said}");
    set(&farm, 0o644);
    farm.ask(1, &["reload"]).unwrap();
    farm.stop().unwrap();
}

#[test]
fn a_file_that_names_programs_of_root_is_refused_where_others_than_root_may_change_it() {
    let program = require!(skip::farm());
    let lab = lab("changeable", 2, 1);
    let hooks = "hooks: { on_view: /bin/true }\nvips:";
    let mut farm = Farm::new(&lab, &program, "test", &ONE_VIP.replace("vips:", hooks)).unwrap();
    let (file, group) = (farm.config(1).to_owned(), Some(65_534));
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(&file, 0o664);
    chown(&file, None, group).unwrap();
    let words = ["names checks or hooks", "can be changed by group 65534: `chmod g-w "];
    refuses(&farm, &mut farm.agent_command(1), 2, &words);
    mode(&file, 0o644);
    chown(&file, group, None).unwrap();
    refuses(&farm, &mut farm.agent_command(1), 2, &["changed by user 65534: `chown root "]);
    chown(&file, Some(0), Some(0)).unwrap();
    let folder = file.parent().unwrap();
    let before = folder.metadata().unwrap().permissions().mode();
    mode(folder, 0o777);
    refuses(&farm, &mut farm.agent_command(1), 2, &["changed by anybody: `chmod o-w "]);
    mode(folder, before & 0o7777);
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1]).unwrap();
    mode(&file, 0o664);
    chown(&file, None, group).unwrap();
    let (code, said) = exit_code_and_words(&mut farm.ask_command(1, &["reload"])).unwrap();
    assert!(code == Some(1) && said.contains(words[1]), "{code:?} {said}");
    // What nobody's programs are named in may belong to a group of operators.
    farm.edit(|text| text.replace("hooks: { on_view: /bin/true }\n", "")).unwrap();
    mode(&file, 0o664);
    chown(&file, None, group).unwrap();
    farm.ask(1, &["reload"]).unwrap();
    farm.stop().unwrap();
}
