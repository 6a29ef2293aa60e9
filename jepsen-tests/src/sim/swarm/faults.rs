//! What may happen to a cluster, and how it is done.

use std::collections::BTreeSet;
use std::time::Duration;

use saola_raft::sim::{Weather, hang_disk, lose_power_at, pause, pause_after, set_clock_rate, spawn_on, visits};
use saola_storage::disk::sim::Operation;
use saola_storage::failpoint::Failpoint;
use saola_storage::protection::{Mode, Protection};

use super::dice::Dice;
use super::life::Topology;
use super::world::{Site, World};
use crate::sim::CALL;
use crate::sim::records::{add_site, use_another_key};

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Something that may happen. New kinds come behind the others (`Life::kinds`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            /// All of them.
            pub const ALL: [Fault; [$($text),*].len()] = [$(Fault::$name),*];

            /// As it is written where runs are told of.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$name => $text,)* }
            }
        }
    };
}

faults! {
    /// A node loses power, and with it what it had not synced.
    Crash = "crash",
    /// Its process dies; what it wrote is still there.
    Kill = "kill",
    /// It is shut down in order.
    Stop = "stop",
    /// A node loses power between any two steps of what it does.
    CrashAtStep = "crash-at-step",
    /// Whoever does certain things next loses power between two steps of them.
    CrashAtFailpoint = "crash-at-failpoint",
    /// The leader and a minority are cut off, and whoever votes for another one loses power right after and is back at once,
    /// with the others or with the former leader.
    CrashVoters = "crash-voters",
    /// A site loses power.
    CrashSite = "crash-site",
    /// All lose power.
    CrashAll = "crash-all",
    /// One after the other is stopped and started.
    Rolling = "rolling-restart",
    /// A node stands still for a while, and goes on.
    Pause = "pause",
    /// The leader does.
    PauseLeader = "pause-leader",
    /// A node reaches nobody.
    Isolate = "isolate",
    /// Messages from one node to another are lost.
    CutOneWay = "cut-one-way",
    /// A node is heard by nobody and hears all, or the other way round.
    CutAllOneWay = "cut-all-one-way",
    /// The sites do not reach each other.
    CutSites = "cut-sites",
    /// Messages from one site to the other are lost.
    CutSitesOneWay = "cut-sites-one-way",
    /// A site and the witness do not reach each other.
    CutWitness = "cut-witness",
    /// Each node reaches only its neighbours, so that each sees another majority.
    Ring = "majorities-ring",
    /// Some messages come late.
    Late = "late-messages",
    /// Connections break.
    Resets = "resets",
    /// Calls arrive twice.
    Repeats = "repeated-calls",
    /// The sites are further apart than usual.
    Apart = "slow-links",
    /// A log's disk completes no writes for a while.
    HangLog = "hang-log",
    /// A log's disk is slow.
    SlowLog = "slow-log",
    /// The disk of a node's records hangs for a while.
    HangRecords = "hang-records",
    /// A disk is full.
    FullDisk = "full-disk",
    /// A sync fails.
    SyncError = "sync-error",
    /// A write fails.
    WriteError = "write-error",
    /// Power is lost in the middle of a write.
    CutInWrite = "power-cut-in-write",
    /// A clock is set.
    ClockStep = "clock-step",
    /// A machine's monotonic clock and timers run fast or slow.
    ClockRate = "clock-rate",
    /// Whatever is said to the leader comes late, and meanwhile its leadership is handed to another.
    DeafLeader = "deaf-leader",
    /// Leadership is handed to a node.
    Transfer = "transfer",
    /// Leadership is moved to a site.
    Switchover = "switchover",
    /// The protection mode is changed.
    Mode = "mode-change",
    /// A node comes and goes again.
    Churn = "membership-change",
    /// The key ring grows: a new collection with a data key of its own.
    Keys = "key-ring-change",
    /// The site map grows, and each data key is wrapped for one more.
    NewSite = "new-site",
    /// Bits of a log flip while its node is down.
    LogRot = "log-rot",
    /// Sectors of a log cannot be read any more.
    BadSectors = "bad-sectors",
    /// A disk says that it did a write, and did not.
    LostWrite = "lost-write",
    /// A write goes to another place.
    MisdirectedWrite = "misdirected-write",
    /// An older copy of a node's disk is put back.
    OldFolder = "old-folder",
    /// A node's disk is lost, and another node takes its place.
    Wiped = "wiped-node",
    /// A bit of a stored version flips.
    DamagedRow = "damaged-row",
    /// Two halves reach each other through one node alone.
    Bridge = "bridge",
    /// The leader reaches nobody.
    IsolateLeader = "isolate-leader",
    /// The leader hears nobody, and all hear it.
    LeaderHearsNobody = "leader-hears-nobody",
    /// A node's links break and come back, again and again.
    Flapping = "flapping-links",
    /// Nodes are cut off one by one, and come back in another order.
    Swizzled = "swizzled-links",
    /// Large messages are lost, small ones are not.
    LargeLost = "large-messages-lost",
    /// Links carry little.
    Narrow = "narrow-links",
    /// No client reaches a node.
    ClientsApart = "clients-apart",
    /// A node stands still and goes on, again and again.
    Stutter = "stuttering-node",
    /// A node loses power as soon as it is back, again and again.
    CrashLoop = "crash-loop",
    /// Whoever leads dies, again and again.
    LeadersKilled = "leaders-killed",
    /// Most voters lose power.
    CrashMajority = "crash-majority",
    /// A clock is set ahead and back, again and again.
    ClockStrobe = "clock-strobe",
    /// All clocks are set at once.
    AllClocks = "all-clocks-step",
    /// A log's disk does no write any more.
    DeadDisk = "dead-disk",
    /// A sync of a log's folder fails.
    FolderSyncError = "folder-sync-error",
    /// Clients whose call had no answer make it again much later.
    LateRetries = "late-retries",
}

