use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    membership::view::{Content, ViewId},
    model::{Abstentions, Override, Stay, StayKind, VipId},
};

const KEY: [u8; 32] = [7; 32];
const FARM: FarmId = [1, 2, 3, 4];

fn decode(bytes: &[u8]) -> Result<Heartbeat, Dropped> {
    screen(bytes, FARM)?;
    open(bytes, 0, &[KEY])
}

fn id(index: usize) -> NodeId {
    NodeId::new(index).expect("a small farm")
}

fn stamps() -> impl Strategy<Value = Stamp> {
    (0..MAX_NODES, any::<(u64, u64, [u8; 16])>()).prop_map(
        |(coordinator, (epoch, incarnation, hash))| Stamp {
            id: ViewId { epoch, coordinator: id(coordinator), incarnation },
            hash,
        },
    )
}

fn overrides() -> impl Strategy<Value = Overrides> {
    let rest = any::<(Option<u8>, Option<u32>)>();
    let entry = (0..MAX_NODES, 0..=crate::model::MAX_POWER, rest)
        .prop_map(|(node, power, (group, life))| Override { node: id(node), group, power, life });
    let stay = (0..MAX_NODES, any::<(u64, bool, Option<u32>)>()).prop_map(|(node, rest)| {
        let (vip, pinned, life) = rest;
        let kind = if pinned { StayKind::Pinned } else { StayKind::Incumbent };
        Stay { vip: VipId(vip), kind, node: id(node), life }
    });
    let sets = (vec(entry, 0..10), vec(stay, 0..5));
    (any::<(u64, u8)>(), sets).prop_map(|((counter, author), (entries, stays))| {
        let overrides = Overrides::new(Version { counter, author }, entries);
        overrides.and_then(|overrides| overrides.and(stays)).expect("few enough")
    })
}

fn abstentions() -> impl Strategy<Value = Abstentions> {
    vec(any::<u32>(), 0..5).prop_map(|groups| {
        let entries = (0..).map(id).zip(groups.into_iter().map(Abstention::from_bits));
        Abstentions::new(entries).expect("in order")
    })
}

fn contents() -> impl Strategy<Value = Content> {
    let powers = (overrides(), abstentions());
    let fields = (any::<(u64, u64, [u8; 16])>(), vec(any::<u32>(), MAX_NODES), powers);
    fields.prop_map(|((alive, idle, digest), mut lives, (powers, abstentions))| {
        lives.truncate(alive.count_ones() as usize);
        Content {
            alive: NodeSet::from_bits(alive),
            idle: NodeSet::from_bits(alive & idle),
            digest,
            lives,
            powers: Arc::new(powers),
            abstentions: Arc::new(abstentions),
        }
    })
}

fn states() -> impl Strategy<Value = State> {
    let rest = any::<([u8; 16], Option<[u8; 16]>, [u64; 4], (u64, u8), u16, [u32; 2])>();
    (0..32u16, stamps(), stamps(), rest).prop_map(|(flags, installed, promised, rest)| {
        let (digest, staged, sets, (counter, author), hears_on, abstains) = rest;
        let [ready, hears, linked, max_epoch] = sets;
        let [abstains, abstains_next] = abstains.map(Abstention::from_bits);
        State {
            flags: Flags(flags),
            digest,
            staged,
            installed,
            promised,
            ready: NodeSet::from_bits(ready),
            hears: NodeSet::from_bits(hears),
            linked: NodeSet::from_bits(linked),
            max_epoch,
            overrides: Version { counter, author },
            hears_on,
            abstains,
            abstains_next,
        }
    })
}

fn heartbeats() -> impl Strategy<Value = Heartbeat> {
    let head = (0..MAX_NODES, any::<(u64, u64)>(), vec(any::<(u32, u32)>(), 1..=MAX_NODES));
    let sections = (proptest::option::of(contents()), proptest::option::of(overrides()));
    let told = (states(), any::<[u8; 6]>(), any::<(u64, u64)>());
    let lingering = vec(any::<u8>(), 0..=MAX_LINGERING);
    let all = (head, told, sections, lingering);
    all.prop_map(|(head, (state, mac, (epoch, digest)), (content, overrides), lingering)| {
        let (source, (incarnation, sequence), acks) = head;
        Heartbeat {
            source: id(source),
            incarnation,
            sequence,
            state,
            mac: Mac(mac),
            proof: Proof { epoch, digest },
            acks: acks.into_iter().map(|(life, sequence)| Ack { life, sequence }).collect(),
            proposal: content.map(|content| Arc::new(Agreement { stamp: state.promised, content })),
            overrides: overrides.map(Arc::new),
            lingering: lingering.into(),
        }
    })
}

