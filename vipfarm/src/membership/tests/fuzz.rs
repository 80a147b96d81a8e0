//! Mutated heartbeats, sent to a machine at work: nothing that comes from the network may break it,
//! and what it refuses may not change it.
//!
//! There is no coverage to guide the mutations, so they know what a heartbeat is made of: fields are
//! changed and sealed with the right key, so that they get past the tag, then bytes. A case is a
//! scene (a farm at some point of its life, always the same) and what its first node is sent then;
//! as bytes it is what `cargo xtask fuzz --input` takes.

use std::{collections::BTreeMap, env, fs, panic, path::Path};

use super::{
    super::{check::state::Agent, sim::rng::Rng},
    *,
};

/// Whose heartbeats are counted as nobody's.
const STRANGER: u8 = 0xff;
/// More than a turn of a farm of three can ask for: two links, a few peers, a view.
const MOST_OUTPUTS: usize = 40;
/// Turns at one instant after which a machine must have come to rest.
const MOST_TURNS: usize = 4;

/// A datagram as it comes.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    /// Milliseconds since the one before.
    wait: u8,
    link: u8,
    /// Index of the node that it comes from, or [`STRANGER`].
    source: u8,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
struct Case {
    scene: u8,
    steps: Vec<Step>,
}

/// A farm whose first node is sent something, and all that was sent in it before.
struct Scene {
    node: Membership,
    millis: u64,
    sent: Vec<Step>,
}

/// By the words of the counters.
type Tally = BTreeMap<String, u64>;

#[test]
fn mutated_heartbeats_do_no_harm() {
    let scenes = scenes();
    if let Some(file) = env::var_os("VIPFARM_FUZZ_INPUT") {
        let bytes = fs::read(file).expect("the input file");
        let case = Case::decode(&bytes).expect("a case as `cargo xtask fuzz` writes it");
        println!("{case:02x?}");
        println!("{:?}", play(&scenes, &case));
        return;
    }
    let number = |name| env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seed: u64 = number("VIPFARM_FUZZ_SEED").unwrap_or(0);
    let cases = number("VIPFARM_FUZZ_CASES").unwrap_or(2000);
    let mut rng = Rng(seed);
    let mut tally = Tally::new();
    for _ in 0..cases {
        let case = Case::random(&mut rng, &scenes);
        match panic::catch_unwind(|| play(&scenes, &case)) {
            Ok(outcomes) => {
                for (word, count) in outcomes {
                    *tally.entry(word).or_default() += count;
                }
            }
            Err(_told) => give_up(seed, &case.encode()),
        }
    }
    let datagrams: u64 = tally.values().sum();
    println!("fuzz: datagrams {datagrams} {tally:?}");
    // Else the mutations would test nothing but the door.
    for word in Dropped::ALL.map(|reason| format!("dropped_{}", reason.as_str())) {
        assert!(cases < 2000 || tally.contains_key(&word), "no case was {word}: {tally:?}");
    }
    assert!(cases < 2000 || tally["accepted"] > datagrams / 20, "{tally:?}");
}

fn give_up(seed: u64, input: &[u8]) -> ! {
    let hex = input.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    if let Some(directory) = env::var_os("VIPFARM_FUZZ_DIR") {
        let file = Path::new(&directory).join(format!("{:.16}", blake3::hash(input).to_hex()));
        fs::create_dir_all(&directory).expect("a directory for failing inputs");
        fs::write(&file, input).expect("the failing input is written");
        println!("fuzz: written to {}", file.display());
    }
    panic!("seed {seed}, input {hex}");
}

#[test]
fn a_case_is_read_as_it_was_written() {
    let (scenes, mut rng) = (scenes(), Rng(1));
    for _ in 0..100 {
        let case = Case::random(&mut rng, &scenes);
        assert_eq!(Case::decode(&case.encode()), Some(case));
    }
    assert_eq!(Case::decode(&[0, 1, 0, 0, 0, 9, 1]), None, "cut short");
}

