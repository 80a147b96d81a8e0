use std::{fmt::Write as _, fs, path::Path};

use proptest::{collection::vec, prelude::*};

use super::*;

const GOLDEN: &str = include_str!("golden.txt");

/// How to accept new tables, deliberately.
const BLESS: &str = "VIPFARM_BLESS";

#[test]
fn the_tables_are_the_golden_ones() {
    let tables = golden_tables();
    if std::env::var_os(BLESS).is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/assign/golden.txt");
        fs::write(path, &tables).expect("golden.txt must be writable");
        return;
    }
    for (ours, golden) in tables.lines().zip(GOLDEN.lines()) {
        assert_eq!(
            ours, golden,
            "a table changed: nodes of the old and the new version would serve the same bucket. \
             If that is meant, raise TABLE_VERSION and run the test with {BLESS}=1"
        );
    }
    assert_eq!(tables.lines().count(), GOLDEN.lines().count());
}

#[test]
fn nobody_with_power_alive_means_no_owners() {
    let assigner = Assigner::new("web", &[("a", 0), ("b", 5)]);
    for alive in [NodeSet::EMPTY, nodes(&[0])] {
        assert_eq!(assigner.table(alive), Table::new([None; BUCKETS]));
    }
}

#[test]
fn an_alive_set_wider_than_the_farm_is_harmless() {
    let assigner = Assigner::new("web", &[("a", 1), ("b", 1)]);
    assert_eq!(assigner.table(NodeSet::from_bits(u64::MAX)), assigner.table(nodes(&[0, 1])));
}

#[test]
fn a_node_too_weak_for_a_bucket_at_home_serves_when_it_is_alone() {
    let assigner = Assigner::new("web", &[("strong", 1000), ("weak", 1)]);
    assert_eq!(assigner.table(nodes(&[0, 1])).load(node(1)), 0);
    assert_eq!(assigner.table(nodes(&[1])).load(node(1)), BUCKETS);
}

#[test]
fn exact_shares_may_cost_a_dwarf_its_bucket_when_another_dwarf_fails() {
    let powers = [2, 2, 875, 2, 2, 2, 2];
    let assigner = assigner(&powers);
    let home = assigner.table(farm(&powers));
    for failed in farm(&powers).iter().filter(|&n| home.load(n) == 0) {
        let after = assigner.table(farm(&powers).without(failed));
        assert_eq!(after.load(node(2)), 253, "its exact share is 253.1");
        assert_eq!(moved(&home, &after), 1);
    }
}

#[test]
fn the_order_of_the_file_does_not_move_buckets() {
    let (ab, ba) = (
        Assigner::new("web", &[("a", 2), ("b", 1)]).table(nodes(&[0, 1])),
        Assigner::new("web", &[("b", 1), ("a", 2)]).table(nodes(&[0, 1])),
    );
    for bucket in 0..=u8::MAX {
        assert_ne!(ab.owner(bucket), ba.owner(bucket), "same name, other index: bucket {bucket}");
    }
}

#[test]
fn groups_are_placed_independently() {
    let members = [("a", 1), ("b", 1)];
    let one = Assigner::new("one", &members).table(nodes(&[0, 1]));
    let two = Assigner::new("two", &members).table(nodes(&[0, 1]));
    let common = moved(&one, &two);
    assert!((90..166).contains(&common), "{common} of 256 differ, about half should");
}

#[test]
fn sixty_four_nodes_each_serve_their_share() {
    let names: Vec<String> = (0..MAX_NODES).map(|n| format!("node{n}")).collect();
    let members: Vec<(&str, u16)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let table = Assigner::new("web", &members).table(NodeSet::from_bits(u64::MAX));
    assert!((0..MAX_NODES).all(|n| table.load(node(n)) == 4));
}