impl Fault {
    /// Whether it can happen there.
    pub fn fits(self, topology: Topology) -> bool {
        let two_sites =
            [Fault::CrashSite, Fault::CutSites, Fault::CutSitesOneWay, Fault::Apart, Fault::Switchover, Fault::Mode];
        let has_witness = matches!(topology, Topology::TwoAndTwo | Topology::ThreeAndThree);
        match topology {
            Topology::OneSite => !two_sites.contains(&self) && self != Fault::CutWitness,
            _ => has_witness || self != Fault::CutWitness,
        }
    }

    /// What a cluster bears only one of at a time, and only when nothing else is amiss: a disk loses what was promised.
    pub fn takes_what_was_stored(self) -> bool {
        matches!(
            self,
            Fault::LogRot
                | Fault::BadSectors
                | Fault::LostWrite
                | Fault::MisdirectedWrite
                | Fault::OldFolder
                | Fault::Wiped
                | Fault::DamagedRow
        )
    }
}

impl World {
    /// Has it happen, if there is somebody to whom it can.
    pub(super) async fn strike(&mut self, fault: Fault, dice: &mut Dice) {
        let all = self.cluster.ids();
        let running = self.cluster.running_machines();
        let Some(node) = dice.pick(&running) else { return };
        let (main, dr) = (self.at(Site::Main), self.at(Site::Dr));
        let site = if dice.one_in(2) { main.clone() } else { dr.clone() };
        match fault {
            Fault::Crash => self.crash(node).await,
            Fault::Kill => self.kill(node).await,
            Fault::Stop => self.stop(node).await,
            Fault::CrashAtStep => {
                pause_after(node, 1 + dice.below(2_000));
                self.dies_when_paused(node);
            }
            Fault::CrashAtFailpoint => have_power_lost(dice),
            Fault::CrashVoters => {
                for _ in 0..1 + dice.below(3) {
                    let Some(leader) = self.leader() else { break };
                    self.crash_who_votes(leader, dice).await;
                    self.pass(dice.ms(300, 1_000)).await;
                }
            }
            Fault::CrashSite => {
                for node in site {
                    self.crash(node).await;
                }
            }
            Fault::CrashAll => {
                for node in all {
                    self.crash(node).await;
                }
            }
            Fault::Rolling => {
                for node in running {
                    self.stop(node).await;
                    tokio::time::sleep(dice.ms(1, 300)).await;
                    self.start(node).await;
                    tokio::time::sleep(dice.ms(1, 800)).await;
                }
            }
            Fault::Pause => self.pause(node, dice),
            Fault::PauseLeader => match self.leader() {
                Some(leader) => self.pause(leader, dice),
                None => return,
            },
            Fault::Isolate => {
                let others: Vec<u64> = all.into_iter().filter(|other| *other != node).collect();
                self.cluster.part(&[node], &others);
            }
            Fault::CutOneWay => match dice.pick(&all) {
                Some(other) if other != node => self.cluster.network.cut(node, other),
                _ => return,
            },
            Fault::CutAllOneWay => {
                let hears = dice.one_in(2);
                for other in all.into_iter().filter(|other| *other != node) {
                    let (from, to) = if hears { (node, other) } else { (other, node) };
                    self.cluster.network.cut(from, to);
                }
            }
            Fault::CutSites => self.cluster.part(&main, &dr),
            Fault::CutSitesOneWay => {
                let (from, to) = if dice.one_in(2) { (&main, &dr) } else { (&dr, &main) };
                from.iter().for_each(|from| to.iter().for_each(|to| self.cluster.network.cut(*from, *to)));
            }
            Fault::CutWitness => self.cluster.part(&self.at(Site::Third), &site),
            Fault::Ring => {
                let size = all.len();
                for (at, from) in all.iter().enumerate() {
                    for (other, to) in all.iter().enumerate() {
                        let apart = at.abs_diff(other).min(size - at.abs_diff(other));
                        if apart > size / 4 + 1 {
                            self.cluster.network.cut(*from, *to);
                        }
                    }
                }
            }
            Fault::Late => self.worsen(|it| Weather { late_per_mille: 30, ..it }),
            Fault::Resets => self.worsen(|it| Weather { reset_per_mille: 5, ..it }),
            Fault::Repeats => self.worsen(|it| Weather { repeated_per_mille: 100, ..it }),
            Fault::Apart => {
                let by = dice.ms(1, 25);
                for from in &main {
                    for to in &dr {
                        self.cluster.network.delay(*from, *to, by);
                        self.cluster.network.delay(*to, *from, by);
                    }
                }
            }
            Fault::HangLog => self.cluster.hang_log(node),
            Fault::SlowLog => self.cluster.slow_log(node, dice.ms(5, 120)),
            Fault::HangRecords => hang_disk(node),
            Fault::FullDisk => self.cluster.disk(node).fill(dice.below(self.cluster.min_free_bytes)),
            Fault::SyncError => self.cluster.disk(node).fail_nth(Operation::Sync, 1 + dice.below(20)),
            Fault::WriteError => self.cluster.disk(node).fail_nth(Operation::Write, 1 + dice.below(20)),
            Fault::CutInWrite => {
                self.cluster.disk(node).crash_at_op(1 + dice.below(60));
                self.loses_power(node);
            }
            Fault::ClockStep => {
                let seconds = dice.pick(&[-86_400, -5, -1, 1, 5, 3_600]).unwrap_or(1);
                self.cluster.step_clock(node, seconds * 1_000_000);
            }
            Fault::ClockRate => {
                set_clock_rate(node, dice.pick(&[500, 800, 1_250, 2_000]).unwrap_or(500));
            }
            Fault::DeafLeader => {
                let Some(leader) = self.leader() else { return };
                // Less than a leader waits for one voter's answer.
                let by = dice.ms(40, 145);
                all.iter().for_each(|from| self.cluster.network.delay(*from, leader, by));
                for _ in 0..READERS {
                    self.have_one_read_at(leader, dice.ms(300, 1_500));
                }
                self.pass(dice.ms(0, 600)).await;
                let to = dice.pick(&all).unwrap_or(node);
                self.ask(leader, move |replica| async move { replica.transfer(to).await.map(drop) });
            }
            Fault::Transfer => self.ask(node, {
                let to = dice.pick(&all).unwrap_or(node);
                move |replica| async move { replica.transfer(to).await.map(drop) }
            }),
            Fault::Switchover => self.ask(node, {
                let to = if dice.one_in(2) { "main" } else { "dr" };
                move |replica| async move { replica.transfer_to_site(to).await.map(drop) }
            }),
            Fault::Mode => {
                let mode = dice.pick(&[Mode::MaximumAvailability, Mode::MaximumProtection, Mode::MaximumPerformance]);
                let rule = Protection { mode: mode.unwrap_or(Mode::MaximumAvailability), ..Protection::default() };
                let Some(replica) = self.cluster.replica(node) else { return };
                drop(spawn_on(node, async move { replica.set_protection(rule, CALL).await }));
            }
            Fault::Churn => self.have_one_join(dice).await,
            Fault::Keys => {
                let Some(replica) = self.cluster.replica(node) else { return };
                let (number, is_its_own, shown) = (self.new_id(), dice.one_in(2), self.shown.clone());
                drop(spawn_on(node, async move {
                    if use_another_key(&replica, number, is_its_own).await {
                        let what = format!("node {node} took what was sealed under another collection's key");
                        shown.lock().violations.push(what);
                    }
                }));
            }
            Fault::NewSite => {
                let Some(replica) = self.cluster.replica(node) else { return };
                let (number, lacks_one, shown) = (self.new_id(), dice.one_in(2), self.shown.clone());
                drop(spawn_on(node, async move {
                    if add_site(&replica, number, lacks_one).await {
                        let what = format!("node {node} took a site that cannot open each data key");
                        shown.lock().violations.push(what);
                    }
                }));
            }
            Fault::LogRot
            | Fault::BadSectors
            | Fault::LostWrite
            | Fault::MisdirectedWrite
            | Fault::OldFolder
            | Fault::Wiped
            | Fault::DamagedRow => {
                return self.damage(fault, node, dice).await;
            }
            Fault::Bridge => {
                let rest: Vec<u64> = all.into_iter().filter(|other| *other != node).collect();
                let (one, other) = rest.split_at(rest.len() / 2);
                self.cluster.part(one, other);
            }
            Fault::IsolateLeader | Fault::LeaderHearsNobody => {
                let Some(leader) = self.leader() else { return };
                for other in all.into_iter().filter(|other| *other != leader) {
                    self.cluster.network.cut(other, leader);
                    if fault == Fault::IsolateLeader {
                        self.cluster.network.cut(leader, other);
                    }
                }
            }
            Fault::Flapping => self.flap(node, dice).await,
            Fault::Swizzled => self.swizzle(dice).await,
            Fault::LargeLost => {
                let lost_above_bytes = dice.pick(&[400, 1_500, 9_000]).unwrap_or(1_500);
                self.worsen(|it| Weather { lost_above_bytes, ..it });
            }
            Fault::Narrow => {
                let bytes_per_s = dice.pick(&[20_000, 100_000, 1_000_000]).unwrap_or(100_000);
                self.worsen(|it| Weather { bytes_per_s, ..it });
            }
            Fault::ClientsApart => {
                self.doors.shut(node);
                self.pass(dice.ms(100, TURN_MS)).await;
                self.open_doors();
            }
            Fault::Stutter => self.stutter(node, dice).await,
            Fault::CrashLoop => self.crash_again_and_again(node, dice).await,
            Fault::LeadersKilled => self.kill_leaders(dice).await,
            Fault::CrashMajority => {
                let voters = self.voters(node);
                for voter in voters.iter().take(voters.len() / 2 + 1) {
                    self.crash(*voter).await;
                }
            }
            Fault::ClockStrobe => self.strobe_clock(node, dice).await,
            Fault::AllClocks => {
                let seconds = dice.pick(&[-31_536_000, -60, 60, 31_536_000]).unwrap_or(60);
                all.into_iter().for_each(|node| self.cluster.step_clock(node, seconds * 1_000_000));
            }
            Fault::LateRetries => self.doors.retry_late(),
            Fault::DeadDisk => self.cluster.disk(node).die(),
            Fault::FolderSyncError => self.cluster.disk(node).fail_nth(Operation::SyncDir, 1 + dice.below(3)),
        }
        self.happened(fault, node);
    }