proptest! {
    #[test]
    fn a_heartbeat_is_read_as_it_was_written(heartbeat in heartbeats()) {
        prop_assert_eq!(decode(&seal(&heartbeat, 0, FARM, &KEY)), Ok(heartbeat));
    }

    #[test]
    fn one_changed_bit_anywhere_is_refused(heartbeat in heartbeats(), bit: usize) {
        let mut bytes = seal(&heartbeat, 0, FARM, &KEY);
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn a_cut_or_grown_heartbeat_is_refused(heartbeat in heartbeats(), len in 0..2 * MAX_LEN) {
        let mut bytes = seal(&heartbeat, 0, FARM, &KEY);
        let whole = bytes.len();
        bytes.resize(len, 0);
        prop_assert_eq!(decode(&bytes).is_ok(), len == whole);
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..2 * MAX_LEN)) {
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn a_key_holder_who_writes_nonsense_is_survived(body in vec(any::<u8>(), HEAD..MAX_LEN - TAG)) {
        let mut bytes = body;
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[AT_VERSION] = VERSION;
        bytes[AT_LINK] = 0;
        bytes[AT_FARM..AT_FARM + 4].copy_from_slice(&FARM);
        let tag = tag(&bytes, &KEY);
        bytes.extend(tag);
        if bytes.len() >= MIN_LEN
            && let Err(reason) = decode(&bytes)
        {
            prop_assert_eq!(reason, Dropped::Malformed);
        }
    }
}

#[test]
fn every_key_in_use_is_accepted_and_no_other() {
    let bytes = seal(&simple(2), 0, FARM, &KEY);
    let other = [8; 32];
    assert!(open(&bytes, 0, &[other, KEY]).is_ok());
    assert_eq!(open(&bytes, 0, &[other]), Err(Dropped::Tag));
    assert_eq!(open(&bytes, 0, &[]), Err(Dropped::Tag));
}

#[test]
fn a_heartbeat_of_one_network_is_refused_on_another() {
    let first = seal(&simple(2), 0, FARM, &KEY);
    let other = Mac([9; 6]);
    let second = reseal(&first, 1, other, &KEY);
    assert_eq!(open(&first, 1, &[KEY]), Err(Dropped::Link));
    let with_other = Heartbeat { mac: other, ..simple(2) };
    assert_eq!(open(&second, 1, &[KEY]), Ok(with_other), "the same with its sender's MAC there");
}

#[test]
fn sizes_are_as_documented() {
    let size = |nodes| seal(&simple(nodes), 0, FARM, &KEY).len();
    assert_eq!((size(2), size(64)), (233, 729));
    let mut powers = Overrides::default();
    for entry in 0..Overrides::MAX {
        let group = u8::try_from(entry).expect("a byte");
        let entry = Override::persistent(id(1), Some(group), 1);
        powers = powers.with(id(0), Override { life: Some(1), ..entry }).expect("room");
    }
    let kind = StayKind::Pinned;
    let stays = (0..Overrides::MAX_STAYS as u64).map(|vip| Stay {
        vip: VipId(vip),
        kind,
        node: id(1),
        life: Some(1),
    });
    let powers = powers.and(stays).expect("room");
    let powers = Arc::new(powers);
    let everybody = (0..MAX_NODES).map(|node| (id(node), Abstention::ALL));
    let abstentions = Abstentions::new(everybody).expect("in order");
    let content = Content {
        alive: NodeSet::from_bits(u64::MAX),
        lives: vec![1; 64],
        powers: Arc::clone(&powers),
        abstentions: Arc::new(abstentions),
        ..Content::default()
    };
    let mut longest = simple(64);
    longest.overrides = Some(powers);
    longest.lingering = [7; MAX_LINGERING].into();
    longest.proposal = Some(Arc::new(Agreement { stamp: longest.state.promised, content }));
    let bytes = seal(&longest, 0, FARM, &KEY);
    assert_eq!(bytes.len(), MAX_LEN);
    assert_eq!(MAX_LEN, 10656, "what a UDP datagram can carry is 65,507");
    assert_eq!(decode(&bytes), Ok(longest));
}

/// A loop of random mutations: what a fuzzer does, for as long as a test may take.
#[test]
fn mutated_heartbeats_are_survived() {
    let mut random = 0x1234_5678_9abc_def0_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 16).expect("48 bits")
    };
    let mut seeds = vec![seal(&simple(3), 0, FARM, &KEY), seal(&whole(), 0, FARM, &KEY)];
    let mut read = 0;
    for _ in 0..30_000 {
        let mut bytes = seeds[next() % seeds.len()].clone();
        for _ in 0..=next() % 4 {
            let at = next() % bytes.len();
            match next() % 4 {
                0 => bytes[at] = u8::try_from(next() % 256).expect("a byte"),
                1 => bytes[at] ^= 1 << (next() % 8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, 0),
            }
        }
        if fuzz(&bytes) {
            read += 1;
            if seeds.len() < 1000 {
                seeds.push(bytes);
            }
        }
    }
    assert!(read > 1000, "most mutations must reach the fields: {read}");
}