fn scenes() -> Vec<Scene> {
    let scene = |farm: Farm| {
        let sent = farm.log.iter().enumerate().flat_map(|(node, outputs)| {
            let source = octet(node);
            outputs.iter().filter_map(move |output| match output {
                Output::Send { link, datagram } => {
                    Some(Step { wait: 0, link: *link, source, bytes: datagram.clone() })
                }
                _ => None,
            })
        });
        Scene { millis: farm.millis, sent: sent.collect(), node: farm.nodes[0].clone() }
    };
    let settled = |then: fn(&mut Farm)| {
        let mut farm = Farm::settled(3);
        then(&mut farm);
        scene(farm)
    };
    let mut starting = Farm::of(3);
    starting.run(3);
    vec![
        scene(starting),
        settled(|_| {}),
        scene(Farm::with_two_networks(3, true)),
        // A peer has been silent for a while; it is dead; it is back.
        settled(|farm| {
            farm.stop(2);
            farm.run(200);
        }),
        settled(|farm| {
            farm.stop(2);
            farm.run(400);
        }),
        settled(|farm| {
            farm.stop(2);
            farm.run(400);
            farm.restart(2);
            farm.run(100);
        }),
        // A view is being agreed on.
        settled(|farm| {
            let now = farm.now();
            farm.nodes[1].set_power(now, Some(0), id(2), Some(7), false).expect("room");
            farm.run(2);
        }),
        // Nobody is heard any more, and the lease has ended.
        settled(|farm| {
            farm.cut = true;
            farm.run(240);
        }),
    ]
}

/// Sends the case to the node and checks all that must hold; how each datagram was counted.
fn play(scenes: &[Scene], case: &Case) -> Tally {
    let scene = &scenes[usize::from(case.scene) % scenes.len()];
    let (mut node, mut millis) = (scene.node.clone(), scene.millis);
    let before: Tally = node.counters().by_word().collect();
    for step in &case.steps {
        millis += u64::from(step.wait);
        let now = at(millis);
        turn(&mut node, now);
        receive(&mut node, now, step);
        turn(&mut node, now);
        fuzz(&step.bytes);
    }
    // It must go on by itself.
    for _ in 0..20 {
        let due = node.next_deadline();
        turn(&mut node, due.max(at(millis)));
    }
    let after = node.counters().by_word().filter(|(word, _)| word != "sent");
    let rise = after.map(|(word, count)| (word.clone(), count - before[&word]));
    rise.filter(|(_, count)| *count > 0).collect()
}

fn receive(node: &mut Membership, now: BootTime, step: &Step) {
    let source = match (step.source, step.link) {
        (STRANGER, _) => [203, 0, 113, 9].into(),
        (source, 0) => address(usize::from(source % 100)),
        (source, _) => extra(usize::from(source % 100)),
    };
    let (agent, known, before) = (node.clone(), known(node), node.counters().clone());
    node.handle_datagram(now, step.link, source, &step.bytes);
    let after = node.counters().clone();
    let refused: Vec<_> = Dropped::ALL
        .into_iter()
        .filter(|&reason| after.dropped(reason) > before.dropped(reason))
        .collect();
    let total = |counters: &Counters| -> u64 {
        let words = counters.by_word().filter(|(word, _)| word != "sent");
        words.map(|(_, count)| count).sum()
    };
    assert_eq!(total(&after), total(&before) + 1, "counted once: {refused:?}");
    let outputs = drain(node);
    let harmless = |output: &Output| matches!(output, Output::Event(_) | Output::Peer(..));
    assert!(outputs.len() <= 4 && outputs.iter().all(harmless), "{outputs:?}");
    if let [reason] = refused[..] {
        let told = |output: &Output| matches!(output, Output::Event(_));
        assert!(outputs.len() <= 1 && outputs.iter().all(told), "{reason:?}: {outputs:?}");
        assert_eq!(self::known(node), known, "{reason:?} changed what is known");
        if (reason as usize) <= Dropped::Duplicate as usize {
            let same = Agent(Arc::new(node.clone())) == Agent(Arc::new(agent));
            assert!(same, "{reason:?}, found out before anything is noted, changed the state");
        }
    }
}

/// What a refused datagram must leave alone, whatever else is noted of its sender.
fn known(node: &Membership) -> impl PartialEq + std::fmt::Debug + use<> {
    let serving = (node.state, node.lease.clone(), node.view().map(|view| view.epoch));
    let views = (node.promised.stamp, node.installed.as_ref().map(|view| view.stamp), node.ready);
    let config = (node.digest, node.staged, node.forced, Arc::clone(&node.overrides));
    let peers: Vec<_> = node
        .peers
        .iter()
        .map(|peer| (peer.newest().cloned(), peer.heard_at(), peer.acked()))
        .collect();
    (serving, views, config, (node.hears, node.linked, node.max_epoch), peers)
}

/// Turns of the driver at one instant, until there is nothing to do.
fn turn(node: &mut Membership, now: BootTime) {
    for _ in 0..MOST_TURNS {
        node.handle_timeout(now);
        let outputs = drain(node);
        assert!(outputs.len() <= MOST_OUTPUTS, "too much to do: {outputs:?}");
        for output in outputs {
            check(&output, node, now);
        }
        if node.next_deadline() > now {
            return;
        }
    }
    panic!("a turn at {now:?} is followed by others without end");
}

