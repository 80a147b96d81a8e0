//! `vipfarm bitmap`

use owo_colors::{AnsiColors, Style};

use super::{
    Client, Failure, PATIENCE,
    screen::{self, Ink},
};
use crate::{
    cli::BitmapArgs,
    model::Bitmap,
    status::{GroupStatus, NodeStatus, Status},
};

/// The symbol of each node, by index; as many as a farm can have nodes.
const SYMBOLS: &[u8; crate::model::MAX_NODES] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+%";

/// A bucket that nobody serves.
const NOBODY: char = '.';

/// Backgrounds on which black is legible; neighbours differ also for the colour-blind.
const COLOURS: [AnsiColors; 12] = [
    AnsiColors::Green,
    AnsiColors::BrightYellow,
    AnsiColors::BrightBlue,
    AnsiColors::Magenta,
    AnsiColors::Cyan,
    AnsiColors::BrightRed,
    AnsiColors::BrightWhite,
    AnsiColors::Yellow,
    AnsiColors::BrightCyan,
    AnsiColors::BrightMagenta,
    AnsiColors::BrightGreen,
    AnsiColors::Red,
];

pub(super) async fn run(args: BitmapArgs) -> anyhow::Result<()> {
    let status: Status = Client::find(&args.talk.agent)?.get("/v1/status", PATIENCE).await?;
    let groups = chosen(&status, args.group.as_deref())?;
    if args.talk.json {
        return screen::print_json(&groups);
    }
    let text = if args.hex {
        render_hex(&status, &groups)
    } else {
        render(&status.nodes, &groups, Ink::of_stdout())
    };
    Ok(screen::print(&text)?)
}

fn chosen<'a>(status: &'a Status, name: Option<&str>) -> Result<Vec<&'a GroupStatus>, Failure> {
    let Some(name) = name else {
        return Ok(status.groups.iter().collect());
    };
    if let Some(group) = status.groups.iter().find(|group| group.name == name) {
        return Ok(vec![group]);
    }
    let names: Vec<&str> = status.groups.iter().map(|group| &*group.name).collect();
    let (farm, names) = (&status.farm, names.join(", "));
    Err(Failure::Usage(format!("farm {farm} has no group `{name}`; its groups are {names}")))
}

/// Each group as a picture, with its legend.
pub(super) fn render(nodes: &[NodeStatus], groups: &[&GroupStatus], ink: Ink) -> String {
    let pages: Vec<String> = groups
        .iter()
        .map(|group| {
            let title = ink.paint(&format!("group {}", group.name), Style::new().bold());
            format!("{title}\n\n{}\n{}", picture(&group.owners, ink), legend(nodes, group, ink))
        })
        .collect();
    pages.join("\n")
}

/// 16 rows of 16 buckets: bucket 0x2f is in row `2_`, column `f`.
fn picture(owners: &[Option<usize>], ink: Ink) -> String {
    let dim = Style::new().dimmed();
    let header = ink.paint(" 0 1 2 3 4 5 6 7 8 9 a b c d e f", dim);
    let rows = owners.chunks(16).enumerate().map(|(row, owners)| {
        let label = ink.paint(&format!("{row:x}_"), dim);
        let buckets: Vec<String> = owners.iter().map(|&owner| bucket(owner, ink)).collect();
        format!("  {label}{}", buckets.concat())
    });
    screen::lines(std::iter::once(format!("    {header}")).chain(rows))
}

/// Two columns wide: a space and the owner's symbol.
fn bucket(owner: Option<usize>, ink: Ink) -> String {
    ink.paint(&format!(" {}", symbol(owner)), colour(owner))
}

fn symbol(owner: Option<usize>) -> char {
    owner.and_then(|index| SYMBOLS.get(index)).map_or(NOBODY, |&symbol| char::from(symbol))
}

fn colour(owner: Option<usize>) -> Style {
    owner.map_or(Style::new(), |index| {
        Style::new().color(AnsiColors::Black).on_color(COLOURS[index % COLOURS.len()])
    })
}

