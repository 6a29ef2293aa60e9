//! A promotion rehearsed on a copy: a throwaway node, filled from the export stream of a data node, in a lineage of its own.
//!
//! The copy runs on this machine, under the settings, certificate and site key of the node that it was made of
//! ([`settings`]). The cluster knows nothing of it, and it knows no way to the cluster: it has another cluster id, listens on
//! loopback alone, and has no address of any other member. So whoever holds the drill goes through the whole ceremony of
//! a forced promotion while the sites go on protecting each other.

pub mod settings;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use saola_client::drill::WORK;
use saola_client::proto::{Attested, Member, Role, StatusResponse};
use saola_client::{At, Client, Error, Version};
use saola_storage::folder::FolderClaim;
use saola_storage::fork::{Fork, ForkError, Forked, NewLineage};
use saola_storage::member::Role as StoredRole;
use saola_storage::promotion::{Plan, SignedPlan, short_hash};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::play::{Drill, ms};
use super::report;
use crate::dr::{about_plan, carry_out, plan_text, read, write};
use crate::exit::Failure;
use crate::launch::ports::Ports;
use crate::launch::process::NodeProcess;
use crate::launch::{node_binary, wait_until};
use crate::output::{grouped, hex};
use settings::{Changed, NodeSettings};

/// The node has so long to start on its copy.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often the plan's file is looked at for approvals.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The promoted copy should take its first write within so long.
const FIRST_WRITE_LIMIT: Duration = Duration::from_secs(60);
/// So many records of each collection are read from the copy and from the cluster.
const COMPARED: u32 = 100;
/// Chunks on their way to the disk: 1 MiB.
const AHEAD: usize = 4;

/// What whoever holds the drill says of the copy.
#[derive(Clone, Debug)]
pub struct ForkOf {
    /// Of the node that is copied.
    pub settings: NodeSettings,
    /// Where all of the copy goes; removed in the end.
    pub folder: PathBuf,
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
    run: Option<report::Fork>,
}

impl Rehearsal {
    /// Nothing is made yet.
    ///
    /// # Errors
    /// The settings are of no data node of this cluster, or the folder holds something.
    pub fn new(
        fork: &ForkOf,
        status: &StatusResponse,
        client: &Client,
        client_at: impl Fn(Vec<String>) -> Result<Client, Failure>,
    ) -> Result<Rehearsal, Failure> {
        let name = fork.settings.name();
        let members = status.nodes.iter().filter_map(|node| node.member.as_ref());
        let member = members.filter(|it| it.role() != Role::Witness).find(|it| it.name == name);
        let member = member.ok_or_else(|| {
            let what = format!("the settings are those of {name:?}, and this cluster has no such data node");
            Failure::usage(what, "run the drill where a data node has its settings, and name them with --fork-of")
        })?;
        let in_use = |why: String| {
            let what = format!("folder {} for the copy: {why}", fork.folder.display());
            let next =
                "name a folder that is not there; one that an interrupted drill has left holds nothing but its copy";
            Failure::usage(what, next)
        };
        match fs::read_dir(&fork.folder).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return Err(in_use("it is not empty".into())),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(in_use(error.to_string())),
            _ => {}
        }
        let ports = Ports::take(2)?;
        let copy = client_at(vec![loopback(ports.numbers[1])])?;
        Ok(Rehearsal {
            member: member.clone(),
            settings: fork.settings.clone(),
            folder: std::path::absolute(&fork.folder)
                .map_err(|source| Failure::file(format!("find {}", fork.folder.display()), &source))?,
            cluster_name: format!("{}-drill", status.cluster_name),
            epoch: status.header.map_or(1, |header| header.epoch),
            ports,
            source: client.at_endpoint(&member.client_address)?,
            cluster: client.clone(),
            copy,
            state: Mutex::default(),
        })
    }

    /// Copies the node's records, and starts a node on them.
    ///
    /// # Errors
    /// The records do not come whole, there is no room for them, or the node does not start.
    pub async fn copy(&self, drill: &Drill<'_>) -> Result<(), String> {
        let began = Instant::now();
        let mut state = self.state.lock().await;
        state.begun = true;
        let mut export = self.source.export(&drill.id).await.map_err(|error| error.to_string())?;
        let (chunks, taken) = mpsc::channel(AHEAD);
        let (path, claim, lineage) = (self.folder.join("data"), self.claim(), self.lineage());
        let keep_bytes = self.settings.min_free_bytes();
        let filling =
            state.filling.insert(tokio::task::spawn_blocking(move || fill(&path, claim, keep_bytes, taken, &lineage)));
        while let Some(chunk) = export.next().await.map_err(|error| error.to_string())? {
            if chunks.send(chunk).await.is_err() {
                // It has ended, and says why.
                break;
            }
        }
        drop(chunks);
        let forked = filling.await.map_err(|error| error.to_string())?;
        state.filling = None;
        let forked = forked.map_err(|error| in_full(&error))?;
        let copied_ms = ms(began.elapsed());
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
        let process = state.process.insert(process);
        let answered = wait_until("the copy answers", START_LIMIT, || async {
            self.copy.cluster_status(true).await.map(drop).map_err(|error| error.to_string())
        });
        if let Err(failure) = answered.await {
            // A node that has ended says more.
            process.check_running().map_err(|ended| ended.what().to_owned())?;
            return Err(failure.what().to_owned());
        }
        Ok(())
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

    /// Reads records of every collection from the promoted copy, and the same ones from the cluster as of the revision at
    /// which the copy was made.
    ///
    /// # Errors
    /// They cannot be read; whether they are the same stands in the report.
    pub async fn compare(&self, drill: &Drill<'_>) -> Result<(), String> {
        let mut state = self.state.lock().await;
        let run = state.run.as_mut().ok_or("there is no copy")?;
        let mut compared = report::Compared::default();
        let collections = self.copy.collections().await.map_err(|error| error.to_string())?;
        for collection in collections.value {
            let (here, there) = tokio::try_join!(
                first_records(&self.copy, &collection.name, run.revision),
                first_records(&self.cluster, &collection.name, run.revision),
            )?;
            compared.collections += 1;
            compared.records += here.len() as u64;
            compared.different += differing(&here, &there);
        }
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
            "  waiting for {} of {} to approve: saola dr approve {} --key KEY",
            plan.needed,
            who.join(", "),
            file.display()
        ));
    }
    let limit = Instant::now() + within;
    loop {
        let (signed, read) = read(file).map_err(|failure| failure.what().to_owned())?;
        if read != *plan {
            return Err(format!("{} holds another plan than the one that was made", file.display()));
        }
        match signed.check(&plan.approvers, plan.needed) {
            Ok(names) => return Ok((signed, names)),
            Err(error) if Instant::now() > limit => return Err(about_plan(error).what().to_owned()),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
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

/// Records of a collection as they stood at a revision, the first ones.
async fn first_records(client: &Client, collection: &str, revision: u64) -> Result<Vec<Version>, String> {
    let page = client.list(collection).at(At::Revision(revision)).page_size(COMPARED).send().await;
    page.map(|reply| reply.value.versions).map_err(|error| format!("read {collection}: {error}"))
}

/// So many records are not the same in both.
fn differing(here: &[Version], there: &[Version]) -> u64 {
    let pairs = here.iter().zip(there).filter(|(here, there)| here != there).count();
    (pairs + here.len().abs_diff(there.len())) as u64
}
