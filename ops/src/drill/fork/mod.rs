//! A promotion rehearsed on a copy: a throwaway node, filled from the export stream of a data node, in a lineage of its own.
//!
//! The copy runs on this machine, under the settings, certificate and site key of the node that it was made of
//! ([`settings`]). The cluster knows nothing of it: it has another cluster id, which no member answers, listens on loopback
//! alone, and its members have no addresses. So whoever holds the drill goes through the whole ceremony of a forced promotion
//! while the sites go on protecting each other. Afterwards its records are read and [`compare`]d with the cluster's.

pub mod compare;
pub mod settings;

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use saola_client::drill::WORK;
use saola_client::proto::{Attested, Member, NodeStatus, Role, StatusResponse};
use saola_client::{Client, Error};
use saola_storage::disk::{Disk, RealDisk};
use saola_storage::folder::FolderClaim;
use saola_storage::fork::{Fork, ForkError, Forked, NewLineage};
use saola_storage::member::Role as StoredRole;
use saola_storage::promotion::{Plan, SignedPlan, short_hash};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::play::{Drill, ms};
use super::report;
use crate::dr::{about_plan, carry_out, plan_text, read, write};
use crate::exit::{Exit, Failure};
use crate::launch::node_binary;
use crate::launch::ports::Ports;
use crate::launch::process::NodeProcess;
use crate::output::{grouped, hex};
use compare::Prints;
use settings::{Changed, NodeSettings};

/// The node has so long to start on its copy.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often the copy, and the plan's file, are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The promoted copy should take its first write within so long.
const FIRST_WRITE_LIMIT: Duration = Duration::from_secs(60);
/// Beside what the node keeps free for itself, so much more stays free: it must not notice the copy.
const MARGIN_BYTES: u64 = 1 << 30;
/// One question to the copy may take so long.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// Chunks on their way to the disk: 1 MiB.
const AHEAD: usize = 4;

/// What whoever holds the drill says of the copy, and how it is reached.
#[derive(Debug)]
pub struct ForkOf {
    /// Of the node that is copied.
    pub settings: NodeSettings,
    /// Where the folder of the copy is made; that one is removed in the end.
    pub folder: PathBuf,
    /// Two, for peers and for clients.
    pub ports: Ports,
    /// Asks the copy alone. Not one of the cluster's: it would tell the cluster of the copy's epoch.
    pub copy: Client,
}

impl ForkOf {
    /// Takes ports; `client_at` makes the client.
    ///
    /// # Errors
    /// No ports, or no client.
    pub fn new(
        settings: NodeSettings,
        folder: PathBuf,
        client_at: impl Fn(Vec<String>) -> Result<Client, Failure>,
    ) -> Result<ForkOf, Failure> {
        let ports = Ports::take(2)?;
        let copy = client_at(vec![loopback(ports.numbers[1])])?;
        Ok(ForkOf { settings, folder, ports, copy })
    }
}

/// The copy, from its making to its removal.
pub struct Rehearsal {
    member: Member,
    settings: NodeSettings,
    folder: PathBuf,
    cluster_name: String,
    epoch: u64,
    ports: Ports,
    /// The node that is copied.
    source: Client,
    /// The cluster.
    cluster: Client,
    /// The copy.
    copy: Client,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Something has been made that has to be removed.
    begun: bool,
    filling: Option<JoinHandle<Result<Forked, ForkError>>>,
    process: Option<NodeProcess>,
    /// The cluster's records when the copy was made.
    expected: Prints,
    run: Option<report::Fork>,
}

