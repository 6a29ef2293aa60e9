//! Disks that lose what they had stored. A cluster bears that of one node at a time: it was whole before, and is whole again
//! before anything else of this kind happens.

use std::time::Duration;

use bytes::Bytes;
use saola_raft::Role;
use saola_raft::sim::spawn_on;
use saola_storage::disk::Disk;
use saola_storage::disk::sim::{Operation, SimDisk};
use saola_storage::engine::{Batch, EngineHome, KeyRange, Kind};
use saola_storage::keyspace::versions;
use tokio::time::Instant;

use super::dice::Dice;
use super::faults::{Fault, TURN_MS, WHOLE_WITHIN, have_power_lost};
use super::world::World;
use crate::sim::records::{record_id, sealed_value_in};

/// A log in which nothing happens is marked within a second.
const MARKS_WITHIN: Duration = Duration::from_millis(1_200);
/// What a bad sector takes with it, bytes.
const SECTOR: u64 = 512;

impl World {
    /// Does it to a node, and has operators do what they would.
    pub(super) async fn damage(&mut self, fault: Fault, node: u64, dice: &mut Dice) {
        match fault {
            Fault::OldFolder => {
                self.kill(node).await;
                let copy = self.cluster.copy(node);
                self.start(node).await;
                // A backup that meets a bad sector fails, and nobody puts it back.
                let Ok(copy) = copy else { return };
                self.pass(dice.ms(0, TURN_MS)).await;
                // What it acknowledged since is at all others too.
                self.be_whole().await;
                self.kill(node).await;
                self.cluster.put_back(node, &copy);
                self.is_done(fault, node, dice);
                self.comes_back_or_is_replaced(node).await;
            }
            Fault::Wiped => {
                self.crash(node).await;
                self.is_done(fault, node, dice);
                self.pass(dice.ms(0, TURN_MS)).await;
                self.replace(node).await;
            }
            Fault::DamagedRow => {
                let Some(row) = self.flip_in_a_row(node, dice) else { return };
                self.is_done(fault, node, dice);
                self.pass(dice.ms(0, TURN_MS)).await;
                if dice.one_in(4) {
                    self.crash(node).await;
                }
                self.copy_is_right(node, row).await;
            }
            Fault::LostWrite | Fault::MisdirectedWrite => {
                let how = match fault {
                    Fault::LostWrite => Operation::LostWrite,
                    _ => Operation::MisdirectedWrite,
                };
                self.cluster.disk(node).fail_nth(how, 1 + dice.below(12));
                self.pass(dice.ms(100, TURN_MS)).await;
                // What it acknowledged meanwhile is at all others too.
                self.be_whole().await;
                // As long as the machine keeps its memory, its processes see nothing of it.
                if dice.one_in(4) {
                    self.kill(node).await;
                    self.be_whole().await;
                }
                self.crash(node).await;
                self.is_done(fault, node, dice);
                self.pass(dice.ms(0, 500)).await;
                self.comes_back_or_is_replaced(node).await;
            }
            _ => {
                // Others may have entries that were never committed, or lack what was.
                let leader = self.leader().filter(|leader| *leader != node && dice.one_in(2));
                let astray = leader.map(|leader| self.cut_off_a_minority(leader, Some(node), dice));
                if let Some((apart, _)) = &astray {
                    self.others_go_on(apart, dice.ms(0, 2 * TURN_MS)).await;
                }
                self.have_it_mark_its_log(node).await;
                match dice.one_in(2) {
                    true => self.crash(node).await,
                    false => self.kill(node).await,
                }
                self.pass(dice.ms(0, 500)).await;
                // Two of them could take a mark, and what it proved: that looks like a write that was cut off.
                for _ in 0..if astray.is_some() { 1 } else { 1 + dice.below(4) } {
                    self.hurt_log(fault, node, astray.is_some(), dice);
                }
                self.is_done(fault, node, dice);
                self.end_cuts();
                if let Some((apart, rest)) = astray {
                    self.join_those_apart(&apart, &rest, node);
                    self.start(node).await;
                    self.pass(dice.ms(1_000, 2 * TURN_MS)).await;
                }
                self.comes_back_or_is_replaced(node).await;
            }
        }
    }

