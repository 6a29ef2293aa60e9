//! Random and exhaustive runs against a model: whatever happens, a start finds what was acknowledged.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use saola_storage::disk::Disk;
use saola_storage::disk::sim::{Operation, SimDisk};
use saola_storage::log::{LogError, LogOp};

use crate::log_support::{Model, Running, append, id, vote};

/// A change in terms of what is there when it comes.
#[derive(Clone, Debug)]
enum Change {
    Append {
        count: u64,
        bytes: usize,
    },
    Vote,
    /// Cuts off this many of the last entries.
    Truncate {
        entries: u64,
    },
    /// Purges this many of the first entries, or beyond the last.
    Purge {
        entries: u64,
    },
    Committed,
    Step,
    IdleMark,
}

/// How a life of the log ends.
#[derive(Clone, Debug)]
enum End {
    PowerLoss,
    PowerLossAtOp(u64),
    Kill,
    FailedSync(u64),
    FailedWrite(u64),
    Full,
    /// Damage by one fault, a restart of the process, and then a power loss.
    FailedSyncThenPowerLoss(u64),
}

#[derive(Clone, Debug)]
struct Life {
    changes: Vec<Change>,
    end: End,
    seed: u64,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (1..12u64, 0..300usize).prop_map(|(count, bytes)| Change::Append { count, bytes }),
        1 => (1..3u64, 4000..12_000usize).prop_map(|(count, bytes)| Change::Append { count, bytes }),
        2 => Just(Change::Vote),
        2 => (0..10u64).prop_map(|entries| Change::Truncate { entries }),
        2 => (0..40u64).prop_map(|entries| Change::Purge { entries }),
        2 => Just(Change::Committed),
        8 => Just(Change::Step),
        1 => Just(Change::IdleMark),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    let end = prop_oneof![
        2 => Just(End::PowerLoss),
        6 => (1..60u64).prop_map(End::PowerLossAtOp),
        2 => Just(End::Kill),
        1 => (1..20u64).prop_map(End::FailedSync),
        1 => (1..20u64).prop_map(End::FailedWrite),
        1 => Just(End::Full),
        2 => (1..20u64).prop_map(End::FailedSyncThenPowerLoss),
    ];
    (prop::collection::vec(change(), 1..60), end, any::<u64>()).prop_map(|(changes, end, seed)| Life {
        changes,
        end,
        seed,
    })
}

/// What was submitted since the last start, as records, and the model before it.
struct Run {
    before: Model,
    now: Model,
    records: Vec<LogOp>,
    /// After how many records each operation was complete.
    complete: Vec<usize>,
    term: u64,
}

impl Run {
    fn new() -> Run {
        let (before, now) = (Model::default(), Model::default());
        Run { before, now, records: Vec::new(), complete: Vec::new(), term: 1 }
    }

    fn op(&mut self, change: &Change) -> Option<LogOp> {
        let next = self.now.last().map_or(0, |last| last.index + 1);
        Some(match *change {
            Change::Append { count, bytes } => append(self.term, next..next + count, bytes),
            Change::Vote => {
                self.term += 1;
                LogOp::Vote(vote(self.term))
            }
            Change::Truncate { entries } => {
                self.term += 1;
                let left = self.now.entries.len().saturating_sub(entries as usize);
                LogOp::TruncateAfter(self.now.entries[..left].last().map(|e| e.log_id).or(self.now.purged))
            }
            Change::Purge { entries } => match self.now.entries.get((entries as usize).saturating_sub(1)) {
                Some(entry) => LogOp::Purge(entry.log_id),
                None => LogOp::Purge(id(self.term, next + entries)),
            },
            Change::Committed => LogOp::Committed(self.now.last()),
            Change::Step | Change::IdleMark => return None,
        })
    }

    /// One life, until its end or the first error.
    fn live(&mut self, running: &mut Running, changes: &[Change]) -> Result<(), LogError> {
        for change in changes {
            match self.op(change) {
                Some(op) => {
                    self.now.apply(&op);
                    if matches!(op, LogOp::Committed(_)) {
                        running.log.submit(op, None);
                        continue;
                    }
                    self.records.extend(Model::records(&op));
                    self.complete.push(self.records.len());
                    running.submit(op);
                    assert_eq!(running.log.state().last, self.now.last(), "readers see what was submitted");
                }
                None if matches!(change, Change::Step) => drop(running.writer.step()?),
                None => running.writer.idle_mark()?,
            }
        }
        Ok(())
    }