impl Rehearsal {
    /// Nothing is made yet.
    ///
    /// # Errors
    /// The settings are of no data node of this cluster, or there is no room for its records.
    pub fn new(fork: ForkOf, drill: &str, status: &StatusResponse, cluster: &Client) -> Result<Rehearsal, Failure> {
        let ForkOf { settings, folder, ports, copy } = fork;
        let name = settings.name();
        let is_it = |node: &&NodeStatus| node.member.as_ref().is_some_and(|it| it.name == name);
        let node = status.nodes.iter().find(is_it);
        let member = node.and_then(|node| node.member.clone()).filter(|it| it.role() != Role::Witness);
        let member = member.ok_or_else(|| {
            let what = format!("the settings are those of {name:?}, and this cluster has no such data node");
            Failure::usage(what, "run the drill where a data node has its settings, and name them with --fork-of")
        })?;
        let about =
            |source: std::io::Error| Failure::file(format!("folder {} for the copy", folder.display()), &source);
        fs::create_dir_all(&folder).map_err(about)?;
        let folder = std::path::absolute(&folder).map_err(about)?;
        let free_bytes = RealDisk::open(&folder).and_then(|disk| disk.free_bytes()).map_err(about)?;
        let data_bytes = node.map_or(0, |node| node.data_bytes);
        // What is being compacted is there twice for a while.
        let needed_bytes = 2 * data_bytes + MARGIN_BYTES + settings.min_free_bytes();
        if free_bytes < needed_bytes {
            let what = format!(
                "{} has {} bytes free; a copy of {name} wants {} ({} of records)",
                folder.display(),
                grouped(free_bytes),
                grouped(needed_bytes),
                grouped(data_bytes)
            );
            return Err(Failure::new(Exit::Precondition, what, "name a folder on another disk with --fork-folder"));
        }
        Ok(Rehearsal {
            folder: folder.join(format!("saola-drill-{drill}")),
            cluster_name: format!("{}-drill", status.cluster_name),
            epoch: status.header.map_or(1, |header| header.epoch),
            source: cluster.at_endpoint(&member.client_address)?,
            cluster: cluster.clone(),
            member,
            settings,
            ports,
            copy,
            state: Mutex::default(),
        })
    }

    /// Where all of the copy is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Copies the node's records, and starts a node on them.
    ///
    /// # Errors
    /// The records do not come whole, there is no room for them, or the node does not start.
    pub async fn copy(&self, drill: &Drill<'_>) -> Result<(), String> {
        let began = Instant::now();
        let mut state = self.state.lock().await;
        let made = DirBuilder::new().mode(0o700).create(&self.folder);
        made.map_err(|error| format!("make folder {}: {error}", self.folder.display()))?;
        state.begun = true;
        let mut export = self.source.export(&drill.id).await.map_err(|error| error.to_string())?;
        let (chunks, taken) = mpsc::channel(AHEAD);
        let (path, claim, lineage) = (self.folder.join("data"), self.claim(), self.lineage());
        let keep_bytes = self.settings.min_free_bytes() + MARGIN_BYTES;
        let filling =
            state.filling.insert(tokio::task::spawn_blocking(move || fill(&path, claim, keep_bytes, taken, &lineage)));
        while let Some(chunk) = export.next().await.map_err(|error| error.to_string())? {
            if chunks.send(chunk).await.is_err() {
                // It has ended, and says why.
                break;
            }
        }
        drop(chunks);
        let forked = filling.await;
        state.filling = None;
        let forked = forked.map_err(|error| error.to_string())?.map_err(|error| in_full(&error))?;
        let copied_ms = ms(began.elapsed());
        // Now, and not after the ceremony: what the cluster does not keep for ever may be gone by then.
        let expected = compare::of_cluster(&self.cluster, forked.revision).await;
        state.expected = expected.map_err(|error| format!("read the cluster's records: {error}"))?;
        drill.tell(&format!(
            "  {} bytes of {} copied up to revision {} in {} ms",
            grouped(forked.bytes),
            self.member.name,
            forked.revision,
            grouped(copied_ms)
        ));
        state.run = Some(report::Fork {
            node: self.member.name.clone(),
            site: self.member.site.clone(),
            revision: forked.revision,
            index: forked.log_id.index,
            digest: hex(&forked.digest),
            bytes: forked.bytes,
            copied_ms,
            promotion: None,
            compared: None,
        });
        let process = self.start().map_err(|failure| failure.what().to_owned())?;
        self.can_open_its_keys(state.process.insert(process)).await
    }

