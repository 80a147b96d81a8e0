//! What comes out, whether it is good enough, and how it looks.

use std::fmt;

use serde::Serialize;
use vipfarm::datapath::manual::Size;

use super::receiver::Kind;

/// What `--json` writes.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    /// An empty program, the kernel's test loop included.
    pub(super) floor_ns: f64,
    /// One lookup in a kernel hash map with 8-byte keys, over the floor.
    pub(super) lookup_ns: f64,
    /// Calls in the translated hot path besides the tail call.
    pub(super) hot_path_calls: usize,
    pub(super) programs: Vec<ProgramFigures>,
    /// How often the programs were loaded, and turns of each path in a load.
    pub(super) loads: usize,
    pub(super) rounds: u16,
    pub(super) paths: Vec<PathFigures>,
    pub(super) flood: FloodFigures,
    /// What could not be measured, each with the reason.
    pub(super) not_measured: Vec<String>,
    /// Load of the machine when the bench began: what others had it do.
    pub(super) load_average: Option<f64>,
}

/// One program's size in instructions.
#[derive(Debug, Serialize)]
pub(super) struct ProgramFigures {
    pub(super) name: String,
    pub(super) translated: u32,
    pub(super) verified: u32,
}

impl From<(String, Size)> for ProgramFigures {
    fn from((name, size): (String, Size)) -> Self {
        Self { name, translated: size.translated, verified: size.verified }
    }
}

/// One path through the hot path.
#[derive(Debug, Serialize)]
pub(super) struct PathFigures {
    pub(super) name: &'static str,
    pub(super) family: &'static str,
    pub(super) over_floor_ns: f64,
    /// The least of all rounds.
    pub(super) min_over_floor_ns: f64,
    pub(super) ratio_to_lookup: f64,
    /// Of the load in which it was largest.
    pub(super) worst_ratio_to_lookup: f64,
    /// The most that the ratio may be.
    pub(super) gate: f64,
    pub(super) verdict: String,
    pub(super) reason: String,
}

impl PathFigures {
    pub(super) fn held(&self) -> bool {
        self.ratio_to_lookup <= self.gate
    }
}

impl fmt::Display for PathFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, family, ratio_to_lookup, gate, .. } = self;
        write!(f, "{name} {family} {ratio_to_lookup:.2}, not {gate:.2}")
    }
}

/// What receiving one frame costs, the sender's part taken off: medians and the least of the rounds.
#[derive(Debug, Default, Serialize)]
pub(super) struct FloodFigures {
    /// Floods of each receiver.
    rounds: u16,
    /// The sender's part.
    generator_ns: Option<f64>,
    #[serde(flatten)]
    median: ByKind,
    min: ByKind,
}

/// One figure for each receiver that was measured.
#[derive(Debug, Default, Serialize)]
struct ByKind {
    #[serde(rename = "none_ns")]
    none: Option<f64>,
    #[serde(rename = "vipfarm_ns")]
    vipfarm: Option<f64>,
    #[serde(rename = "nft_jhash_ns")]
    nft_jhash: Option<f64>,
    #[serde(rename = "xt_cluster_ns")]
    xt_cluster: Option<f64>,
    #[serde(rename = "half_vipfarm_ns")]
    half_vipfarm: Option<f64>,
}

impl ByKind {
    fn of(&mut self, kind: Kind) -> &mut Option<f64> {
        match kind {
            Kind::None => &mut self.none,
            Kind::Vipfarm => &mut self.vipfarm,
            Kind::NftJhash => &mut self.nft_jhash,
            Kind::XtCluster => &mut self.xt_cluster,
            Kind::HalfVipfarm => &mut self.half_vipfarm,
        }
    }

    fn get(&self, kind: Kind) -> Option<f64> {
        match kind {
            Kind::None => self.none,
            Kind::Vipfarm => self.vipfarm,
            Kind::NftJhash => self.nft_jhash,
            Kind::XtCluster => self.xt_cluster,
            Kind::HalfVipfarm => self.half_vipfarm,
        }
    }
}

impl FloodFigures {
    pub(super) fn new(rounds: u16, generator_ns: f64) -> Self {
        Self { rounds, generator_ns: Some(generator_ns), ..Self::default() }
    }

    /// Sets what one receiver needs for a frame.
    pub(super) fn set(&mut self, kind: Kind, median: f64, min: f64) {
        *self.median.of(kind) = Some(median);
        *self.min.of(kind) = Some(min);
    }

    /// How much more it costs than vipfarm, if both were measured; where vipfarm serves a half, than no
    /// filter.
    fn ratio(&self, kind: Kind) -> Option<f64> {
        let unit = if kind == Kind::HalfVipfarm { Kind::None } else { Kind::Vipfarm };
        Some(self.median.get(kind)? / self.median.get(unit)?)
    }

    fn held(&self, kind: Kind) -> bool {
        let Some(ratio) = self.ratio(kind) else { return true };
        match kind {
            Kind::HalfVipfarm => ratio <= HALF,
            _ => gate(kind).is_none_or(|gate| ratio >= gate),
        }
    }
}

/// What vipfarm may cost where it serves a half, of what no filter does.
const HALF: f64 = 0.7;

/// How much more than vipfarm it must cost; where vipfarm serves a half, see [`HALF`].
fn gate(kind: Kind) -> Option<f64> {
    match kind {
        Kind::None | Kind::Vipfarm => None,
        Kind::NftJhash => Some(4.0),
        Kind::XtCluster => Some(6.0),
        Kind::HalfVipfarm => Some(HALF),
    }
}

