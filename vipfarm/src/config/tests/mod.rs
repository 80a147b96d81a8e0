//! The file as a whole: what is accepted, and the exact words for what is not.

mod accepted;
mod checks;
pub(super) mod documented;
mod failover;
mod files;
mod limits;
mod mutated;
mod refused;
mod refused_groups;
mod refused_vips;

use std::{io, net::IpAddr};

use super::*;

/// A farm without any problem; the tests change one thing in it.
const BASE: &str = r#"farm: web
key_file: /etc/vipfarm/farm.key
membership: { profile: balanced }
nodes:
  - { name: node1, addresses: [192.168.1.11, 10.0.0.11] }
  - { name: node2, addresses: [192.168.1.12, 10.0.0.12] }
vips:
  - mode: vmac_invisible
    addresses: [192.168.1.222/24]
    groups:
      - name: http
        powers: { node1: 2, node2: 1 }
        rules:
          - { port: 80, proto: tcp, filter: on_port }
          - { port: "*", proto: tcp, filter: on_addr }
"#;

/// [`BASE`] with one passage replaced.
fn edited(old: &str, new: &str) -> String {
    assert_eq!(BASE.matches(old).count(), 1, "`{old}` must stand once in the base");
    BASE.replace(old, new)
}

fn parse_text(text: &str) -> Result<Farm, Diagnostics> {
    parse_with("farm.yaml", text, &names)
}

fn problems(text: &str) -> String {
    parse_text(text).map(|_| ()).expect_err("something is wrong").to_string()
}

/// A file's edits and all that is said about it; `VERSION` stands for the running one.
type Case = (&'static [(&'static str, &'static str)], &'static str);

/// Checks the exact words for each edited file.
fn refuses(cases: &[Case]) {
    for (edits, expected) in cases {
        let text = edits.iter().fold(BASE.to_owned(), |text, (old, new)| {
            assert_eq!(text.matches(old).count(), 1, "`{old}` must stand once in the text");
            text.replace(old, new)
        });
        let expected = expected.replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert_eq!(problems(&text), expected, "{text}");
    }
}

/// The host names of the tests: nothing is asked of a real resolver.
fn names(host: &str) -> io::Result<Vec<IpAddr>> {
    match host {
        "www.example.com" => Ok(vec![[192, 168, 1, 222].into(); 2]),
        "dual.example.com" => {
            Ok(vec![[0xfd00, 1, 0, 0, 0, 0, 0, 0x222].into(), [192, 168, 1, 222].into()])
        }
        "two.example.com" => Ok(vec![[192, 168, 1, 222].into(), [192, 168, 1, 223].into()]),
        "empty.example.com" => Ok(Vec::new()),
        _ => Err(io::Error::other("Name or service not known")),
    }
}