    /// The node runs, and opens every key with that of its site: nobody should approve what cannot be used then.
    async fn can_open_its_keys(&self, process: &mut NodeProcess) -> Result<(), String> {
        let limit = Instant::now() + START_LIMIT;
        let is_it = |node: &NodeStatus| node.member.as_ref().is_some_and(|it| it.name == self.member.name);
        loop {
            process.check_running().map_err(|ended| ended.what().to_owned())?;
            let status = self.copy.at_endpoint(&loopback(self.ports.numbers[1])).map_err(|error| error.to_string())?;
            let why = match status.with_deadline(LOOK_LIMIT).cluster_status(true).await {
                Err(error) => error.to_string(),
                Ok(status) => match status.nodes.into_iter().find(is_it) {
                    Some(node) if node.sealed && !node.seal_reason.is_empty() => {
                        return Err(format!("the copy is sealed: {}", node.seal_reason));
                    }
                    Some(node) if !node.sealed && node.keys_open == node.keys_total => return Ok(()),
                    Some(node) => format!("{} of {} keys are open", node.keys_open, node.keys_total),
                    None => "it says nothing of itself".to_owned(),
                },
            };
            if Instant::now() > limit {
                return Err(format!("the copy is not ready after {} s: {why}", START_LIMIT.as_secs()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Plans the promotion of the copy's site, waits until it is approved, and carries it out up to its first write.
    ///
    /// # Errors
    /// There is no plan, it is not approved in time, or it cannot be carried out.
    pub async fn promote(&self, drill: &Drill<'_>, approved_within: Duration) -> Result<(), String> {
        let mut state = self.state.lock().await;
        let run = state.run.as_mut().ok_or("there is no copy")?;
        let attested = Attested {
            fenced: format!("drill {}: this copy is alone in a lineage of its own", drill.id),
            stopped_us: None,
            last_revision: Some(run.revision),
            unchanged: false,
        };
        let bytes = self.copy.plan_promotion(&self.member.site, attested).await.map_err(|error| error.to_string())?;
        let plan = Plan::from_bytes(&bytes).map_err(|error| error.to_string())?;
        let file = self.folder.join("promote.plan");
        write(&file, &SignedPlan { plan: bytes, approvals: Vec::new() })
            .map_err(|failure| failure.what().to_owned())?;
        drill.tell(&format!("  plan {} in {}", plan_text::verdict(&plan), file.display()));
        let asked = Instant::now();
        let (signed, approved_by) = approved(drill, &file, &plan, approved_within).await?;
        let approvals_ms = ms(asked.elapsed());
        let begun = Instant::now();
        let leader = carry_out(&self.copy, &signed, &plan).await.map_err(|failure| failure.what().to_owned())?;
        first_write(&self.copy, &drill.id).await?;
        let took_ms = ms(begun.elapsed());
        drill.tell(&format!("  {leader} goes on in epoch {}; first write after {} ms", plan.epoch, grouped(took_ms)));
        run.promotion = Some(report::Promotion {
            plan: short_hash(&signed.plan),
            epoch: plan.epoch,
            loss: plan_text::loss(&plan).to_owned(),
            lost_revisions: plan.lost_revisions,
            approved_by,
            needed: plan.needed,
            approvals_ms,
            took_ms,
        });
        Ok(())
    }

    /// Reads records of every collection from the promoted copy, and compares them with what the cluster had at its revision.
    ///
    /// # Errors
    /// They cannot be read; whether they are the same stands in the report.
    pub async fn compare(&self, drill: &Drill<'_>) -> Result<(), String> {
        let mut state = self.state.lock().await;
        let found = compare::of_copy(&self.copy, &state.expected).await;
        let found = found.map_err(|error| format!("read the copy's records: {error}"))?;
        let compared = compare::compare(&state.expected, &found);
        let run = state.run.as_mut().ok_or("there is no copy")?;
        drill.tell(&format!(
            "  {} records of {} collections opened and compared, {} differ",
            compared.records, compared.collections, compared.different
        ));
        run.compared = Some(compared);
        Ok(())
    }

    /// Ends the node and removes all of the copy, if there is anything.
    ///
    /// # Errors
    /// What is left, and where.
    pub async fn discard(&self) -> Result<(), String> {
        let mut state = self.state.lock().await;
        if !state.begun {
            return Ok(());
        }
        if let Some(filling) = state.filling.take() {
            // Its chunks have ended, so it ends too; whatever came of it is removed next.
            let _unfinished = filling.await;
        }
        if let Some(process) = state.process.take() {
            // One that does not end in order is killed, and then nothing of it is left but its folder.
            let _killed = process.terminate().await;
        }
        state.begun = false;
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(format!("the copy in {} is not removed: {error}", self.folder.display()))
            }
            _ => Ok(()),
        }
    }

    /// What came of it; none: no copy was made.
    pub async fn into_run(self) -> Option<report::Fork> {
        self.state.into_inner().run
    }

    fn claim(&self) -> FolderClaim {
        let role = if self.member.role() == Role::Learner { StoredRole::Learner } else { StoredRole::Voter };
        let Member { node_id, name, site, .. } = self.member.clone();
        FolderClaim { node_id, name, site, role }
    }

    fn lineage(&self) -> NewLineage {
        NewLineage {
            cluster_id: rand::random(),
            cluster_name: self.cluster_name.clone(),
            epoch: self.epoch,
            peer_address: loopback(self.ports.numbers[0]),
            client_address: loopback(self.ports.numbers[1]),
        }
    }

    fn start(&self) -> Result<NodeProcess, Failure> {
        let data_dir = self.folder.join("data");
        let claim = self.claim();
        let text = self.settings.of_fork(&Changed {
            node_id: claim.node_id,
            role: claim.role.as_str(),
            site: &claim.site,
            data_dir: &data_dir,
            peer: &loopback(self.ports.numbers[0]),
            client: &loopback(self.ports.numbers[1]),
        });
        let path = self.folder.join("node.toml");
        fs::write(&path, text).map_err(|source| Failure::file(format!("write {}", path.display()), &source))?;
        NodeProcess::start(&node_binary()?, &claim.name, &path, &self.folder.join("node.log"), &[])
    }
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn in_full(error: &ForkError) -> String {
    let source = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
    format!("{error}{source}")
}

/// Makes the data folder of the chunks that come.
fn fill(
    path: &Path,
    claim: FolderClaim,
    keep_bytes: u64,
    mut chunks: mpsc::Receiver<Bytes>,
    lineage: &NewLineage,
) -> Result<Forked, ForkError> {
    let mut fork = Fork::begin(path, claim, rand::random(), keep_bytes)?;
    while let Some(chunk) = chunks.blocking_recv() {
        fork.write(&chunk)?;
    }
    fork.finish(lineage)
}

/// The plan with its approvals, once there are enough, and whose they are.
async fn approved(
    drill: &Drill<'_>,
    file: &Path,
    plan: &Plan,
    within: Duration,
) -> Result<(SignedPlan, Vec<String>), String> {
    let who: Vec<&str> = plan.approvers.iter().map(|it| it.name.as_str()).collect();
    if plan.needed > 0 {
        drill.tell(&format!(
            "  waiting for {} of {} to approve: saola dr approve {} --key KEY (the file may be taken elsewhere and put back)",
            plan.needed,
            who.join(", "),
            file.display()
        ));
    }
    let limit = Instant::now() + within;
    let mut told = false;
    loop {
        // It may be on its way back from an approver, and half-written.
        let why = match read(file) {
            Ok((signed, read)) if read == *plan => match signed.check(&plan.approvers, plan.needed) {
                Ok(names) => return Ok((signed, names)),
                Err(error) => about_plan(error),
            },
            other => {
                let what = format!("{} does not hold the plan that was made", file.display());
                let failure = other.err().unwrap_or_else(|| Failure::usage(what, "put it back, with its approvals"));
                if !told {
                    drill.tell(&format!("  {}: {}", failure.what(), failure.next()));
                }
                told = true;
                failure
            }
        };
        if Instant::now() > limit {
            return Err(why.what().to_owned());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Writes to the promoted copy until it acknowledges.
async fn first_write(copy: &Client, drill: &str) -> Result<(), String> {
    let limit = Instant::now() + FIRST_WRITE_LIMIT;
    loop {
        match copy.put(WORK, format!("fork/{drill}"), drill.to_owned()).content_type("text/plain").send().await {
            Ok(_) => return Ok(()),
            Err(Error::Unavailable(_) | Error::UnknownOutcome { .. }) if Instant::now() < limit => {}
            Err(error) => return Err(format!("first write to the copy: {error}")),
        }
    }
}
