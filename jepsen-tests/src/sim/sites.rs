//! Clusters of two sites, what befalls them, and how the sites stand to each other.

use std::time::Duration;

use saola_raft::protection::State;
use saola_raft::sim::{random_u64, spawn_on};
use saola_raft::{Member, ProposeError, Role};
use saola_storage::protection::{Mode, Protection};

use super::act::{have_lead, leader, pick, status, until};
use super::{CALL, Clerk, Cluster, PATIENCE};

/// Below so many free bytes a node has no room for writes, where a scenario fills disks.
pub const MARK: u64 = 1 << 20;

/// A cluster, and which of its data nodes are at the main site and at the other one.
pub struct Sites {
    /// All nodes.
    pub cluster: Cluster,
    /// Data nodes of the main site.
    pub main: Vec<u64>,
    /// Data nodes of the other site.
    pub dr: Vec<u64>,
}

impl Sites {
    /// 2+2+w.
    pub fn with_witness() -> Sites {
        Sites { cluster: Cluster::two_sites(), main: vec![1, 2], dr: vec![3, 4] }
    }

    /// 3+2l.
    pub fn with_learners() -> Sites {
        Sites { cluster: Cluster::two_sites_without_witness(), main: vec![1, 2, 3], dr: vec![4, 5] }
    }

    /// 3+3+w.
    pub fn large_with_witness() -> Sites {
        Sites { cluster: Cluster::two_large_sites(), main: vec![1, 2, 3], dr: vec![4, 5, 6] }
    }

    /// Voters at one site only.
    pub fn alone(voters: u64) -> Sites {
        Sites { cluster: Cluster::new(voters, false), main: (1..=voters).collect(), dr: Vec::new() }
    }

    /// Whether the loss of any one site stops nothing.
    pub fn survives_a_site(&self) -> bool {
        self.cluster.members().iter().any(|member| member.role_value() == Role::Witness)
    }

    /// Whether a machine's node keeps records.
    pub fn keeps_records(&self, machine: u64) -> bool {
        self.cluster.members().iter().any(|member| member.node_id == machine && member.role_value().is_data())
    }

    /// Whether a machine's settings give its node no vote.
    pub fn is_set_up_as_learner(&self, machine: u64) -> bool {
        let is_this = |member: &Member| member.node_id == machine;
        self.cluster.members().iter().any(|member| is_this(member) && member.role_value() == Role::Learner)
    }

    /// Makes the cluster, led from the main site, with a record.
    pub async fn begin(&mut self) -> Clerk {
        self.cluster.init().await;
        let mut clerk = Clerk::new(1);
        clerk.put_surely(&self.cluster, &self.main, 0, PATIENCE).await;
        if self.main.len() > 1 {
            have_lead(&self.cluster, 1).await;
        }
        clerk
    }

    /// A message and its answer between nodes of different sites take so much longer.
    pub fn be_apart(&self, round_trip: Duration) {
        let members = self.cluster.members();
        for from in &members {
            for to in members.iter().filter(|to| to.site != from.site) {
                self.cluster.network.delay(from.node_id, to.node_id, round_trip / 2);
            }
        }
    }

    /// The sites do not reach each other; the witness reaches both.
    pub fn part_from_main(&self) {
        self.cluster.part(&self.main, &self.dr);
    }

    /// Does something to the cluster that it must bear, or undoes all of it. `down`: nodes that do not run.
    pub async fn trouble(&mut self, down: &mut Vec<u64>) {
        let (main, dr) = (self.main.clone(), self.dr.clone());
        let nodes: Vec<u64> = self.cluster.ids();
        self.end_what_has_stopped(down).await;
        match random_u64() % 13 {
            0..4 if dr.is_empty() => self.cluster.cut_one(),
            0 => self.part(),
            1 => self.cluster.part(&[pick(&main)], &[pick(&dr)]),
            2 => main.iter().for_each(|from| dr.iter().for_each(|to| self.cluster.network.cut(*from, *to))),
            3 => main.iter().for_each(|to| dr.iter().for_each(|from| self.cluster.network.cut(*from, *to))),
            4 => self.cluster.cut_one(),
            5 => self.cluster.hang_log(pick(if dr.is_empty() { &main } else { &dr })),
            6 if down.is_empty() => {
                let node = pick(&nodes);
                self.cluster.crash(node).await;
                down.push(node);
            }
            7 if down.is_empty() => {
                let site = if dr.is_empty() { &main } else { pick(&[&main, &dr]) };
                self.lose(site).await;
                down.extend(site);
            }
            8 => self.cluster.disk(pick(&nodes)).fill(MARK / 2),
            10 if !dr.is_empty() => self.ask_for_switchover(),
            9 => {
                for node in down.drain(..) {
                    self.cluster.start(node).await;
                }
            }
            _ => self.mend(),
        }
    }

