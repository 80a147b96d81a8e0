//! Farms for the unit tests of this module's neighbours.

use crate::{config, model::Farm};

/// Three nodes, 10.0.0.11 to .13, and one VIP, 10.0.0.100/24, with these groups.
pub(super) fn farm(groups: &str) -> Farm {
    let text = format!(
        "farm: web\n\
         key_file: k\n\
         nodes:\n\
         - {{ name: node1, addresses: [10.0.0.11] }}\n\
         - {{ name: node2, addresses: [10.0.0.12] }}\n\
         - {{ name: node3, addresses: [10.0.0.13] }}\n\
         vips:\n\
         - addresses: [10.0.0.100/24]\n  \
           groups: {groups}\n"
    );
    config::parse("farm.yaml", &text).unwrap_or_else(|error| panic!("{error}"))
}
