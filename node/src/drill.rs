//! What a drill does to this node: it hears no peers, or its log's disk hangs. It ends by itself unless it is kept up.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use saola_raft::transport::cut::Cuts;
use saola_storage::disk::Hang;

/// The longest time for which a trouble lasts without being asked for again.
pub const LONGEST: Duration = Duration::from_secs(10);
/// However often it is asked for, it lasts no longer: whoever runs the drill has lost the thread.
const LONGEST_IN_ALL: Duration = Duration::from_secs(15 * 60);

/// What is done to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It neither hears nor reaches these peers; none: the drill has only shown that it runs.
    CutOff(BTreeSet<String>),
    /// Its log completes no sync.
    HangDisk,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::CutOff(names) if names.is_empty() => f.write_str("ready, nothing is done yet"),
            Kind::CutOff(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                write!(f, "cut off from {}", names.join(", "))
            }
            Kind::HangDisk => f.write_str("its log's disk hangs"),
        }
    }
}

/// What is done now.
#[derive(Clone, Debug)]
struct Trouble {
    drill: String,
    kind: Kind,
    /// When something was first done to the node; none: not yet.
    began: Option<Instant>,
    until: Instant,
}

/// The troubles of one node; clones are one.
#[derive(Clone, Default)]
pub struct Troubles {
    cuts: Cuts,
    hang: Hang,
    now: Arc<Mutex<Option<Trouble>>>,
    /// Drills that have done something to the node for too long.
    spent: Arc<Mutex<BTreeSet<String>>>,
}

impl Troubles {
    /// What the transport to and from peers has to look at.
    pub fn cuts(&self) -> Cuts {
        self.cuts.clone()
    }

    /// What the log's disk has to look at.
    pub fn hang(&self) -> Hang {
        self.hang.clone()
    }

    /// Whether this drill does something to the node already: then it need not prove again that it runs, which a node
    /// that is cut off could not check.
    pub fn are_of(&self, drill: &str) -> bool {
        self.now.lock().as_ref().is_some_and(|now| now.drill == drill)
    }

    /// Makes a trouble, in the place of another one, or keeps it up, for so long from now on.
    ///
    /// # Errors
    /// A sentence: another drill does something to the node, or it has lasted too long.
    pub fn make(&self, drill: &str, kind: Kind, lasts: Duration) -> Result<(), String> {
        let mut now = self.now.lock();
        let at = Instant::now();
        let mut began = match &*now {
            Some(other) if other.drill != drill => {
                return Err(format!("drill {} does something to this node: {}", other.drill, other.kind));
            }
            Some(same) => same.began,
            None => None,
        };
        let does_nothing = matches!(&kind, Kind::CutOff(names) if names.is_empty());
        if does_nothing {
            began = None;
        }
        if began.is_some_and(|began| at.duration_since(began) > LONGEST_IN_ALL) {
            self.spent.lock().insert(drill.to_owned());
        }
        if !does_nothing && self.spent.lock().contains(drill) {
            return Err(format!("what it does has lasted {} minutes here", LONGEST_IN_ALL.as_secs() / 60));
        }
        let began = if does_nothing { None } else { Some(began.unwrap_or(at)) };
        let until = at + lasts.min(LONGEST);
        if now.as_ref().is_none_or(|before| before.kind != kind) {
            tracing::warn!(drill, "a drill has begun here: {kind}");
        }
        self.cuts.set(match &kind {
            Kind::CutOff(names) => names.clone(),
            Kind::HangDisk => BTreeSet::new(),
        });
        self.hang.set(kind == Kind::HangDisk);
        *now = Some(Trouble { drill: drill.to_owned(), kind, began, until });
        drop(now);
        let troubles = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(until.into()).await;
            troubles.end_if(|now| now.until <= until);
        });
        Ok(())
    }

    /// Ends it; says what it was.
    pub fn end(&self) -> Option<String> {
        self.end_if(|_| true)
    }

    fn end_if(&self, ends: impl Fn(&Trouble) -> bool) -> Option<String> {
        let mut now = self.now.lock();
        let ended = now.take_if(|now| ends(now))?;
        self.cuts.set(BTreeSet::new());
        self.hang.set(false);
        tracing::warn!(drill = ended.drill, "the drill has ended here: {}", ended.kind);
        Some(ended.kind.to_string())
    }

    /// What is done to the node now, for people; else empty.
    pub fn describe(&self) -> String {
        self.now.lock().as_ref().map_or_else(String::new, |now| format!("drill {}: {}", now.drill, now.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut() -> Kind {
        Kind::CutOff(BTreeSet::from(["dr-1".to_owned(), "witness".to_owned()]))
    }

    const LASTS: Duration = Duration::from_secs(3);

    #[tokio::test]
    async fn a_trouble_ends_by_itself_and_is_kept_up_by_asking_again() {
        let troubles = Troubles::default();
        let short = Duration::from_millis(30);
        troubles.make("d1", cut(), short).expect("nothing is done yet");
        assert_eq!(troubles.describe(), "drill d1: cut off from dr-1, witness");
        assert_eq!(troubles.cuts().names().len(), 2);
        troubles.make("d1", cut(), LASTS).expect("it is kept up");
        // The moment at which the first one would have ended.
        tokio::time::sleep(short * 2).await;
        assert!(troubles.are_of("d1"), "the earlier end does not count");
        troubles.make("d1", cut(), short).expect("it is kept up, for less");
        let ended = async {
            while !troubles.describe().is_empty() {
                tokio::time::sleep(short).await;
            }
        };
        tokio::time::timeout(LASTS, ended).await.expect("nobody asks for it again");
        assert!(troubles.cuts().names().is_empty());
    }

    #[tokio::test]
    async fn what_has_lasted_too_long_is_not_begun_again() {
        let troubles = Troubles::default();
        troubles.make("d1", cut(), LASTS).expect("nothing is done yet");
        let long_ago = Instant::now().checked_sub(LONGEST_IN_ALL * 2).expect("this machine runs for longer");
        troubles.now.lock().as_mut().expect("it is cut off").began = Some(long_ago);
        for _ in 0..2 {
            let refused = troubles.make("d1", cut(), LASTS).expect_err("it has lasted too long");
            assert_eq!(refused, "what it does has lasted 15 minutes here");
            troubles.end();
        }
        troubles.make("d1", Kind::CutOff(BTreeSet::new()), LASTS).expect("that does nothing");
        troubles.make("d2", cut(), LASTS).expect_err("d1 is there still");
    }

    #[tokio::test]
    async fn one_drill_at_a_time_and_its_troubles_replace_each_other() {
        let troubles = Troubles::default();
        troubles.make("d1", cut(), LASTS).expect("nothing is done yet");
        let refused = troubles.make("d2", Kind::HangDisk, LASTS).expect_err("d1 is at it");
        assert!(refused.starts_with("drill d1 does something to this node: cut off"), "{refused}");
        troubles.make("d1", Kind::HangDisk, LASTS).expect("it is the same drill");
        assert!(troubles.cuts().names().is_empty());
        assert_eq!(troubles.end().as_deref(), Some("its log's disk hangs"));
        assert_eq!(troubles.end(), None);
        troubles.make("d2", cut(), LASTS).expect("d1 has ended");
    }
}