    /// After a crash: the log is the model after some of the records, all acknowledged ones among them.
    fn check(&mut self, found: &Running, acknowledged: usize) {
        let durable = acknowledged.checked_sub(1).map_or(0, |last| self.complete[last]);
        let actual = Model::of(&found.log);
        let mut model = self.before.clone();
        let mut fits = None;
        for count in 0..=self.records.len() {
            if count > 0 {
                model.apply(&self.records[count - 1]);
            }
            if count >= durable && model == actual {
                fits = Some(count);
            }
        }
        assert!(
            fits.is_some(),
            "no part of the {} records that keeps the {durable} durable ones gives what was found: {actual:?}",
            self.records.len()
        );
        let state = found.log.state();
        assert!(
            state.committed.map(|id| id.index) <= state.last.map(|id| id.index),
            "committed {:?} is ahead of the log {:?}",
            state.committed,
            state.last
        );
        self.before = actual.clone();
        self.now = actual;
        self.records.clear();
        self.complete.clear();
        self.term += 1;
    }
}

fn run(lives: &[Life]) {
    let disk = SimDisk::new(lives[0].seed);
    let mut run = Run::new();
    for life in lives {
        let mut running = Running::open(&disk).unwrap();
        assert_eq!(Model::of(&running.log), run.now, "a second start finds what the first found");
        match life.end {
            End::PowerLossAtOp(op) => disk.crash_at_op(op),
            End::FailedSync(nth) | End::FailedSyncThenPowerLoss(nth) => disk.fail_nth(Operation::Sync, nth),
            End::FailedWrite(nth) => disk.fail_nth(Operation::Write, nth),
            End::Full => disk.set_capacity(40 << 10),
            End::PowerLoss | End::Kill => {}
        }
        let lived = run.live(&mut running, &life.changes);
        let acknowledged = running.acknowledged();
        if let Err(error) = lived {
            assert!(matches!(error, LogError::Io { .. } | LogError::Full { .. }), "{error}");
            assert_eq!(running.ended(), run.complete.len(), "every operation hears how it ended");
        }
        drop(running);
        match life.end {
            End::PowerLoss | End::PowerLossAtOp(_) => disk.crash(life.seed),
            _ => disk.kill(),
        }
        disk.set_capacity(u64::MAX);
        let found = Running::open(&disk).unwrap();
        run.check(&found, acknowledged);
        drop(found);
        // What a start has reported must survive a power loss right after it.
        if matches!(life.end, End::FailedSyncThenPowerLoss(_)) || life.seed % 2 == 0 {
            disk.crash(life.seed ^ 1);
        }
    }
    let last = Running::open(&disk).unwrap();
    assert_eq!(Model::of(&last.log), run.now);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_ends_the_process_every_acknowledged_operation_is_found(lives in prop::collection::vec(life(), 1..6)) {
        run(&lives);
    }
}

/// Entries over several segments, votes beside truncations, purges, and marks.
fn script() -> Vec<Change> {
    let mut changes = Vec::new();
    for round in 0..6 {
        changes.extend([
            Change::Vote,
            Change::Append { count: 10, bytes: 200 + 40 * round },
            Change::Step,
            Change::Committed,
            Change::Append { count: 5, bytes: 300 },
            Change::Truncate { entries: 3 },
            Change::Vote,
            Change::Step,
            Change::Append { count: 2, bytes: 5000 },
            Change::Step,
            Change::IdleMark,
            Change::Purge { entries: 12 },
            Change::Step,
        ]);
    }
    changes
}

#[test]
fn a_power_loss_at_any_disk_operation_loses_nothing_acknowledged() {
    let disk = SimDisk::new(0);
    let mut whole = Run::new();
    let mut running = Running::open(&disk).unwrap();
    let opening = disk.ops();
    whole.live(&mut running, &script()).unwrap();
    assert!(running.log.stats().segments > 1, "the script crosses segments");
    let operations = disk.ops() - opening;
    assert!(operations > 60);

    for op in 1..=operations {
        for seed in 0..8 {
            let disk = SimDisk::new(seed);
            let mut run = Run::new();
            let mut running = Running::open(&disk).unwrap();
            disk.crash_at_op(op);
            assert!(run.live(&mut running, &script()).is_err());
            let acknowledged = running.acknowledged();
            disk.crash(op * 31 + seed);
            let found = Running::open(&disk).unwrap();
            run.check(&found, acknowledged);
        }
    }
    eprintln!("{} power losses in {operations} disk operations of a run", 8 * operations);
}