    /// Who has a vote, as a node sees it.
    fn voters(&self, node: u64) -> BTreeSet<u64> {
        let sets = self.cluster.replica(node).map(|it| it.status().voter_sets).unwrap_or_default();
        sets.into_iter().flatten().collect()
    }

    /// Cuts a leader off, with as many other voters as are no majority; answers who is apart, and who is not. `never`: not
    /// among those apart.
    pub(super) fn cut_off_a_minority(
        &mut self,
        leader: u64,
        never: Option<u64>,
        dice: &mut Dice,
    ) -> (Vec<u64>, Vec<u64>) {
        let voters = self.voters(leader);
        let mut apart = vec![leader];
        while apart.len() < voters.len() / 2 {
            let may_go = |it: &u64| !apart.contains(it) && Some(*it) != never;
            let others: Vec<u64> = voters.iter().copied().filter(may_go).collect();
            apart.extend(dice.pick(&others));
        }
        let rest: Vec<u64> = self.cluster.ids().into_iter().filter(|it| !apart.contains(it)).collect();
        self.tell(format!("{apart:?} are cut off"));
        self.cluster.part(&apart, &rest);
        (apart, rest)
    }

    /// A node of the rest reaches those who are apart, and them alone.
    pub(super) fn join_those_apart(&mut self, apart: &[u64], rest: &[u64], node: u64) {
        self.end_cuts();
        let rest: Vec<u64> = rest.iter().copied().filter(|it| *it != node).collect();
        self.cluster.part(&[apart, &[node]].concat(), &rest);
    }