fn check(output: &Output, node: &Membership, now: BootTime) {
    let everybody = set(&(0..node.peers.len()).collect::<Vec<_>>());
    match output {
        Output::Send { link, datagram } => {
            assert!(datagram.len() <= MAX_DATAGRAM);
            let written = wire::open(datagram, *link, &[KEY]).expect("what is sent can be read");
            assert_eq!(written.source, node.config.own);
        }
        Output::Acquire(view) | Output::Release(view) => {
            assert!(view.alive.is_subset(everybody), "{view:?} has nodes that are none");
            assert!(view.alive.contains(node.config.own) || view.alive.is_empty(), "{view:?}");
        }
        Output::Lease(until) => assert!(*until <= now + TIMERS.lease, "{until:?} at {now:?}"),
        Output::SendTo { datagram, .. } => assert!(datagram.len() <= MAX_DATAGRAM),
        Output::Fence | Output::Peer(..) | Output::Event(_) => {}
    }
}

impl Case {
    fn random(rng: &mut Rng, scenes: &[Scene]) -> Self {
        let index = rng.index(scenes.len());
        let count = 1 + rng.index(4);
        let steps = (0..count).map(|_| Step::random(rng, &scenes[index].sent)).collect();
        Self { scene: octet(index), steps }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.scene];
        for step in &self.steps {
            let len = u16::try_from(step.bytes.len()).expect("a datagram");
            bytes.extend([step.wait, step.link, step.source]);
            bytes.extend(len.to_be_bytes());
            bytes.extend(&step.bytes);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&scene, mut rest) = bytes.split_first()?;
        let mut steps = Vec::new();
        while let Some((&[wait, link, source, a, b], after)) = rest.split_first_chunk() {
            let (datagram, after) = after.split_at_checked(u16::from_be_bytes([a, b]).into())?;
            steps.push(Step { wait, link, source, bytes: datagram.to_vec() });
            rest = after;
        }
        rest.is_empty().then_some(Self { scene, steps })
    }
}

impl Step {
    fn random(rng: &mut Rng, sent: &[Self]) -> Self {
        // Mostly what a peer might say now; else anything that was ever sent.
        let newest = |node: u8| sent.iter().rev().filter(move |step| step.source == node).take(6);
        let fresh: Vec<_> = newest(1).chain(newest(2)).collect();
        let mut step = if rng.once_in(4) {
            &sent[rng.index(sent.len())]
        } else {
            fresh[rng.index(fresh.len())]
        }
        .clone();
        if !rng.once_in(4) {
            step.change(|heartbeat| heartbeat.sequence += 100 + rng.below(100));
        }
        step.wait = if rng.once_in(8) { byte(rng) } else { byte(rng) % 20 };
        for _ in 0..rng.below(4) {
            step.change_field(rng, sent);
        }
        if rng.once_in(3) {
            step.change_bytes(rng, sent);
            match rng.below(4) {
                0 | 1 => step.bytes = resealed(&step.bytes, step.link, &KEY),
                2 => step.bytes = resealed(&step.bytes, step.link, &[1; 32]),
                _ => {}
            }
        }
        if rng.once_in(10) {
            step.link = byte(rng) % 3;
        }
        if rng.once_in(10) {
            step.source = [0, 1, 2, 3, STRANGER][rng.index(5)];
        }
        step
    }

    /// Changes what a heartbeat says, and seals it again; nothing if it is none any more.
    fn change_field(&mut self, rng: &mut Rng, sent: &[Self]) {
        let other = &sent[rng.index(sent.len())];
        let Ok(other) = wire::open(&other.bytes, other.link, &[KEY]) else { return };
        self.change(|heartbeat| change_field(heartbeat, &other, rng));
    }

    fn change(&mut self, change: impl FnOnce(&mut Heartbeat)) {
        let Ok(mut heartbeat) = wire::open(&self.bytes, self.link, &[KEY]) else { return };
        change(&mut heartbeat);
        if let Some(proposal) = &heartbeat.proposal {
            heartbeat.state.promised = proposal.stamp;
        }
        self.bytes = wire::seal(&heartbeat, self.link, wire::farm_id("web"), &KEY);
    }