fn simple(nodes: usize) -> Heartbeat {
    Heartbeat {
        source: id(nodes - 1),
        incarnation: 0x1112_1314_1516_1718,
        sequence: 0x2122_2324_2526_2728,
        state: State {
            flags: Flags::FENCED.with(Flags::LEAVING, true),
            digest: [0x33; 16],
            staged: None,
            installed: stamp(0x44),
            promised: stamp(0x55),
            ready: NodeSet::from_bits(0x6162_6364_6566_6768),
            hears: NodeSet::from_bits(0x7172_7374_7576_7778),
            linked: NodeSet::from_bits(0x8182_8384_8586_8788),
            max_epoch: 0x9192_9394_9596_9798,
            overrides: Version { counter: 0xa1a2_a3a4_a5a6_a7a8, author: 0xa9 },
            hears_on: 0xaaab,
            abstains: Abstention::from_bits(0xbbbc_bdbe),
            abstains_next: Abstention::from_bits(0xbfc0_c1c2),
        },
        mac: Mac([0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6]),
        proof: Proof { epoch: 0xb8b8_b8b8_b8b8_b8b8, digest: 0xb9b9_b9b9_b9b9_b9b9 },
        acks: vec![Ack { life: 0xc1c2_c3c4, sequence: 0xd1d2_d3d4 }; nodes],
        proposal: None,
        overrides: None,
        lingering: Arc::default(),
    }
}

/// With all sections.
fn whole() -> Heartbeat {
    let mut heartbeat = simple(1);
    let entry = Override::persistent(id(1), Some(7), 9);
    let set = Overrides::default().with(id(2), entry).expect("room");
    let entry = Override { life: Some(0x0102_0304), ..Override::persistent(id(3), None, 0) };
    let set = set.with(id(2), entry).expect("room");
    let stay =
        Stay { vip: VipId(0x0506_0708_090a_0b0c), kind: StayKind::Pinned, node: id(4), life: None };
    let set = set.with_stay(id(2), stay).expect("room");
    heartbeat.state.staged = Some([0xe1; 16]);
    heartbeat.overrides = Some(Arc::new(set));
    let content = Content {
        alive: NodeSet::from_bits(0b101),
        idle: NodeSet::from_bits(0b100),
        digest: [0xe2; 16],
        lives: vec![0xf1f2_f3f4, 0xf5f6_f7f8],
        powers: Arc::default(),
        abstentions: Arc::new(Abstentions::new([(id(2), Abstention::ALL)]).expect("in order")),
    };
    heartbeat.proposal = Some(Arc::new(Agreement { stamp: heartbeat.state.promised, content }));
    heartbeat.lingering = [0x99; 5].into();
    heartbeat
}

fn stamp(byte: u8) -> Stamp {
    let number = u64::from_be_bytes([byte; 8]);
    Stamp {
        id: ViewId { epoch: number, coordinator: id(5), incarnation: number },
        hash: [byte; 16],
    }
}

#[test]
fn the_layout_is_frozen() {
    let bytes = seal(&whole(), 0, FARM, &KEY);
    let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
    let lines: Vec<_> = bytes.chunks(32).map(|bytes| line(bytes).concat()).collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    56495066060000010102030402e6aaab11121314151617182122232425262728
    33333333333333333333333333333333e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1
    4444444444444444054444444444444444444444444444444444444444444444
    4455555555555555550555555555555555555555555555555555555555555555
    5555616263646566676871727374757677788182838485868788919293949596
    9798a1a2a3a4a5a6a7a8a9b1b2b3b4b5b6b8b8b8b8b8b8b8b8b9b9b9b9b9b9b9
    b9bbbcbdbebfc0c1c2c1c2c3c4d1d2d3d4000000000000000500000000000000
    04e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2f1f2f3f4f5f6f7f800000000000000
    00000000000102ffffffff000000000000000302000201010700090000000003
    02000000010203040105060708090a0b0c04010000000000059999999999f6c5
    5f3f54bd19822bd585769bbc2e72
    ");
}