    async fn crash_who_votes(&mut self, leader: u64, dice: &mut Dice) {
        let (apart, rest) = self.cut_off_a_minority(leader, None, dice);
        let terms = |world: &World| -> Vec<(u64, u64)> {
            let term = |node: &u64| Some((*node, world.cluster.replica(*node)?.status().term));
            rest.iter().filter_map(term).collect()
        };
        let (mut before, until) = (terms(self), tokio::time::Instant::now() + dice.ms(300, 2_000));
        let meets_the_former = dice.one_in(2);
        while tokio::time::Instant::now() < until {
            self.pass(dice.ms(0, 4)).await;
            let now = terms(self);
            for (node, term) in &now {
                let campaigns =
                    self.cluster.replica(*node).is_some_and(|it| ["candidate", "leader"].contains(&it.status().state));
                let has_voted = !campaigns && before.iter().any(|(other, was)| other == node && was < term);
                if has_voted && meets_the_former {
                    self.crash(*node).await;
                    self.join_those_apart(&apart, &rest, *node);
                    self.start(*node).await;
                    self.pass(dice.ms(200, 900)).await;
                    return self.end_cuts();
                }
                if has_voted && dice.one_in(2) {
                    self.crash(*node).await;
                    self.start(*node).await;
                }
            }
            before = now;
        }
        self.end_cuts();
    }

