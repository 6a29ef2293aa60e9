//! Does faults to a running cluster, up to two at a time, each for a while, and undoes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rustix::process::{Pid, Signal, kill_process};
use saola_client::TransferTo;
use saola_jepsen::history::Recorder;
use saola_ops::certificates::{Authority, Holder, Issued};
use saola_ops::exit::Failure;
use saola_ops::launch::{LocalCluster, PlannedNode, wait_until};
use saola_ops::topology::{Node, Role};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::command::saola;
use crate::faults::{Kind, Scope, Tally, Tried};
use crate::machines::{CLIENTS, Effect, Machines};
use crate::network::Quality;

/// Faults at one time.
const AT_ONCE: usize = 2;
/// A tracer is there within so long, or it is not known what it does.
const ATTACHES_WITHIN: Duration = Duration::from_secs(5);
/// A node that has come up answers within so long.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// A fresh node has taken the place of another one within so long, whatever happens meanwhile.
const REPLACED_WITHIN: Duration = Duration::from_secs(240);
/// What could not be undone is tried again after so long.
const AGAIN: Duration = Duration::from_secs(1);
/// A node whose disk failed may still end so long after the disk is well again.
const SHAKEN: Duration = Duration::from_secs(10);
/// A node that ends by itself is noticed within so long.
const LOOK: Duration = Duration::from_millis(100);
/// Validity of a new certificate.
const DAYS: i32 = 30;
const CUT: Quality = Quality { is_cut: true, ..NOTHING };
const NOTHING: Quality =
    Quality { delay: Duration::ZERO, jitter: Duration::ZERO, lost_ppm: 0, twice_ppm: 0, is_cut: false };

/// A fault that lasts.
struct Active {
    kind: Kind,
    /// The nodes that are under it, alone.
    nodes: Vec<String>,
    effects: Vec<Effect>,
    /// Packets that its cut lines had dropped before.
    dropped: u64,
    tracer: Option<Child>,
    /// Who comes in the place of its node, and the command that puts it there.
    newcomer: Option<(Node, JoinHandle<Result<(), Failure>>)>,
    until: Instant,
}

impl Active {
    fn of(kind: Kind) -> Active {
        let (nodes, effects) = (Vec::new(), Vec::new());
        Active { kind, nodes, effects, dropped: 0, tracer: None, newcomer: None, until: Instant::now() }
    }
}

/// Why a fault was not done.
enum NotDone {
    /// What it needs is under another one: nothing was tried.
    Busy,
    Tried(Tried),
}

/// Whoever does faults, and to whom.
pub struct Nemesis<'a> {
    cluster: &'a mut LocalCluster,
    machines: &'a mut Machines,
    recorder: &'a Recorder,
    rng: SmallRng,
    spares: Vec<PlannedNode>,
    /// The highest number that a node was given.
    highest_id: u64,
    active: Vec<Active>,
    /// Nodes that may end by themselves, until when.
    shaken: BTreeMap<String, Instant>,
    /// The members, as they are now.
    pub nodes: Vec<Node>,
    /// Told of them.
    members: &'a watch::Sender<Vec<Node>>,
    /// What came of the tries, by kind.
    pub tallies: BTreeMap<Kind, Tally>,
    /// Nodes that ended by themselves without a reason.
    pub wrong: Vec<String>,
}