    /// From now on things are mended, and power may be lost meanwhile.
    fn is_done(&mut self, fault: Fault, node: u64, dice: &mut Dice) {
        self.happened(fault, node);
        if dice.one_in(2) {
            have_power_lost(dice);
        }
    }

    /// A node to whom nobody says anything soon marks all that it has synced: damage behind the newest mark looks as if power had
    /// been lost in the middle of a write, which takes nothing that was promised.
    async fn have_it_mark_its_log(&mut self, node: u64) {
        let others: Vec<u64> = self.cluster.ids().into_iter().filter(|other| *other != node).collect();
        self.cluster.part(&[node], &others);
        self.pass(MARKS_WITHIN).await;
    }

    /// Waits until those who are not apart have acknowledged what these lack, if they ever do, and a while longer.
    async fn others_go_on(&mut self, apart: &[u64], longer: Duration) {
        let committed = |world: &World, is_apart: bool| {
            let seen = world.cluster.running_machines().into_iter().filter(|it| apart.contains(it) == is_apart);
            seen.filter_map(|it| Some(world.cluster.replica(it)?.status().committed_index)).max().unwrap_or(0)
        };
        let until = Instant::now() + Duration::from_millis(3 * TURN_MS);
        while Instant::now() < until && committed(self, false) <= committed(self, true) + 1 {
            self.pass(Duration::from_millis(20)).await;
        }
        self.pass(longer).await;
    }

