//! `vipfarm completions`

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::screen;
use crate::cli::{Cli, CompletionsArgs};

pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    Ok(screen::print(&String::from_utf8(script(args.shell))?)?)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "vipfarm", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    /// Has bash read the script, then run `lines`; what that prints.
    fn bash(lines: &str) -> String {
        let mut bash = Command::new("bash")
            .args(["--norc", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash is there");
        let mut input = script(Shell::Bash);
        input.extend(lines.as_bytes());
        bash.stdin.take().expect("piped").write_all(&input).expect("it reads");
        let output = bash.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", output.status);
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    #[test]
    fn bash_completes_verbs_and_options() {
        let said = bash(
            "COMP_WORDS=(vipfarm dr) COMP_CWORD=1\n_vipfarm vipfarm dr vipfarm\n\
             echo \"${COMPREPLY[*]}\"\n\
             COMP_WORDS=(vipfarm plan --do) COMP_CWORD=2\n_vipfarm vipfarm --do plan\n\
             echo \"${COMPREPLY[*]}\"\n",
        );
        assert_eq!(said, "drain\n--down\n");
    }

    #[test]
    fn every_shells_script_knows_every_verb() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(shell)).expect("UTF-8");
            for verb in Cli::command().get_subcommands() {
                let name = verb.get_name();
                assert!(script.contains(name), "{shell}: {name}");
            }
        }
    }
}
