//! What a seed draws before a life begins.

use std::fmt;

use super::dice::Dice;
use super::faults::Fault;

/// Which nodes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topology {
    /// Two and two nodes, and a witness at a third place.
    TwoAndTwo,
    /// Three and three, and a witness.
    ThreeAndThree,
    /// Three voters at one site, two learners at the other.
    TwoSites,
    /// Three voters at one site.
    OneSite,
}

impl Topology {
    /// All of them.
    pub const ALL: [Topology; 4] =
        [Topology::TwoAndTwo, Topology::ThreeAndThree, Topology::TwoSites, Topology::OneSite];

    /// As operators write it.
    pub fn name(self) -> &'static str {
        match self {
            Topology::TwoAndTwo => "2+2+w",
            Topology::ThreeAndThree => "3+3+w",
            Topology::TwoSites => "3+2l",
            Topology::OneSite => "3",
        }
    }
}

/// A life before it is lived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Decides everything.
    pub seed: u64,
    /// Which nodes there are.
    pub topology: Topology,
    /// A site is lost for good, and people promote the other one ([`day`](super::day)); the faults are that day's own.
    pub is_worst_day: bool,
    /// Of the kinds of faults it draws among the first so many. New kinds come behind the old ones: what a seed drew before
    /// they were there can be lived again.
    pub kinds: usize,
    /// What may happen.
    pub faults: Vec<Fault>,
    /// Turns in which something may happen.
    pub turns: u64,
    /// Clients, each with one call at a time.
    pub clients: u64,
    /// Records that they share.
    pub records: u64,
    /// Bytes behind every value.
    pub padding: usize,
    /// Entries that a log keeps for those who are behind; beyond them whole states are sent.
    pub keep_entries: u64,
    /// How often the records are flushed and the log is purged.
    pub flush_ms: u64,
    /// How often a client calls, milliseconds between two calls at most.
    pub pause_ms: u64,
}

/// Where there is a witness a verdict is seldom needed, and seldom more than unknown.
fn worst_day_topology(seed: u64) -> Topology {
    match Dice::new(seed, 3).below(5) {
        0 => Topology::TwoAndTwo,
        1 => Topology::ThreeAndThree,
        _ => Topology::TwoSites,
    }
}

impl Life {
    /// What this seed draws.
    pub fn of(seed: u64) -> Life {
        Life::among(seed, Fault::ALL.len())
    }

    /// What it drew when there were so many kinds of faults.
    pub fn among(seed: u64, kinds: usize) -> Life {
        let mut dice = Dice::new(seed, 1);
        let topology = match dice.below(10) {
            0..5 => Topology::TwoAndTwo,
            5..7 => Topology::ThreeAndThree,
            7..9 => Topology::TwoSites,
            _ => Topology::OneSite,
        };
        let share = 1 + dice.below(3);
        let mut faults: Vec<Fault> = Fault::ALL.into_iter().take(kinds).filter(|it| it.fits(topology)).collect();
        faults.retain(|_| dice.below(4) < share);
        let is_worst_day = Dice::new(seed, 2).one_in(8);
        let topology = if is_worst_day { worst_day_topology(seed) } else { topology };
        Life {
            seed,
            topology,
            is_worst_day,
            kinds,
            faults,
            turns: 4 + dice.below(12),
            clients: 2 + dice.below(4),
            records: 1 + dice.below(6),
            padding: dice.pick(&[0, 0, 200, 4_000]).unwrap_or(0),
            keep_entries: dice.pick(&[20, 100, 100_000]).unwrap_or(100),
            flush_ms: dice.pick(&[500, 3_000, 30_000]).unwrap_or(3_000),
            pause_ms: dice.pick(&[20, 60, 200]).unwrap_or(60),
        }
    }
}

impl Life {
    /// The same seed's worst day.
    pub fn worst_day(self) -> Life {
        Life { is_worst_day: true, topology: worst_day_topology(self.seed), ..self }
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_worst_day {
            return write!(f, "{}, {} turns and a worst day", self.topology.name(), self.turns);
        }
        let faults: Vec<&str> = self.faults.iter().map(|it| it.name()).collect();
        write!(
            f,
            "{}, {} turns, {} clients on {} records, padding {}, keeps {} entries, flushes every {} ms, pauses {} ms, faults: {}",
            self.topology.name(),
            self.turns,
            self.clients,
            self.records,
            self.padding,
            self.keep_entries,
            self.flush_ms,
            self.pause_ms,
            faults.join(" ")
        )
    }
}
