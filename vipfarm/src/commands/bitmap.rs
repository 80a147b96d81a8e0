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
    if args.connections {
        groups.iter().try_for_each(|group| is_counted(&status, group))?;
    }
    if args.talk.json {
        return screen::print_json(&groups);
    }
    let text = if args.connections {
        render_connections(&groups, Ink::of_stdout())
    } else if args.hex {
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
    let buckets: Vec<_> = owners.iter().map(|&owner| bucket(owner, ink)).collect();
    screen::lines(std::iter::once(format!("    {header}")).chain(rows(&buckets, ink)))
}

/// 16 buckets a row, behind their first digit.
fn rows(buckets: &[String], ink: Ink) -> Vec<String> {
    let row = |(row, buckets): (usize, &[String])| {
        let label = ink.paint(&format!("{row:x}_"), Style::new().dimmed());
        format!("  {label}{}", buckets.concat())
    };
    buckets.chunks(16).enumerate().map(row).collect()
}

/// Whether the group's connections are counted; the error says what is missing.
fn is_counted(status: &Status, group: &GroupStatus) -> Result<(), Failure> {
    if group.connections.is_some() {
        return Ok(());
    }
    let addresses = &status.vips[group.vip].addresses;
    Err(Failure::Refused(format!(
        "the connections of group {} are not counted: give an address its block `connections: true`, such as {{ addr: {}, connections: true }}, or wait until they have been",
        group.name,
        addresses.first().map_or("", String::as_str),
    )))
}

/// Each group's open connections by bucket, coloured by owner.
pub(super) fn render_connections(groups: &[&GroupStatus], ink: Ink) -> String {
    let page = |group: &&GroupStatus| {
        let title = ink.paint(&format!("group {}", group.name), Style::new().bold());
        let counts = group.connections.as_deref().unwrap_or_default();
        let header: Vec<String> = (0..16).map(|column| format!("{column:>4x}")).collect();
        let header = ink.paint(&header.concat(), Style::new().dimmed());
        let cell = |(&count, &owner): (&u32, &Option<usize>)| {
            ink.paint(&format!("{:>4}", short(count)), colour(owner))
        };
        let cells: Vec<_> = counts.iter().zip(&group.owners).map(cell).collect();
        let rows = screen::lines(std::iter::once(format!("    {header}")).chain(rows(&cells, ink)));
        let total: u64 = counts.iter().copied().map(u64::from).sum();
        let used = counts.iter().filter(|&&count| count > 0).count();
        let most = counts.iter().copied().max().unwrap_or_default();
        format!(
            "{title}\n\n{rows}\n   {} in {used}/256 buckets, at most {most} in one\n",
            screen::count(total, "open connection", "open connections"),
        )
    };
    groups.iter().map(page).collect::<Vec<_>>().join("\n")
}

/// A count in three columns: `0` as a dot, `12k`, `.3M`.
fn short(count: u32) -> String {
    match count {
        0 => NOBODY.to_string(),
        1..1000 => count.to_string(),
        1000..100_000 => format!("{}k", count / 1000),
        100_000..1_000_000 => format!(".{}M", count / 100_000),
        _ => format!("{}M", count / 1_000_000),
    }
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
    fn connections_are_shown_by_bucket_and_in_few_columns() {
        let mut status = fixture::healthy();
        let mut counts = vec![0; 256];
        for (bucket, count) in
            [(0, 7), (0x2f, 999), (0x30, 99_999), (0x31, 234_567), (255, 99_000_000)]
        {
            counts[bucket] = count;
        }
        status.groups[0].connections = Some(counts);
        let text = render_connections(&all(&status), Ink::Plain);
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn connections_that_nobody_counts_are_not_shown_as_none() {
        let status = fixture::healthy();
        let error = is_counted(&status, &status.groups[0]).expect_err("not counted");
        assert!(error.to_string().contains("`connections: true`"), "{error}");
    }

    #[test]
    fn an_unknown_group_is_answered_with_those_there_are() {
        let error = chosen(&fixture::healthy(), Some("Farm")).expect_err("no such group");
        assert_eq!(error.to_string(), "farm web has no group `Farm`; its groups are FarmProto");
    }
}
