//! `vipfarm doctor`

use owo_colors::Style;
use serde::Serialize;

use super::{
    Failure,
    screen::{self, Ink},
};
use crate::{
    cli::DoctorArgs,
    config,
    doctor::{Finding, Scope, Severity, gather, judge},
};

pub(super) async fn run(args: DoctorArgs) -> anyhow::Result<()> {
    let farm = args.config.as_deref().map(config::load).transpose()?;
    let scope = Scope {
        farm: args.config.as_deref().zip(farm.as_ref()),
        node: args.node.as_deref(),
        interface: args.interface.as_deref(),
        run_dir: &args.run_dir,
        bpf_dir: &args.bpf_dir,
        generic: args.generic,
        by_agent: false,
    };
    let facts = gather(&scope).await?;
    let diagnosis = Diagnosis { agent: facts.agent, findings: judge(&facts) };
    if args.json {
        screen::print_json(&diagnosis)?;
    } else {
        screen::print(&render(&diagnosis, Ink::of_stdout()))?;
    }
    let healthy = diagnosis.findings.iter().all(|finding| finding.severity < Severity::Error);
    if healthy { Ok(()) } else { Err(Failure::Told(1).into()) }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Diagnosis {
    /// Whether the farm's agent runs.
    agent: bool,
    findings: Vec<Finding>,
}

/// A line or more for each finding, what is wrong with its fix below; then how many there are.
pub(super) fn render(diagnosis: &Diagnosis, ink: Ink) -> String {
    let findings = &diagnosis.findings;
    let text: String = findings.iter().map(|finding| of_finding(finding, ink)).collect();
    let number = |severity| findings.iter().filter(|it| it.severity == severity).count();
    let errors = screen::count(number(Severity::Error), "error", "errors");
    let warnings = screen::count(number(Severity::Warning), "warning", "warnings");
    let well = number(Severity::Ok) + number(Severity::Note);
    let agent = if diagnosis.agent { "; the farm's agent runs" } else { "" };
    text + &format!("\n{errors}, {warnings}, {well} ok{agent}\n")
}

fn of_finding(finding: &Finding, ink: Ink) -> String {
    let Finding { check, subject, severity, why, fix } = finding;
    let style = match severity {
        Severity::Ok => Style::new().green(),
        Severity::Note => Style::new().cyan(),
        Severity::Warning => Style::new().yellow(),
        Severity::Error => Style::new().red().bold(),
    };
    let subject = subject.as_ref().map_or_else(String::new, |subject| format!("{subject}: "));
    let sentence = format!("{subject}{why}");
    let label = format!("{:<8}{check:<13}", screen::word(severity));
    // Commands are not broken: they are to be copied.
    let fix = fix.as_ref().map_or_else(String::new, |fix| format!("{:22}fix: {fix}\n", ""));
    let text = screen::wrapped(&label, sentence.split(' ')) + &fix;
    let word = screen::word(severity);
    text.replacen(&word, &ink.paint(&word, style), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixture;

    fn diagnosis() -> Diagnosis {
        let finding = |check, subject: &str, severity, why: &str, fix: &str| Finding {
            check,
            subject: Some(subject.to_owned()).filter(|subject| !subject.is_empty()),
            severity,
            why: why.into(),
            fix: Some(fix.to_owned()).filter(|fix| !fix.is_empty()),
        };
        let long = "strict: requests whose answers would leave by another interface are dropped \
            without a word";
        let findings = vec![
            finding("kernel", "", Severity::Ok, "Linux 6.18.5", ""),
            finding("xdp", "eth0", Severity::Note, "this kernel does not tell", ""),
            finding("rp_filter", "eth0", Severity::Warning, long, "sysctl -w net...rp_filter=2"),
            finding("link", "eth1", Severity::Error, "down", "ip link set eth1 up"),
        ];
        Diagnosis { agent: true, findings }
    }

    #[test]
    fn findings_are_lines_with_their_fixes_below() {
        let text = render(&diagnosis(), Ink::Plain);
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_severity_is_coloured() {
        insta::assert_snapshot!(fixture::visible(&render(&diagnosis(), Ink::Colour)));
    }
}