/// The group's nodes with symbol, power and load, then the buckets without owner if any.
fn legend(nodes: &[NodeStatus], group: &GroupStatus, ink: Ink) -> String {
    let widest = nodes.iter().map(|node| node.name.chars().count()).max().unwrap_or(0);
    let members = nodes.iter().enumerate().filter_map(|(index, node)| {
        let power = group.powers.get(&node.name)?;
        let load = group.load.get(&node.name).copied().unwrap_or(0);
        let symbol = bucket(Some(index), ink);
        let mark = screen::mark(group.changed.get(&node.name));
        let out = if node.alive { "" } else { "  (not in the view)" };
        let name = format!("{:widest$}", node.name);
        Some(format!("  {symbol} {name}  power {power:>4}  farm load: {load:>3}/256{mark}{out}"))
    });
    let unowned = group.owners.iter().filter(|owner| owner.is_none()).count();
    let nobody = (unowned > 0).then(|| format!("   {NOBODY} nobody: {unowned}/256"));
    screen::lines(members.chain(nobody))
}

/// Each node's bitmap as `SafeKit` prints it: eight words of 32 bits.
pub(super) fn render_hex(status: &Status, groups: &[&GroupStatus]) -> String {
    let pages: Vec<String> = groups.iter().map(|group| hex_page(status, group)).collect();
    pages.join("\n")
}

fn hex_page(status: &Status, group: &GroupStatus) -> String {
    let mut page = vec![format!("group {}", group.name)];
    for (index, node) in status.nodes.iter().enumerate() {
        let name = &node.name;
        if !group.powers.contains_key(name) {
            continue;
        }
        let owned = owned_by(index, &group.owners);
        page.push(format!("  {name}  farm load: {}/256", owned.len()));
        page.push(format!("    {}", hex(owned)));
        if node.own && owned != group.bitmap {
            page.push(format!("  {name}  in force in the kernel"));
            page.push(format!("    {}", hex(group.bitmap)));
        }
    }
    screen::lines(page)
}

fn owned_by(node: usize, owners: &[Option<usize>]) -> Bitmap {
    let mut bitmap = Bitmap::default();
    for (bucket, &owner) in owners.iter().enumerate().take(crate::model::BUCKETS) {
        if owner == Some(node) {
            bitmap.0[bucket >> 6] |= 1 << (bucket & 63);
        }
    }
    bitmap
}

/// Word `w` holds buckets `32 * w` to `32 * w + 31`, the lowest bucket in the lowest bit.
fn hex(bitmap: Bitmap) -> String {
    let words: Vec<String> = bitmap
        .0
        .iter()
        .flat_map(|word| [word & 0xffff_ffff, word >> 32])
        .map(|word| format!("{word:08x}"))
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::fixture, model::MAX_NODES};

    fn all(status: &Status) -> Vec<&GroupStatus> {
        status.groups.iter().collect()
    }

    #[test]
    fn the_picture_is_legible_without_colour() {
        let status = fixture::healthy();
        let text = render(&status.nodes, &all(&status), Ink::Plain);
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn powers_that_are_not_the_files_are_marked() {
        let status = fixture::operated();
        let text = render(&status.nodes, &all(&status), Ink::Plain);
        let legend: Vec<_> = text.lines().skip(20).collect();
        insta::assert_snapshot!(legend.join("\n"));
    }

    #[test]
    fn each_owner_has_a_colour_and_keeps_its_letter() {
        let status = fixture::healthy();
        let text = render(&status.nodes, &all(&status), Ink::Colour);
        insta::assert_snapshot!(fixture::visible(&text));
    }

    #[test]
    fn buckets_that_nobody_serves_are_dots_and_counted() {
        let status = fixture::troubled();
        insta::assert_snapshot!(render(&status.nodes, &all(&status), Ink::Plain));
    }

    #[test]
    fn hex_words_show_owned_buckets_and_what_the_kernel_does_instead() {
        let status = fixture::troubled();
        let text = render_hex(&status, &all(&status));
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_first_hex_word_holds_the_lowest_buckets_lowest_bit_first() {
        assert_eq!(
            hex(Bitmap([1, 0, 0, 1 << 63])),
            format!("00000001 {}80000000", "00000000 ".repeat(6))
        );
        assert!(hex(Bitmap([1 << 33, 0, 0, 0])).starts_with("00000000 00000002 "));
    }

    #[test]
    fn every_node_of_the_largest_farm_has_a_symbol_of_its_own() {
        let symbols: std::collections::BTreeSet<char> =
            (0..MAX_NODES).map(|index| symbol(Some(index))).chain([NOBODY]).collect();
        assert_eq!(symbols.len(), MAX_NODES + 1);
    }

    #[test]
    fn an_unknown_group_is_answered_with_those_there_are() {
        let error = chosen(&fixture::healthy(), Some("Farm")).expect_err("no such group");
        assert_eq!(error.to_string(), "farm web has no group `Farm`; its groups are FarmProto");
    }
}