impl<'a> Nemesis<'a> {
    /// For a cluster on machines, of which `spares` are in use by nobody; `members` is told who its nodes are, and `rng` decides what is
    /// done, when, and to whom.
    pub fn new(
        cluster: &'a mut LocalCluster,
        machines: &'a mut Machines,
        spares: Vec<PlannedNode>,
        members: &'a watch::Sender<Vec<Node>>,
        recorder: &'a Recorder,
        rng: SmallRng,
    ) -> Nemesis<'a> {
        let nodes = members.borrow().clone();
        let highest_id = nodes.iter().map(|node| node.node_id).max().unwrap_or(0);
        let (active, shaken, tallies, wrong) = (Vec::new(), BTreeMap::new(), BTreeMap::new(), Vec::new());
        Nemesis { cluster, machines, recorder, rng, spares, highest_id, active, shaken, nodes, members, tallies, wrong }
    }

    /// Does faults until `end`, then undoes them. `kinds`: those that happen at all.
    ///
    /// # Errors
    /// A fault that cannot be undone: the machine has a defect, or the harness.
    pub async fn run(&mut self, kinds: &[Kind], end: Instant) -> Result<(), Failure> {
        let mut next = Instant::now();
        while Instant::now() < end {
            if Instant::now() >= next {
                next = Instant::now() + Duration::from_millis(self.rng.random_range(200..1_500));
                if self.active.iter().filter(|active| active.newcomer.is_none()).count() < AT_ONCE
                    && let Some(kind) = kinds.choose(&mut self.rng).copied()
                {
                    self.begin(kind, end).await?;
                }
            }
            tokio::time::sleep(LOOK).await;
            self.look_after_nodes()?;
            self.end_faults(|active| active.until <= Instant::now()).await?;
        }
        self.end_faults(|_| true).await?;
        while !self.active.is_empty() {
            tokio::time::sleep(LOOK).await;
            self.look_after_nodes()?;
            self.end_faults(|_| true).await?;
        }
        // What ended under a fault is started now that it is over.
        self.look_after_nodes()
    }

    async fn begin(&mut self, kind: Kind, end: Instant) -> Result<(), Failure> {
        match self.install(kind).await {
            Ok(mut active) => {
                let longest = kind.longest().as_millis() as u64;
                let lasts = Duration::from_millis(self.rng.random_range(longest / 8..=longest));
                active.until = (Instant::now() + lasts).min(end);
                self.tell(kind.name(), &active.nodes);
                // Whether a cut was one shows when it ends: by the packets that it took. So does whether a newcomer has come.
                if !active.effects.iter().any(|effect| effect.worse.is_cut) && active.newcomer.is_none() {
                    self.count(kind, Tried::Installed);
                }
                self.active.push(active);
                self.links();
            }
            Err(NotDone::Busy) => {}
            Err(NotDone::Tried(tried)) => self.count(kind, tried),
        }
        Ok(())
    }

    fn count(&mut self, kind: Kind, tried: Tried) {
        self.tallies.entry(kind).or_default().count(tried);
    }

    fn tell(&self, what: &str, nodes: &[String]) {
        let ids = self.nodes.iter().filter(|node| nodes.contains(&node.name)).map(|node| node.node_id);
        let mut ids = ids.peekable();
        if ids.peek().is_none() {
            self.recorder.fault(what, 0);
        }
        ids.for_each(|id| self.recorder.fault(what, id));
    }

    fn links(&self) {
        let effects: Vec<Effect> = self.active.iter().flat_map(|active| active.effects.iter().cloned()).collect();
        self.machines.set_links(&effects);
    }

    /// Nodes that no fault has, and that run.
    fn free(&self) -> Vec<&Node> {
        let taken: BTreeSet<&String> = self.active.iter().flat_map(|active| &active.nodes).collect();
        let is_free = |node: &&Node| !taken.contains(&node.name) && self.cluster.process(&node.name).is_ok();
        self.nodes.iter().filter(is_free).collect()
    }

    /// All nodes but those that are lost for good, and not replaced yet.
    fn there(&self) -> Vec<&Node> {
        let lost: Vec<&String> =
            self.active.iter().filter(|it| it.newcomer.is_some()).flat_map(|it| &it.nodes).collect();
        self.nodes.iter().filter(|node| !lost.contains(&&node.name)).collect()
    }

    /// Whom a fault of this scope is done to, if nobody else has them.
    fn choose(&mut self, scope: Scope) -> Result<Vec<String>, NotDone> {
        let names = |nodes: Vec<&Node>| nodes.into_iter().map(|node| node.name.clone()).collect::<Vec<String>>();
        let free = names(self.free());
        let wanted = match scope {
            Scope::Nobody => return Ok(Vec::new()),
            Scope::Node => return free.choose(&mut self.rng).map(|name| vec![name.clone()]).ok_or(NotDone::Busy),
            Scope::All => names(self.there()),
            Scope::Spared => {
                let has_spare = |node: &&Node| self.spares.iter().any(|spare| spare.site == node.site);
                let may_go = |node: &&Node| node.role != Role::Witness && has_spare(node);
                let goes = names(self.free().into_iter().filter(may_go).collect());
                return goes.choose(&mut self.rng).map(|name| vec![name.clone()]).ok_or(NotDone::Busy);
            }
            Scope::Site => {
                let site = if self.rng.random_bool(0.5) { "main" } else { "dr" };
                let of_site = |node: &&Node| node.site == site && node.role != Role::Witness;
                names(self.there().into_iter().filter(of_site).collect())
            }
        };
        if wanted.iter().all(|name| free.contains(name)) { Ok(wanted) } else { Err(NotDone::Busy) }
    }

    async fn install(&mut self, kind: Kind) -> Result<Active, NotDone> {
        let skipped = |failure: Failure| NotDone::Tried(Tried::Skipped(failure.what().to_owned()));
        let unsure = |failure: Failure| NotDone::Tried(Tried::Indeterminate(failure.what().to_owned()));
        let nodes = self.choose(kind.scope())?;
        let effects = self.effects(kind);
        let dropped = self.dropped(&effects);
        let mut active = Active { nodes, effects, dropped, ..Active::of(kind) };
        let first = active.nodes.first().cloned().unwrap_or_default();
        let all: Vec<&str> = active.nodes.iter().map(String::as_str).collect();
        match kind {
            Kind::Kill | Kind::KillSite | Kind::KillAll => self.cluster.kill(&all).await.map_err(unsure)?,
            Kind::NewCertificate => {
                self.cluster.terminate(&first).await.map_err(unsure)?;
                self.certify(&first).map_err(unsure)?;
            }
            Kind::Replaced => active.newcomer = Some(self.replace(&first).await.map_err(unsure)?),
            Kind::Pause | Kind::PauseSite => {
                for name in &all {
                    self.cluster.process(name).and_then(|it| it.signal(Signal::STOP)).map_err(unsure)?;
                }
            }
            Kind::PowerCut | Kind::PowerCutSite | Kind::PowerCutAll => {
                for name in &all {
                    self.machines.disk(name).cut_power().map_err(skipped)?;
                }
                self.cluster.kill(&all).await.map_err(unsure)?;
            }
            Kind::DiskFull => {
                // A node that runs refuses writes; one that starts ends, and says to make room first.
                if !self.answers(&first).await {
                    return Err(NotDone::Busy);
                }
                self.machines.disk(&first).fill().map_err(skipped)?;
            }
            Kind::DiskHangs => self.machines.disk(&first).hang().map_err(skipped)?,
            Kind::DiskBreaks => self.machines.disk(&first).break_it().map_err(skipped)?,
            Kind::SyncFails => active.tracer = Some(self.trace(&first, "error=EIO").await.map_err(NotDone::Tried)?),
            Kind::SyncSlow => {
                let delay_us = self.rng.random_range(20_000..500_000);
                let tracer = self.trace(&first, &format!("delay_enter={delay_us}")).await;
                active.tracer = Some(tracer.map_err(NotDone::Tried)?);
            }
            Kind::ClockStep => {
                let ahead_s = [-86_400, -30, -2, 2, 30, 3_600].choose(&mut self.rng).copied().unwrap_or(30);
                self.machines.set_clock(&first, ahead_s).map_err(skipped)?;
            }
            Kind::Switchover => self.switch_over().await.map_err(NotDone::Tried)?,
            Kind::Transfer => {
                let data = self.free().into_iter().filter(|node| node.role == Role::Voter).map(|node| node.node_id);
                let data: Vec<u64> = data.collect();
                let to = *data.choose(&mut self.rng).ok_or(NotDone::Busy)?;
                let client = self.cluster.client().with_deadline(Duration::from_secs(3));
                let moved = client.transfer(TransferTo::Node(to)).await;
                moved.map_err(|error| NotDone::Tried(Tried::Indeterminate(error.to_string())))?;
            }
            Kind::ModeChange => {
                let mode = ["maximum-protection", "maximum-performance"].choose(&mut self.rng).copied();
                self.set_mode(mode.unwrap_or("maximum-protection")).await.map_err(NotDone::Tried)?;
            }
            _ => {}
        }
        Ok(active)
    }

    /// Whether a node has come up after its start.
    async fn answers(&self, name: &str) -> bool {
        let Ok(client) = self.cluster.client_at(name) else { return false };
        let status = client.with_deadline(ANSWERS_WITHIN).cluster_status(true).await;
        status.is_ok_and(|status| status.nodes.iter().any(|node| node.reachable))
    }

    /// What a fault of the network does to which lines.
    fn effects(&mut self, kind: Kind) -> Vec<Effect> {
        let hosts: Vec<String> = self.machines.hosts().map(str::to_owned).collect();
        let nodes: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        let one = nodes.choose(&mut self.rng).cloned().unwrap_or_default();
        let other = nodes.iter().filter(|name| **name != one).collect::<Vec<_>>();
        let other = other.choose(&mut self.rng).map(|name| (*name).clone()).unwrap_or_default();
        let ways = match kind {
            Kind::CutOneWay => [[true, false], [false, true]][self.rng.random_range(0..2)],
            _ => [true, true],
        };
        let site = |name: &str| self.machines.site(name).to_owned();
        let worse = match kind {
            Kind::CutNode | Kind::CutOneWay | Kind::CutPair | Kind::CutSites | Kind::CutClients => CUT,
            Kind::SlowLinks => {
                let delay = Duration::from_millis(self.rng.random_range(5..60));
                Quality { delay, jitter: delay / 2, ..NOTHING }
            }
            Kind::LossyLinks => Quality { lost_ppm: self.rng.random_range(10_000..200_000), ..NOTHING },
            Kind::RepeatedPackets => Quality { twice_ppm: self.rng.random_range(10_000..300_000), ..NOTHING },
            _ => return Vec::new(),
        };
        let between = |a: &str, b: &str| match kind {
            Kind::CutNode => [a, b].contains(&one.as_str()),
            Kind::CutOneWay => [a, b].contains(&one.as_str()) && ![a, b].contains(&CLIENTS),
            Kind::CutPair => [a, b] == [one.as_str(), other.as_str()] || [b, a] == [one.as_str(), other.as_str()],
            Kind::CutClients => [a, b].contains(&one.as_str()) && [a, b].contains(&CLIENTS),
            Kind::CutSites => [site(a), site(b)] == ["main", "dr"] || [site(a), site(b)] == ["dr", "main"],
            _ => site(a) != site(b),
        };
        let mut effects = Vec::new();
        for from in &hosts {
            for to in hosts.iter().filter(|to| *to != from && between(from, to)) {
                // One way of two: from the node, or to it.
                if ways[usize::from(*to == one)] {
                    effects.push(Effect { from: from.clone(), to: to.clone(), worse });
                }
            }
        }
        effects
    }

    fn dropped(&self, effects: &[Effect]) -> u64 {
        effects.iter().map(|effect| self.machines.dropped(&effect.from, &effect.to)).sum()
    }

    /// A tracer that meddles with each sync of a node.
    async fn trace(&self, node: &str, meddling: &str) -> Result<Child, Tried> {
        let pid = self.cluster.process(node).ok().and_then(|process| process.pid());
        let pid = pid.ok_or_else(|| Tried::Indeterminate(format!("{node} has ended")))?;
        let mut command = Command::new("strace");
        command.args(["-qq", "-f", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"]);
        command.arg("-e").arg(format!("inject=fdatasync,fsync:{meddling}")).args(["-p", &pid.to_string()]);
        let tracer = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut tracer =
            tracer.map_err(|error| Tried::Skipped(format!("strace: {error}; `make setup` installs it")))?;
        let is_traced = async || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let says = |what: &str| status.lines().find_map(|line| line.strip_prefix(what)).map(str::trim);
            let is_traced = says("TracerPid:").is_some_and(|pid| pid != "0");
            // It may have ended at its first sync already.
            let has_ended = says("State:").is_none_or(|state| state.starts_with('Z'));
            if is_traced || has_ended { Ok(()) } else { Err("nobody traces it".to_owned()) }
        };
        if let Err(failure) = wait_until("trace a node", ATTACHES_WITHIN, is_traced).await {
            end_tracer(&mut tracer);
            return Err(Tried::Skipped(failure.what().to_owned()));
        }
        Ok(tracer)
    }

    fn certify(&self, node: &str) -> Result<(), Failure> {
        let authority = Authority::open(&self.cluster.folder().join("certs"))?;
        let folder = &self.cluster.files(node)?.folder;
        let issued = Issued { cert: folder.join("node.pem"), key: folder.join("node.key") };
        for old in [&issued.cert, &issued.key] {
            fs::remove_file(old).map_err(|source| Failure::file(format!("remove {}", old.display()), &source))?;
        }
        authority.issue_to(Holder::Node, node, DAYS, &issued)
    }

    /// A node's machine is lost for good; a fresh node starts on the spare one of its site, and people put it in that place
    /// while other faults go on.
    async fn replace(&mut self, name: &str) -> Result<(Node, JoinHandle<Result<(), Failure>>), Failure> {
        let gone = self.nodes.iter().find(|node| node.name == name).expect("faults are done to members");
        let spare = self.spares.iter().position(|spare| spare.site == gone.site).expect("its site has a spare machine");
        let spare = self.spares.remove(spare);
        self.highest_id += 1;
        let newcomer = self.cluster.prepare_another(&spare, self.highest_id)?;
        self.machines.give_disk(&newcomer.name, self.cluster.files(&newcomer.name)?)?;
        self.cluster.start(&newcomer.name)?;
        self.cluster.kill(&[name]).await?;
        let (folder, cluster_name) = (self.cluster.folder().to_owned(), self.cluster.topology().cluster_name.clone());
        let (name, comes) = (name.to_owned(), newcomer.clone());
        let told = tokio::spawn(async move {
            let node_id = comes.node_id.to_string();
            let mut arguments = vec!["cluster", "replace", &name, "--node-id", &node_id, "--name", &comes.name];
            arguments.extend(["--site", &comes.site, "--role", comes.role.as_str(), "--confirm", &cluster_name]);
            arguments.extend(["--peer-address", &comes.peer_address, "--client-address", &comes.client_address]);
            let put = || async { saola(&folder, &arguments).await.map_err(|refused| refused.why) };
            wait_until(&format!("put {} in the place of {name}", comes.name), REPLACED_WITHIN, put).await.map(drop)
        });
        Ok((newcomer, told))
    }

    /// A node that was lost for good has been replaced.
    async fn has_come(&mut self, lost: &[String], newcomer: Node, told: JoinHandle<Result<(), Failure>>) {
        match told.await.expect("nothing panics while it calls a command") {
            Ok(()) => self.count(Kind::Replaced, Tried::Installed),
            Err(failure) => self.wrong.push(failure.to_string()),
        }
        self.nodes.retain(|node| !lost.contains(&node.name));
        self.nodes.push(newcomer);
        self.members.send_replace(self.nodes.clone());
    }

    async fn switch_over(&self) -> Result<(), Tried> {
        let unsure = |why: String| Tried::Indeterminate(why);
        let asked = self.cluster.client().with_deadline(Duration::from_secs(3)).cluster_status(true).await;
        let leader = asked.map_err(|error| unsure(error.to_string()))?.leader;
        let is_main = self.nodes.iter().any(|node| node.node_id == leader && node.site == "main");
        let told = saola(self.cluster.folder(), &["switchover", "--to", if is_main { "dr" } else { "main" }]).await;
        told.map(drop).map_err(|refused| unsure(refused.why))
    }

    async fn set_mode(&self, mode: &str) -> Result<(), Tried> {
        let name = self.cluster.topology().cluster_name.clone();
        let told = saola(self.cluster.folder(), &["protection", "set", mode, "--confirm", &name]).await;
        told.map(drop).map_err(|refused| Tried::Indeterminate(refused.why))
    }

    /// Undoes faults.
    async fn end_faults(&mut self, which: impl Fn(&Active) -> bool) -> Result<(), Failure> {
        // A replacement takes as long as it takes, while other faults happen.
        let has_ended =
            |active: &Active| which(active) && active.newcomer.as_ref().is_none_or(|(_, told)| told.is_finished());
        // What cannot be undone yet comes back into the list.
        for _ in 0..self.active.len() {
            let Some(place) = self.active.iter().position(has_ended) else { break };
            let mut active = self.active.remove(place);
            self.undo(&mut active).await?;
            if active.kind.may_end_nodes() {
                let until = Instant::now() + SHAKEN;
                self.shaken.extend(active.nodes.iter().map(|name| (name.clone(), until)));
            }
            self.tell(&format!("{} ends", active.kind.name()), &active.nodes);
            if let Some((newcomer, told)) = active.newcomer {
                self.has_come(&active.nodes, newcomer, told).await;
            }
            if active.effects.iter().any(|effect| effect.worse.is_cut) {
                let taken = self.dropped(&active.effects) - active.dropped;
                self.count(
                    active.kind,
                    match taken {
                        0 => Tried::Indeterminate("no packet met the cut".to_owned()),
                        _ => Tried::Installed,
                    },
                );
            }
            self.links();
        }
        Ok(())
    }

    async fn undo(&mut self, active: &mut Active) -> Result<(), Failure> {
        if let Some(tracer) = &mut active.tracer {
            end_tracer(tracer);
        }
        for name in &active.nodes {
            match active.kind {
                Kind::Kill | Kind::KillSite | Kind::KillAll | Kind::NewCertificate => self.cluster.start(name)?,
                Kind::Pause | Kind::PauseSite => {
                    // It may have ended while the signal was under way.
                    let _ended = self.cluster.process(name).and_then(|it| it.signal(Signal::CONT));
                }
                Kind::PowerCut | Kind::PowerCutSite | Kind::PowerCutAll => {
                    self.machines.disk(name).come_back()?;
                    self.cluster.start(name)?;
                }
                Kind::DiskFull => self.machines.disk(name).make_room()?,
                Kind::DiskHangs => self.machines.disk(name).go_on()?,
                Kind::DiskBreaks => {
                    if self.cluster.process(name).is_ok() {
                        self.cluster.kill(&[name]).await?;
                    }
                    self.machines.disk(name).come_back()?;
                    self.cluster.start(name)?;
                }
                Kind::ClockStep => self.machines.set_clock(name, 0)?,
                _ => {}
            }
        }
        if active.kind == Kind::ModeChange {
            let back = || async { self.set_mode("maximum-availability").await.map_err(|tried| format!("{tried:?}")) };
            // The other fault may keep the cluster from answering: then it is set back when all are over.
            if self.active.is_empty() {
                wait_until("set the mode back", Duration::from_secs(60), back).await?;
            } else if back().await.is_err() {
                self.active.push(Active { until: Instant::now() + AGAIN, ..Active::of(active.kind) });
            }
        }
        Ok(())
    }

    /// Starts nodes that have ended, unless the fault that ended them lasts; one that ended by itself without a reason is wrong.
    fn look_after_nodes(&mut self) -> Result<(), Failure> {
        let newcomers = self.active.iter().filter_map(|active| active.newcomer.as_ref()).map(|(node, _)| node);
        for node in self.nodes.iter().chain(newcomers) {
            let under = self.active.iter().find(|active| active.nodes.contains(&node.name)).map(|active| active.kind);
            if let Some(how) = self.cluster.has_ended(&node.name)? {
                self.recorder.fault("ended by itself", node.node_id);
                let is_shaken = self.shaken.get(&node.name).is_some_and(|until| Instant::now() < *until);
                let is_known = self.wrong.iter().any(|what| what.starts_with(&format!("{} ", node.name)));
                if !is_known && !is_shaken && !under.is_some_and(Kind::may_end_nodes) {
                    self.wrong.push(format!("{} ended by itself: {}", node.name, how.what()));
                }
            }
            if under.is_none() && self.cluster.process(&node.name).is_err() {
                self.cluster.start(&node.name)?;
            }
        }
        Ok(())
    }
}

/// A tracer lets go of what it traces when it is interrupted, and not when it is killed.
fn end_tracer(tracer: &mut Child) {
    let pid = i32::try_from(tracer.id()).ok().and_then(Pid::from_raw);
    let told = pid.map(|pid| kill_process(pid, Signal::INT));
    let ended = tracer.wait();
    if let (Some(Err(error)), Err(_)) = (told, ended) {
        eprintln!("warning: end a tracer: {error}");
    }
}