#[test]
fn a_power_loss_at_any_disk_operation_of_a_start_loses_nothing() {
    let prepare = |seed| {
        let disk = SimDisk::new(seed);
        let mut run = Run::new();
        let mut running = Running::open(&disk).unwrap();
        run.live(&mut running, &script()).unwrap();
        run.live(&mut running, &[Change::Append { count: 3, bytes: 300 }]).unwrap();
        let acknowledged = running.acknowledged();
        drop(running);
        disk.kill();
        (disk, run, acknowledged)
    };
    let (disk, ..) = prepare(0);
    let before = disk.ops();
    drop(Running::open(&disk).unwrap());
    let operations = disk.ops() - before;

    for op in 1..=operations {
        for seed in 0..16 {
            let (disk, mut run, acknowledged) = prepare(seed);
            disk.crash_at_op(op);
            assert!(Running::open(&disk).is_err());
            disk.crash(op * 31 + seed);
            let found = Running::open(&disk).unwrap();
            run.check(&found, acknowledged);
        }
    }
    eprintln!("{} power losses in {operations} disk operations of a start", 16 * operations);
}

#[test]
fn a_full_disk_of_any_size_loses_nothing_acknowledged() {
    let disk = SimDisk::new(0);
    let mut whole = Run::new();
    whole.live(&mut Running::open(&disk).unwrap(), &script()).unwrap();
    let enough: u64 = disk.list().unwrap().iter().map(|name| disk.open(name, false).unwrap().len().unwrap()).sum();
    let (mut cases, mut ended) = (0, 0);
    let mut capacity = 0;
    while capacity <= enough + (64 << 10) {
        let disk = SimDisk::new(capacity);
        disk.set_capacity(capacity);
        let mut run = Run::new();
        let lived = Running::open(&disk).and_then(|mut running| {
            let lived = run.live(&mut running, &script());
            let acknowledged = running.acknowledged();
            lived.map_err(|error| {
                assert!(matches!(error, LogError::Full { .. } | LogError::Io { .. }), "{error}");
                drop(running);
                disk.kill();
                // Without room a start may refuse, but it must not spoil what there is.
                for _ in 0..2 {
                    drop(Running::open(&disk));
                    disk.kill();
                }
                disk.set_capacity(u64::MAX);
                run.check(&Running::open(&disk).unwrap(), acknowledged);
                error
            })
        });
        cases += 1;
        ended += u64::from(lived.is_err());
        // Every byte around the sizes that files have, each 29th in between.
        let near = (capacity + 4) % 512 < 8;
        capacity += if near { 1 } else { 29 };
    }
    assert!(ended > 0 && ended < cases, "{ended} of {cases}");
    eprintln!("{cases} sizes of a disk, {ended} of them too small");
}

#[test]
fn a_disk_error_at_any_write_or_sync_ends_the_log_and_nothing_more_is_written() {
    let mut cases = 0;
    for operation in [Operation::Write, Operation::Sync, Operation::SyncDir] {
        for nth in 1.. {
            let disk = SimDisk::new(nth);
            let mut run = Run::new();
            let mut running = Running::open(&disk).unwrap();
            disk.fail_nth(operation, nth);
            let Err(error) = run.live(&mut running, &script()) else { break };
            assert!(matches!(error, LogError::Io { .. }), "{error}");
            let operations = disk.ops();
            running.submit(LogOp::Vote(vote(99)));
            assert!(running.writer.step().is_err() && running.writer.idle_mark().is_err());
            assert_eq!(disk.ops(), operations, "a log that has failed touches the disk no more");
            let acknowledged = running.acknowledged();
            drop(running);
            // The process ends; a start comes, and then the power goes.
            disk.kill();
            run.check(&Running::open(&disk).unwrap(), acknowledged);
            let reported = Model::of(&Running::open(&disk).unwrap().log);
            disk.crash(nth);
            assert_eq!(Model::of(&Running::open(&disk).unwrap().log), reported);
            cases += 1;
        }
    }
    assert!(cases > 60, "{cases}");
    eprintln!("{cases} failed disk operations");
}