    /// All links carry messages again, in whatever weather.
    pub(super) fn end_cuts(&mut self) {
        self.cluster.network.heal();
        self.cluster.network.set_weather(self.weather);
        self.tell("no link is cut".into());
    }

    fn pause(&mut self, node: u64, dice: &mut Dice) {
        pause(node);
        // Longer than an election, or shorter.
        self.goes_on_at(node, tokio::time::Instant::now() + dice.ms(20, 2_500));
    }

    fn worsen(&mut self, how: impl FnOnce(Weather) -> Weather) {
        self.weather = how(self.weather);
        self.cluster.network.set_weather(self.weather);
    }
}

/// Where nodes have been no more often than so in a life, they are seldom.
const SELDOM: u64 = 50;
/// Whoever does certain things next loses power between two steps of them.
pub(super) fn have_power_lost(dice: &mut Dice) {
    let is_seldom = |it: &&Failpoint| visits().get(it).is_none_or(|visits| visits.all < SELDOM);
    let (points, share): (Vec<Failpoint>, u64) = match dice.one_in(2) {
        true => (Failpoint::ALL.iter().filter(is_seldom).copied().collect(), 2),
        false => (Failpoint::ALL.to_vec(), 12),
    };
    for point in points {
        if dice.one_in(share) {
            lose_power_at(point, 1 + dice.below(3));
        }
    }
}

/// So many stay with a leader that hears badly.
const READERS: u64 = 4;
/// How long a turn lasts at most, milliseconds.
pub(super) const TURN_MS: u64 = 2_500;
/// A cluster that nothing troubles any more is whole again within so long.
pub(super) const WHOLE_WITHIN: Duration = Duration::from_secs(120);
