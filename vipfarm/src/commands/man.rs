//! `vipfarm man`

use std::{fs, path::Path};

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Failure, screen};
use crate::cli::{Cli, ManArgs};

pub(super) fn run(args: &ManArgs) -> anyhow::Result<()> {
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        Man::new(Cli::command().disable_help_subcommand(true)).render(&mut page)?;
        return Ok(screen::print(&String::from_utf8(page)?)?);
    };
    write_all(directory)
        .map_err(|error| Failure::Refused(format!("{}: {error}", directory.display())).into())
}

/// A page of the program and one of each verb.
fn write_all(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    /// The pages that there are to be, without their ends.
    fn pages(name: &str, command: &Command) -> Vec<String> {
        let further = command.get_subcommands();
        let further = further.flat_map(|verb| pages(&format!("{name}-{}", verb.get_name()), verb));
        [name.to_owned()].into_iter().chain(further).collect()
    }

    #[test]
    fn every_verb_has_a_page_of_man_macros() {
        let directory = std::env::temp_dir().join(format!("vipfarm-man-{}", std::process::id()));
        write_all(&directory).expect("written");
        let expected = pages("vipfarm", &Cli::command());
        let present = fs::read_dir(&directory).expect("a directory").count();
        assert_eq!(present, expected.len(), "pages of nothing");
        for name in &expected {
            let text = fs::read_to_string(directory.join(format!("{name}.1"))).expect(name);
            assert!(text.contains("\n.SH NAME\n") && text.contains("\n.SH SYNOPSIS\n"), "{name}");
            let requests = text.lines().filter_map(|line| line.strip_prefix('.'));
            for request in requests {
                let word = request.split(' ').next().unwrap_or_default();
                let known =
                    ["ie", "el", "TH", "SH", "TP", "RS", "RE", "PP", "IP", "br"].contains(&word);
                assert!(known, "{name}: .{request}");
            }
        }
        let agent = fs::read_to_string(directory.join("vipfarm-agent.1")).expect("read above");
        assert!(agent.contains("vipfarm agent \\-c /etc/vipfarm/farm.yaml"), "{agent}");
        fs::remove_dir_all(directory).expect("removed");
    }
}