impl Figures {
    /// Whether all gates hold, of everything that was asked for.
    pub(super) fn held(&self) -> bool {
        self.hot_path_calls == 0
            && self.not_measured.is_empty()
            && self.paths.iter().all(PathFigures::held)
            && Kind::ALL.into_iter().all(|kind| self.flood.held(kind))
    }
}

fn word(held: bool) -> &'static str {
    if held { "ok" } else { "TOO SLOW" }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (calls, loads) = (self.hot_path_calls, self.loads);
        writeln!(f, "floor (an empty program)   {:6.1} ns", self.floor_ns)?;
        writeln!(f, "one kernel hash lookup     {:6.1} ns over the floor", self.lookup_ns)?;
        let told = if calls == 0 { "ok" } else { "TOO MANY" };
        writeln!(f, "calls in the hot path      {calls:6} besides the tail call  {told}")?;

        writeln!(f, "\ninstructions               translated  verified")?;
        for ProgramFigures { name, translated, verified } in &self.programs {
            writeln!(f, "{name:26} {translated:10} {verified:9}")?;
        }

        writeln!(
            f,
            "\nof {loads:2} loads the median      over floor     min   ratio   worst    gate"
        )?;
        for path in &self.paths {
            let PathFigures { name, family, over_floor_ns, min_over_floor_ns: min, .. } = path;
            let (ratio, worst, gate) =
                (path.ratio_to_lookup, path.worst_ratio_to_lookup, path.gate);
            write!(f, "{name:22} {family} {over_floor_ns:6.1} ns {min:6.1} ")?;
            writeln!(f, "{ratio:7.2} {worst:7.2} {gate:7.2}  {}", word(path.held()))?;
        }

        writeln!(f, "(a load's figure is the median of {} rounds)", self.rounds)?;

        self.flood.fmt(f)?;
        if !self.not_measured.is_empty() {
            writeln!(f, "\nnot measured: {}", self.not_measured.len())?;
            self.not_measured.iter().try_for_each(|what| writeln!(f, "  {what}"))?;
        }
        if let Some(load) = self.load_average {
            writeln!(f, "\nload before: {load:.2}")?;
        }
        Ok(())
    }
}

impl fmt::Display for FloodFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(generator) = self.generator_ns else { return Ok(()) };
        writeln!(
            f,
            "\nreceiving a flood, median of {} rounds, all dropped but where said",
            self.rounds
        )?;
        writeln!(f, "(the sender's {generator:.1} ns a frame taken off)      min   ratio    gate")?;
        for kind in Kind::ALL {
            let (Some(ns), Some(min)) = (self.median.get(kind), self.min.get(kind)) else {
                continue;
            };
            write!(f, "{:27} {ns:6.1} ns {min:6.1} ", kind.name())?;
            match (self.ratio(kind), gate(kind)) {
                (Some(ratio), Some(gate)) => {
                    writeln!(f, "{ratio:7.2} {gate:7.2}  {}", word(self.held(kind)))?;
                }
                (Some(ratio), None) => writeln!(f, "{ratio:7.2}")?,
                (None, _) => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flood(nft: f64) -> FloodFigures {
        let mut figures = FloodFigures::new(7, 50.0);
        figures.set(Kind::Vipfarm, 100.0, 90.0);
        figures.set(Kind::NftJhash, nft, nft);
        figures
    }

    #[test]
    fn a_comparison_that_is_too_close_fails_and_a_missing_one_does_not() {
        let figures = |nft| Figures { flood: flood(nft), ..Figures::default() };
        assert!(figures(400.0).held());
        assert!(!figures(390.0).held());
        assert!(!Figures { hot_path_calls: 1, ..figures(400.0) }.held());
        let text = figures(390.0).to_string();
        let line = text.lines().find(|line| line.starts_with("nft jhash")).unwrap_or_default();
        assert!(line.contains(" 3.90 ") && line.ends_with("TOO SLOW"), "{text}");
    }

    #[test]
    fn a_half_that_is_dropped_must_save_something() {
        let figures = |half| {
            let mut figures = flood(400.0);
            figures.set(Kind::None, 1000.0, 1000.0);
            figures.set(Kind::HalfVipfarm, half, half);
            figures
        };
        assert!(figures(700.0).held(Kind::HalfVipfarm));
        assert!(!figures(710.0).held(Kind::HalfVipfarm));
        let text = figures(650.0).to_string();
        let line = text.lines().find(|line| line.starts_with("vipfarm, half")).unwrap_or_default();
        assert!(line.contains(" 0.65 ") && line.ends_with("ok"), "{text}");
    }

    #[test]
    fn a_path_may_cost_its_share_of_a_lookup() {
        let path = |ratio_to_lookup| PathFigures {
            name: "drop",
            family: "ipv4",
            over_floor_ns: 15.0,
            min_over_floor_ns: 14.0,
            ratio_to_lookup,
            worst_ratio_to_lookup: 0.9,
            gate: 0.6,
            verdict: "drop".into(),
            reason: "not_mine".into(),
        };
        let figures = |ratio| Figures { paths: vec![path(ratio)], ..Figures::default() };
        assert!(figures(0.6).held());
        assert!(!figures(0.61).held());
        assert!(!figures(f64::NAN).held());
    }

    #[test]
    fn figures_of_a_flood_have_the_promised_names() {
        let json = serde_json::to_value(flood(450.5)).unwrap();
        assert_eq!(json["vipfarm_ns"], 100.0);
        assert_eq!(json["nft_jhash_ns"], 450.5);
        for missing in ["none_ns", "xt_cluster_ns", "half_vipfarm_ns"] {
            assert!(json.get(missing).is_some_and(serde_json::Value::is_null), "{json}");
        }
        assert_eq!(json["min"]["vipfarm_ns"], 90.0);
    }
}