    /// Changes bytes, whatever they mean.
    fn change_bytes(&mut self, rng: &mut Rng, sent: &[Self]) {
        let len = self.bytes.len();
        let other = &sent[rng.index(sent.len())].bytes;
        match rng.below(8) {
            0 => self.bytes.truncate(rng.index(len + 1)),
            1 => self.bytes.extend((0..rng.below(2000)).map(|_| byte(rng))),
            2 => {
                self.bytes.truncate(rng.index(len + 1));
                self.bytes.extend(&other[rng.index(other.len())..]);
            }
            // The version, the farm, how many acknowledgements follow.
            3 => self.set(4, byte(rng)),
            4 => self.set(8, byte(rng)),
            5 => self.set(7, byte(rng)),
            6 => self.set(rng.index(len.max(1)), byte(rng)),
            _ => {
                for _ in 0..=rng.below(8) {
                    let at = rng.index(len.max(1));
                    self.set(at, self.bytes.get(at).map_or(0, |byte| byte ^ 1 << rng.below(8)));
                }
            }
        }
    }

    fn set(&mut self, at: usize, value: u8) {
        if let Some(byte) = self.bytes.get_mut(at) {
            *byte = value;
        }
    }
}

fn change_field(heartbeat: &mut Heartbeat, other: &Heartbeat, rng: &mut Rng) {
    let state = &mut heartbeat.state;
    match rng.below(20) {
        0 => heartbeat.incarnation = number(rng),
        1 => heartbeat.sequence = number(rng),
        2 => heartbeat.source = id(rng.index(64)),
        3 => state.flags = Flags::of(u16::from(byte(rng)) & 31),
        4 => state.digest = [byte(rng) % 2; 16],
        5 => state.staged = rng.once_in(2).then(|| [byte(rng) % 2; 16]),
        6 => state.installed = stamp(rng, state.installed),
        7 => state.promised = stamp(rng, state.promised),
        8 => state.ready = NodeSet::from_bits(number(rng)),
        9 => state.hears = NodeSet::from_bits(number(rng)),
        10 => state.linked = NodeSet::from_bits(number(rng)),
        11 => state.max_epoch = number(rng),
        12 => state.overrides.counter = number(rng),
        13 => (state.hears_on, heartbeat.mac) = (byte(rng).into(), Mac([byte(rng); 6])),
        14 => heartbeat.acks.truncate(1 + rng.index(3)),
        15 => {
            heartbeat.acks.iter_mut().for_each(|ack| ack.sequence = life_of(number(rng)));
        }
        16 => heartbeat.proposal.clone_from(&other.proposal),
        17 => heartbeat.overrides.clone_from(&other.overrides),
        18 => heartbeat.proposal = Some(Arc::new(proposal(rng, state.promised.id))),
        _ => heartbeat.sequence = heartbeat.sequence.saturating_add(1000 + rng.below(1000)),
    }
}

/// A view that nobody has agreed on.
fn proposal(rng: &mut Rng, id: ViewId) -> Agreement {
    let members = NodeSet::from_bits(number(rng) | 1);
    let content = Content {
        alive: members,
        idle: members.intersection(NodeSet::from_bits(number(rng))),
        digest: [byte(rng) % 2; 16],
        lives: (0..members.len()).map(|node| life_of(1 + node as u64)).collect(),
        powers: Arc::default(),
        abstentions: Arc::default(),
    };
    let epoch = if rng.once_in(2) { id.epoch.saturating_add(rng.below(3)) } else { number(rng) };
    let id = ViewId { epoch, ..id };
    if rng.once_in(4) {
        let hash = [byte(rng); 16];
        return Agreement { stamp: Stamp { id, hash }, content };
    }
    Agreement::new(id, content)
}

fn stamp(rng: &mut Rng, stamp: Stamp) -> Stamp {
    match rng.below(3) {
        0 => Stamp { hash: [byte(rng); 16], ..stamp },
        1 => Stamp { id: ViewId { epoch: number(rng), ..stamp.id }, ..stamp },
        _ => Stamp { id: ViewId { incarnation: number(rng), ..stamp.id }, ..stamp },
    }
}

/// Small, large and at the edges, rather than any.
fn number(rng: &mut Rng) -> u64 {
    let number = match rng.below(4) {
        0 => 0,
        1 => rng.below(16),
        2 => 1 << rng.below(64),
        _ => rng.next(),
    };
    if rng.once_in(4) { number.wrapping_sub(1) } else { number }
}

fn byte(rng: &mut Rng) -> u8 {
    rng.next().to_le_bytes()[0]
}

fn life_of(number: u64) -> u32 {
    view::life(number)
}

/// With a right tag, and with its own MAC if it is long enough to have one.
fn resealed(bytes: &[u8], link: u8, key: &[u8; 32]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().max(wire::MIN_LEN), 0);
    let mac = Mac(std::array::from_fn(|byte| bytes[wire::AT_MAC + byte]));
    wire::reseal(&bytes, link, mac, key)
}