    /// Somebody has leadership moved to one of the sites, whatever comes of it.
    fn ask_for_switchover(&self) {
        let site = pick(&["main", "dr"]);
        let through = pick(&self.cluster.ids());
        if let Some(replica) = self.cluster.replica(through) {
            drop(spawn_on(through, async move { replica.transfer_to_site(site).await }));
        }
    }

    /// A process whose disk hung for too long while it led has ended by itself.
    pub async fn end_what_has_stopped(&mut self, down: &mut Vec<u64>) {
        let runs = |id: &u64| self.cluster.replica(*id).is_some();
        let nodes: Vec<u64> = self.cluster.ids().into_iter().filter(runs).collect();
        for node in nodes {
            if status(&self.cluster, node).state == "stopped" {
                self.cluster.kill(node).await;
                down.push(node);
            }
        }
    }

    /// Links and disks work again.
    pub fn mend(&self) {
        self.cluster.network.heal();
        for node in self.cluster.ids() {
            self.cluster.release_log(node);
            self.cluster.disk(node).set_capacity(u64::MAX);
        }
    }

    /// Everything works and runs again.
    pub async fn mend_all(&mut self, down: &mut Vec<u64>) {
        self.mend();
        self.end_what_has_stopped(down).await;
        for node in down.drain(..) {
            self.cluster.start(node).await;
        }
    }

    /// All data nodes that run have everything, and know that they have room.
    pub async fn settle(&self) {
        until("all have everything, and know that they have room", PATIENCE, || {
            let all: Vec<_> = self.cluster.running().iter().map(|id| status(&self.cluster, *id)).collect();
            all.windows(2).all(|pair| pair[0].applied_index == pair[1].applied_index)
                && all.iter().all(|it| it.writes_refused.is_none())
        })
        .await;
    }

    /// Power is lost at a site.
    pub async fn lose(&mut self, site: &[u64]) {
        for node in site {
            self.cluster.crash_if_it_runs(*node).await;
        }
    }

    /// Power is lost at one of the sites that keep records, the other one goes on by itself with all that was acknowledged,
    /// and the lost one is started again.
    pub async fn one_is_lost_and_the_other_goes_on(&mut self, clerk: &mut Clerk) {
        let (lost, stays) = pick(&[(0, 1), (1, 0)]);
        let both = [self.main.clone(), self.dr.clone()];
        self.lose(&both[lost]).await;
        clerk.put_surely(&self.cluster, &both[stays], 0, Duration::from_secs(10)).await;
        for node in &both[stays] {
            clerk.check(&self.cluster, *node).await;
        }
        self.cluster.start_all().await;
    }

    /// The other site is out of everybody's reach.
    pub fn part(&self) {
        let others: Vec<u64> = self.cluster.ids().into_iter().filter(|id| !self.dr.contains(id)).collect();
        self.cluster.part(&others, &self.dr);
    }
}

/// MAXIMUM PROTECTION: so many acknowledgements of the other site.
pub fn maximum(acks: u32) -> Protection {
    Protection { mode: Mode::MaximumProtection, acks, ..Protection::default() }
}

/// MAXIMUM PERFORMANCE.
pub fn performance() -> Protection {
    Protection { mode: Mode::MaximumPerformance, ..Protection::default() }
}

/// Sets the rule through a node.
pub async fn set(cluster: &Cluster, node: u64, protection: Protection) -> Result<(), ProposeError> {
    let replica = cluster.replica(node).expect("callers name nodes that run");
    spawn_on(node, async move { replica.set_protection(protection, CALL).await })
        .await
        .expect("the node does not crash")
}

/// How the sites stand to each other, as the leader of the highest term sees it.
pub fn state(cluster: &Cluster) -> Option<State> {
    let leading = cluster.running().into_iter().map(|id| status(cluster, id)).filter(|it| it.state == "leader");
    let seen = leading.max_by_key(|it| it.term).and_then(|it| it.protection?.seen);
    seen.map(|seen| seen.state)
}

/// Waits until a leader sees the sites so; answers how long it took.
pub async fn until_state(cluster: &Cluster, wanted: State, limit: Duration) -> Duration {
    leader(cluster).await;
    until(wanted.as_str(), limit, || state(cluster) == Some(wanted)).await
}