/// Farms of equal nodes, and of nodes whose powers spread evenly over a range, 0 included.
fn powers() -> impl Strategy<Value = Vec<u16>> {
    prop_oneof![Just(1_u16), Just(10), Just(100), Just(1000)].prop_flat_map(|most| {
        prop_oneof![vec(0..=most, 2..=32), (2..=32_usize).prop_map(|n| vec![1; n])]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn loads_are_the_exact_shares_rounded_down_or_up(powers in powers(), alive: u64) {
        let alive = NodeSet::from_bits(alive & farm(&powers).bits());
        let table = assigner(&powers).table(alive);
        let total: usize = alive.iter().map(|n| usize::from(powers[n.index()])).sum();
        for (index, &power) in powers.iter().enumerate() {
            let load = table.load(node(index));
            if power == 0 || !alive.contains(node(index)) {
                prop_assert_eq!(load, 0);
            } else {
                let share = BUCKETS * usize::from(power);
                prop_assert!((share / total..=share.div_ceil(total)).contains(&load));
            }
        }
        let owned = table.owners().iter().flatten().count();
        prop_assert_eq!(owned, if total > 0 { BUCKETS } else { 0 });
    }

    #[test]
    fn a_single_failure_moves_the_failed_nodes_buckets_only(powers in powers()) {
        let assigner = assigner(&powers);
        let home = assigner.table(farm(&powers));
        for failed in farm(&powers).iter() {
            let after = assigner.table(farm(&powers).without(failed));
            for (before, after) in home.owners().iter().zip(after.owners()) {
                prop_assert!(before == after || *before == Some(failed));
            }
        }
    }

    #[test]
    fn recovery_restores_home_whatever_happened(powers in powers(), history: Vec<u64>) {
        let assigner = assigner(&powers);
        let home = assigner.table(farm(&powers));
        for alive in history {
            let _ = assigner.table(NodeSet::from_bits(alive));
        }
        prop_assert_eq!(assigner.table(farm(&powers)), home);
    }

    #[test]
    fn two_agents_agree_without_talking(powers in powers(), alive: u64) {
        let alive = NodeSet::from_bits(alive);
        prop_assert_eq!(assigner(&powers).table(alive), assigner(&powers).table(alive));
    }

    #[test]
    fn an_appended_node_moves_little_more_than_its_share(count in 2..=31_usize) {
        let before = assigner(&vec![1; count]).table(farm(&vec![1; count]));
        let after = assigner(&vec![1; count + 1]).table(farm(&vec![1; count + 1]));
        let share = BUCKETS.div_ceil(count + 1);
        let moved = moved(&before, &after);
        prop_assert!(moved <= share + BUCKETS / 4, "{moved} moved, the new node owns {share}");
    }
}

fn golden_tables() -> String {
    let equal: Vec<u16> = vec![1; 3];
    let weighted = vec![2, 1];
    let mixed = vec![3, 0, 1, 10, 1];
    let wide: Vec<u16> = (0..64).map(|n| 1 + n % 7).collect();
    let mut text = String::from(
        "# Who owns each of the 256 buckets: 64 a line, owner by index (0-9 a-z A-Z + -), `.` = nobody.\n",
    );
    for (powers, alive_sets) in [
        (weighted, &[0b11, 0b01, 0b10, 0][..]),
        (equal, &[0b111, 0b011, 0b101, 0b110, 0b001]),
        (mixed, &[0b11111, 0b10111, 0b00010, 0b00110, 0b10101]),
        (wide, &[u64::MAX, 0x5555_5555_5555_5555, 0xffff_ffff, 1 << 63]),
    ] {
        let assigner = assigner(&powers);
        for &alive in alive_sets {
            writeln!(text, "\nversion {TABLE_VERSION} powers {powers:?} alive {alive:#x}")
                .expect("a string takes everything");
            let table = assigner.table(NodeSet::from_bits(alive));
            for row in table.owners().chunks(64) {
                text.extend(row.iter().map(|owner| owner.map_or('.', symbol)));
                text.push('\n');
            }
        }
    }
    text
}

fn symbol(node: NodeId) -> char {
    const SYMBOLS: &[u8; MAX_NODES] =
        b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-";
    char::from(SYMBOLS[node.index()])
}

fn assigner(powers: &[u16]) -> Assigner {
    let names: Vec<String> = (0..powers.len()).map(|n| format!("node{}", n + 1)).collect();
    let members: Vec<(&str, u16)> =
        names.iter().map(String::as_str).zip(powers.iter().copied()).collect();
    Assigner::new("FarmProto", &members)
}

fn farm(powers: &[u16]) -> NodeSet {
    (0..powers.len()).map(node).collect()
}

fn nodes(indices: &[usize]) -> NodeSet {
    indices.iter().map(|&n| node(n)).collect()
}

fn node(index: usize) -> NodeId {
    NodeId::new(index).expect("within MAX_NODES")
}

fn moved(before: &Table, after: &Table) -> usize {
    before.owners().iter().zip(after.owners()).filter(|(a, b)| a != b).count()
}