    /// `newest`: only what was written last, which others may lack.
    fn hurt_log(&self, fault: Fault, node: u64, newest: bool, dice: &mut Dice) {
        let disk = self.cluster.disk(node);
        let names = disk.list().expect("the disk of a node that is down reads");
        let segments: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.ends_with(".seg")).collect();
        let last = segments.iter().max().copied();
        let Some(name) = (if newest { last } else { dice.pick(&segments) }) else { return };
        let at = match newest || dice.one_in(2) {
            true => written(disk, name).saturating_sub(1 + dice.below(2_000)),
            false => dice.below(length(disk, name)),
        };
        match fault {
            Fault::LogRot => disk.flip_bit(name, at, dice.below(8) as u8),
            _ => disk.make_unreadable(name, at / SECTOR * SECTOR..at / SECTOR * SECTOR + SECTOR),
        };
    }

    /// In a sealed value: of that alone a row has a checksum without RocksDB's.
    /// Answers the row as it was.
    fn flip_in_a_row(&self, node: u64, dice: &mut Dice) -> Option<(Bytes, Bytes)> {
        if !self.keeps_records(node) {
            return None;
        }
        let engine = self.cluster.records(node).open_current().expect("memory opens");
        let record = record_id(dice.below(self.life.records));
        // The collection is the first that was made.
        let range = KeyRange::prefix(&versions::prefix(1, record.as_bytes()));
        let rows = engine.view().scan(Kind::Versions, range, false).collect::<Result<Vec<_>, _>>();
        let values: Vec<_> =
            rows.expect("memory reads").into_iter().filter(|row| sealed_value_in(&row.1).is_some()).collect();
        let (key, before) = values[dice.pick(&(0..values.len()).collect::<Vec<_>>())?].clone();
        let mut value = before.to_vec();
        let at = sealed_value_in(&value).expect("it was chosen for that");
        value[at] ^= 1 << dice.below(8);
        let mut batch = Batch::default();
        batch.put(Kind::Versions, key.to_vec(), value);
        engine.write(batch).and_then(|()| engine.flush()).expect("memory writes");
        Some((key, before))
    }

    /// A node finds by itself what is wrong with its records, and mends it.
    async fn copy_is_right(&mut self, node: u64, (key, row): (Bytes, Bytes)) {
        let scrub = |world: &World| world.cluster.replica(node).map(|it| it.status().scrub);
        let (began, mut before) = (Instant::now(), scrub(self).map_or(0, |it| it.passes));
        loop {
            self.start_all().await;
            match scrub(self) {
                // Its process is another one.
                Some(it) if it.passes < before => before = 0,
                // The first of these may have begun before the damage.
                Some(it) if it.passes >= before + 2 && !it.bad && it.quarantined_buckets == 0 => {
                    let engine = self.cluster.records(node).open_current().expect("memory opens");
                    let found = engine.view().get(Kind::Versions, &key).expect("memory reads");
                    assert!(found == Some(row), "node {node} has not mended a row that was damaged");
                    return;
                }
                it => assert!(began.elapsed() < WHOLE_WITHIN, "the records of node {node} stay bad: {it:?}"),
            }
            self.pass(Duration::from_millis(100)).await;
        }
    }

    /// Starts a node whose disk is not what it was: it goes on, or says that it must be replaced.
    async fn comes_back_or_is_replaced(&mut self, node: u64) {
        self.start(node).await;
        self.cluster.network.heal();
        let began = Instant::now();
        loop {
            if self.refuses.contains_key(&node) {
                return self.replace(node).await;
            }
            let status = self.cluster.replica(node).map(|it| it.status());
            match status.as_ref().map(|it| it.state) {
                Some("refused") => {
                    self.tell(format!("{node} is refused"));
                    return self.replace(node).await;
                }
                _ if self.lacks().is_none() => return,
                state => assert!(began.elapsed() < WHOLE_WITHIN, "node {node} is {state:?}: {:?}", self.lacks()),
            }
            self.pass(Duration::from_millis(20)).await;
            self.start_all().await;
        }
    }

    /// As an operator replaces a node whose disk is gone: another one, under a new number.
    async fn replace(&mut self, old: u64) {
        self.kill(old).await;
        let was =
            self.cluster.members().into_iter().find(|it| it.node_id == old).expect("it is a node of this cluster");
        let id = self.new_id();
        let role = if was.role_value() == Role::Witness { Role::Witness } else { was.role_value() };
        let member = self.cluster.add(id, &was.site, role);
        self.start(id).await;
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < WHOLE_WITHIN, "node {old} cannot be replaced by {id}: {:?}", self.lacks());
            if let Some(through) = self.leader()
                && let Some(replica) = self.cluster.replica(through)
            {
                let member = member.clone();
                let replacing = spawn_on(through, async move { replica.replace_member(old, member).await });
                // The leader may wait for somebody who loses power now.
                while !replacing.is_finished() {
                    self.pass(Duration::from_millis(20)).await;
                    self.start_all_but(old).await;
                }
                // Else the leader waits for somebody, or is none any more: it is asked again.
                if let Ok(Ok(_)) = replacing.await {
                    break;
                }
            }
            self.pass(Duration::from_millis(100)).await;
            self.start_all_but(old).await;
        }
        self.forget(old).await;
        self.tell(format!("{id} takes the place of {old}"));
    }
}

fn length(disk: &SimDisk, name: &str) -> u64 {
    disk.open(name, false).and_then(|file| file.len()).expect("a listed file has a length")
}

/// Bytes of a file before those that nobody has written. Sectors that cannot be read are passed over.
fn written(disk: &SimDisk, name: &str) -> u64 {
    let file = disk.open(name, false).expect("a listed file opens");
    let sectors = length(disk, name).div_ceil(SECTOR);
    let holds_something = |sector: &u64| {
        let mut bytes = [0; SECTOR as usize];
        file.read_at(sector * SECTOR, &mut bytes).is_ok() && bytes.iter().any(|byte| *byte != 0)
    };
    (0..sectors).rev().find(holds_something).map_or(0, |last| (last + 1) * SECTOR)
}
