//! `vipfarm bitmap`

use std::fmt::Write;

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
    let columns: String = (0..16).map(|column| format!(" {column:x}")).collect();
    let mut text = format!("    {}\n", ink.paint(&columns, dim));
    for (row, owners) in owners.chunks(16).enumerate() {
        let buckets: String = owners.iter().map(|&owner| bucket(owner, ink)).collect();
        let label = ink.paint(&format!("{row:x}_"), dim);
        let _infallible = writeln!(text, "  {label}{buckets}");
    }
    text
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
    let mut text = String::new();
    for (index, node) in nodes.iter().enumerate() {
        let Some(power) = group.powers.get(&node.name) else { continue };
        let load = group.load.get(&node.name).copied().unwrap_or(0);
        let out = if node.alive { "" } else { "  (not in the view)" };
        let _infallible = writeln!(
            text,
            "  {} {:widest$}  power {power:>4}  farm load: {load:>3}/256{out}",
            bucket(Some(index), ink),
            node.name,
        );
    }
    let unowned = group.owners.iter().filter(|owner| owner.is_none()).count();
    if unowned > 0 {
        let _infallible = writeln!(text, "   {NOBODY} nobody: {unowned}/256");
    }
    text
}

/// Each node's bitmap as `SafeKit` prints it: eight words of 32 bits.
pub(super) fn render_hex(status: &Status, groups: &[&GroupStatus]) -> String {
    let pages: Vec<String> = groups.iter().map(|group| hex_page(status, group)).collect();
    pages.join("\n")
}

fn hex_page(status: &Status, group: &GroupStatus) -> String {
    let mut text = format!("group {}\n", group.name);
    for (index, node) in status.nodes.iter().enumerate() {
        if !group.powers.contains_key(&node.name) {
            continue;
        }
        let owned = owned_by(index, &group.owners);
        let (name, load) = (&node.name, owned.len());
        let _infallible = writeln!(text, "  {name}  farm load: {load}/256\n    {}", hex(owned));
        if node.own && owned != group.bitmap {
            let in_force = hex(group.bitmap);
            let _infallible = writeln!(text, "  {name}  in force in the kernel\n    {in_force}");
        }
    }
    text
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
