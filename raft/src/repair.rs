//! A start on a damaged log: what is lost comes from the peers, before Raft runs (protocol-aware recovery; Alagappan et
//! al., FAST 2018).
//!
//! What the log still says for certain is `storage`'s part (`log::Salvage`). This one asks the members for the rest and
//! decides what may be taken, [`judge`]:
//! - from any peer that knows all that is missing to be committed, for that never changes;
//! - from a peer that leads with a vote at or above ours, whatever it has: every leader of our term or a later one holds
//!   all that was committed with our acknowledgement. What its log lacks was never committed.
//!
//! All of it comes from one peer, so that it is one log. Until it is complete the node does not vote. If damage may hide
//! its vote, or the peers have purged what is missing, it does not start at all: it must be replaced. A witness lets go of
//! what every data node has purged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use prost::Message;
use saola_storage::disk::Disk;
use saola_storage::epoch::Approvers;
use saola_storage::error::StoreError;
use saola_storage::failpoint::{Failpoint, reach};
use saola_storage::keyspace::epochs::ApproverList;
use saola_storage::log::{Log, LogEntry, LogError, LogSettings, LogWriter, Salvage};
use saola_storage::release::RELEASE;
use saola_storage::store::{SkipTo, Store};
use saola_storage::types::{LogId, NodeId, Vote};
use tokio::sync::watch;

use crate::folder::DataFolder;
use crate::member::{Member, MembershipRecord};
use crate::timing::Timing;
use crate::transport::{Lane, PeerAddress, Transport};
use crate::types::{Runtime, Takes};
use crate::wire::{Answer, EntriesFrom, EntriesReply, Header, PeerRequest, Question, WIRE_VERSION};

/// Entries come in pieces of so many bytes of payload, the first one of a piece whatever its size.
pub(crate) const PIECE_BYTES: usize = 1 << 20;
/// No more is fetched: it is held in memory.
const MAX_BYTES: usize = 1 << 30;
/// From one warning that the repair waits to the next.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The log, and no repair helps.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The witness's own two rows.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The damage cannot be repaired from peers.
    #[error(
        "{damage}; it cannot be repaired from peers: {reason}; keep the folder for inquiry and replace this node with \
         `saola cluster replace {node_id}`"
    )]
    Hopeless {
        /// The damage.
        damage: LogError,
        /// Why not.
        reason: String,
        /// This node.
        node_id: u64,
    },
}

/// What a start on a damaged log goes by.
pub struct Repair<'a> {
    /// This node's folder.
    pub folder: &'a DataFolder,
    /// Its state machine, as it was flushed.
    pub store: &'a Store,
    /// Way to the peers.
    pub transport: Arc<dyn Transport>,
    /// How often they are asked.
    pub timing: Timing,
    /// Told what the repair waits for, in one sentence, for those who ask this node how it is.
    pub waits: &'a watch::Sender<Option<String>>,
}

/// Opens a log; one that is damaged is repaired first, however long that takes.
pub async fn open_log<RT: Runtime, D: Disk>(
    disk: Arc<D>,
    settings: LogSettings,
    repair: Repair<'_>,
) -> Result<(Log, LogWriter<D>), RepairError> {
    let epoch = repair.folder.identity().map(|own| own.epoch_id()).unwrap_or_default();
    let settings = LogSettings { epoch, ..settings };
    let open = || {
        let disk = disk.clone();
        RT::disk(Takes::Long, move || Log::open(disk, settings))
    };
    let damage = match open().await {
        Err(damage @ (LogError::Rot { .. } | LogError::Missing { .. })) => damage,
        opened => return Ok(opened?),
    };
    tracing::error!("{damage}");
    // A bad area of a disk may take minutes to be read through.
    repair.waits.send_replace(Some(format!("the log is read for all that it still holds: {damage}")));
    repair.run::<RT, D>(&disk, settings, damage).await?;
    repair.waits.send_replace(Some("the log is whole again, and the node starts".to_owned()));
    Ok(open().await?)
}

/// What may be done with a peer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its entries below this index are those that belong there. They may end earlier if it leads.
    Take { below: u64, leads: bool },
    /// Not now.
    NotYet(String),
    /// Never: it has purged its log up to this entry.
    Purged(LogId),
}

/// Decides whether a peer has what is missing, and may be believed.
pub(crate) fn judge(salvage: &Salvage, answer: &EntriesReply) -> Verdict {
    let Some(missing) = &salvage.missing else { return Verdict::Take { below: 0, leads: false } };
    let next = |id: Option<LogId>| id.map_or(0, |id| id.index.saturating_add(1));
    let (committed, last) = (next(answer.committed.map(Into::into)), next(answer.last.map(Into::into)));
    let purged: Option<LogId> = answer.purged.map(Into::into);
    // The entry after the missing ones is wanted too: it shows whether both logs go on alike.
    let end = missing.end.saturating_add(1);
    if let Some(purged) = purged.filter(|purged| purged.index >= missing.start) {
        return Verdict::Purged(purged);
    }
    let vote = answer.vote.map(Vote::from);
    if answer.leads && vote.map(|v| v.leader) >= salvage.vote.map(|v| v.leader) && last >= next(salvage.committed) {
        return Verdict::Take { below: end.min(last), leads: true };
    }
    if committed >= missing.end {
        return Verdict::Take { below: end.min(committed), leads: false };
    }
    Verdict::NotYet(format!(
        "knows no more to be committed than the entries before index {committed}, and does not lead"
    ))
}

/// Whom to ask: the members other than this node, by the newest membership that it has flushed or a peer has applied. Who was
/// removed while this node was away has nothing more to say, and may be gone for good.
struct Peers {
    own: NodeId,
    members: Vec<Member>,
    /// That membership's bytes, with the entry that set it.
    membership: Option<(LogId, Bytes)>,
    /// The newest lists of approvers that a peer has told of.
    approvers: Vec<ApproverList>,
}

impl Peers {
    /// Takes a membership that is newer than the one known. An error says why it cannot be read.
    fn learn(&mut self, at: LogId, bytes: Bytes) -> Result<(), String> {
        if Some(at) > self.at() {
            let record = MembershipRecord::decode(bytes.clone());
            let record = record.map_err(|error| format!("the membership of {at} cannot be read: {error}"))?;
            let members = record.seats.into_iter().filter_map(|seat| seat.member);
            self.members = members.filter(|member| member.node_id != self.own).collect();
            self.membership = Some((at, bytes));
        }
        Ok(())
    }

    /// Takes what a peer tells that is newer. An error says why it cannot be read.
    fn learn_from(&mut self, answer: &EntriesReply) -> Result<(), String> {
        let newest = |lists: &[ApproverList]| lists.last().map(|list| list.at_index);
        if newest(&answer.approvers) > newest(&self.approvers) {
            self.approvers = answer.approvers.clone();
        }
        answer.members_at.map_or(Ok(()), |at| self.learn(at.into(), answer.members.clone()))
    }

    /// What a witness is told of the state at an entry behind which it goes on.
    fn told_at(&self, last: LogId) -> SkipTo {
        let approvers = self.approvers.iter().cloned().map(Approvers::from).collect();
        SkipTo { last, membership: self.membership.clone(), approvers }
    }

    /// Entry that set the membership.
    fn at(&self) -> Option<LogId> {
        self.membership.as_ref().map(|(at, _)| *at)
    }
}

/// Why nobody ever has what is missing.
enum Nobody {
    /// There is no other member.
    Else,
    /// All have purged it.
    Keeps(Gone),
}

/// All peers have purged what is missing.
struct Gone {
    /// The last entry that each of them has purged.
    purged_by_all: LogId,
    /// What each has said.
    reasons: String,
}

impl Repair<'_> {
    async fn run<RT: Runtime, D: Disk>(
        &self,
        disk: &Arc<D>,
        settings: LogSettings,
        damage: LogError,
    ) -> Result<(), RepairError> {
        let node_id = self.folder.claim().node_id;
        let hopeless = |reason: String| RepairError::Hopeless { damage: damage.clone(), reason, node_id };
        let is_data = self.folder.claim().role.is_data();
        // A witness keeps the log for others.
        let mut applied = if is_data { self.store.applied().log_id } else { None };
        let mut peers = self.peers().map_err(&hopeless)?;
        let (salvage, entries, from) = loop {
            let (on, group_id) = (disk.clone(), settings.group_id);
            let salvage = RT::disk(Takes::Long, move || Salvage::read(&*on, group_id, applied)).await?;
            if !salvage.vote_certain {
                return Err(hopeless(
                    "the damage may hide its newest vote, and it could vote twice in one term".into(),
                ));
            }
            if salvage.missing.is_none() {
                break (salvage, Vec::new(), "its own flushed state".to_owned());
            }
            match self.gather::<RT>(&salvage, &mut peers).await {
                Ok((entries, from)) => break (salvage, entries, from),
                Err(Nobody::Else) => {
                    return Err(hopeless(
                        "no other member of the cluster is known; if this is the only node, restore a backup".into(),
                    ));
                }
                // What every data node has flushed and purged, nobody needs from a witness any more.
                Err(Nobody::Keeps(gone)) if !is_data && Some(gone.purged_by_all) > applied => {
                    self.skip_to::<RT>(gone.purged_by_all, &peers).await?;
                    applied = Some(gone.purged_by_all);
                }
                Err(Nobody::Keeps(gone)) => return Err(hopeless(gone.reasons)),
            }
        };
        let (count, missing) = (entries.len(), salvage.missing.clone());
        let on = disk.clone();
        let state = RT::disk(Takes::Long, move || salvage.rebuild(&on, settings, entries)).await?;
        let (missing, last) = (missing.unwrap_or(0..0), state.last.map_or(0, |last| last.index));
        tracing::warn!(
            "the log is whole again: {damage}; entries {} to {} were suspect, {count} came from {from}, the log ends at \
             index {last}; damaged segments are kept in the log folder as <id>.rot while there is room",
            missing.start,
            missing.end.saturating_sub(1)
        );
        Ok(())
    }

    /// A witness goes on behind an entry that nobody has any more, as after a snapshot: what its log will begin behind has to
    /// be applied.
    async fn skip_to<RT: Runtime>(&self, last: LogId, peers: &Peers) -> Result<(), StoreError> {
        let to = peers.told_at(last);
        let store = self.store.clone();
        RT::disk(Takes::Long, move || store.skip_to(to)).await.map(drop)
    }

    /// The other members, as the flushed state knows them.
    fn peers(&self) -> Result<Peers, String> {
        let own = self.folder.claim().node_id;
        let mut peers = Peers { own, members: Vec::new(), membership: None, approvers: Vec::new() };
        if let Some((at, members)) = self.store.applied().membership {
            peers.learn(at, members)?;
        }
        Ok(peers)
    }

    /// Asks all peers until one has what is missing; answers the entries, and who gave them. An error: none ever will.
    async fn gather<RT: Runtime>(
        &self,
        salvage: &Salvage,
        peers: &mut Peers,
    ) -> Result<(Vec<LogEntry>, String), Nobody> {
        let boot_id: [u8; 16] = rand::RngExt::random(&mut RT::thread_rng());
        let pause = Duration::from_millis(self.timing.election_max_ms);
        let mut warned: Option<RT::Instant> = None;
        loop {
            if peers.members.is_empty() {
                return Err(Nobody::Else);
            }
            let (mut reasons, mut purged) = (Vec::new(), Vec::new());
            let before = peers.at();
            for peer in peers.members.clone() {
                let who = format!("node {} ({})", peer.node_id, peer.name);
                match self.ask_for_all(salvage, &peer, &boot_id, peers).await {
                    Ok(entries) => {
                        reach(Failpoint::LogRepairGathered);
                        return Ok((entries, who));
                    }
                    Err(Verdict::Purged(upto)) => {
                        purged.push(upto);
                        reasons.push(format!("{who} has purged its log up to index {}", upto.index));
                    }
                    Err(Verdict::NotYet(reason)) => reasons.push(format!("{who} {reason}")),
                    Err(Verdict::Take { .. }) => reasons.push(format!("{who} changed while it was asked")),
                }
            }
            if peers.at() != before {
                continue;
            }
            let reasons = reasons.join("; ");
            if purged.len() == peers.members.len()
                && let Some(purged_by_all) = purged.into_iter().min_by_key(|upto| upto.index)
            {
                return Err(Nobody::Keeps(Gone { purged_by_all, reasons }));
            }
            let waits = {
                let missing = salvage.missing.clone().unwrap_or(0..0);
                let places = salvage.damage.iter().map(|damage| {
                    format!(
                        "segment {:016x} byte {} (index {})",
                        damage.segment, damage.from_offset, damage.first_index
                    )
                });
                format!(
                    "the damaged log waits for entries {} to {} from peers, and this node does not vote meanwhile; it goes on \
                     once another node leads, so start the others; damage: {}; asked: {reasons}",
                    missing.start,
                    missing.end.saturating_sub(1),
                    places.collect::<Vec<_>>().join(", ")
                )
            };
            if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                warned = Some(RT::Instant::now());
                tracing::warn!("{waits}");
            }
            self.waits.send_replace(Some(waits));
            RT::sleep(pause).await;
        }
    }

    /// All that one peer has of what is missing, piece by piece, as one log.
    async fn ask_for_all(
        &self,
        salvage: &Salvage,
        peer: &Member,
        boot_id: &[u8; 16],
        peers: &mut Peers,
    ) -> Result<Vec<LogEntry>, Verdict> {
        let not_yet = |reason: &str| Verdict::NotYet(reason.to_owned());
        let missing = salvage.missing.clone().unwrap_or(0..0);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut led_by = None;
        loop {
            let next = missing.start + entries.len() as u64;
            let question =
                EntriesFrom { from: next, end: missing.end.saturating_add(1), max_bytes: PIECE_BYTES as u64 };
            let answer = self.ask(peer, boot_id, question).await.map_err(Verdict::NotYet)?;
            let learned = peers.learn_from(&answer);
            learned.map_err(|why| Verdict::NotYet(format!("tells what this node does not know: {why}")))?;
            let (below, leads) = match judge(salvage, &answer) {
                Verdict::Take { below, leads } => (below, leads),
                other => return Err(other),
            };
            // A leader's log only grows while it leads.
            let vote = answer.vote.filter(|_| leads);
            if next > missing.start && vote != led_by {
                return Err(not_yet("has changed its leadership while it was asked"));
            }
            led_by = vote;
            let before = entries.len();
            for entry in answer.entries {
                let log_id: LogId =
                    entry.log_id.map(Into::into).ok_or_else(|| not_yet("sent an entry without a place"))?;
                if log_id.index != missing.start + entries.len() as u64 {
                    return Err(not_yet("sent entries that do not follow each other"));
                }
                if log_id.index >= below {
                    break;
                }
                bytes += entry.payload.len();
                entries.push(LogEntry { log_id, payload: entry.payload });
            }
            if missing.start + entries.len() as u64 >= below {
                return Ok(entries);
            }
            if bytes > MAX_BYTES {
                return Err(not_yet(
                    "has more of what is suspect than the 1 GiB that a repair takes; replace this node with `saola \
                     cluster replace`",
                ));
            }
            if entries.len() == before {
                return Err(not_yet("does not give the entries that it says it has"));
            }
        }
    }

    async fn ask(&self, peer: &Member, boot_id: &[u8; 16], question: EntriesFrom) -> Result<EntriesReply, String> {
        let header = self.header(peer, boot_id).ok_or("this folder belongs to no cluster")?;
        let request = PeerRequest { header: Some(header), question: Some(Question::Entries(question)) };
        let address = PeerAddress { address: peer.peer_address.clone(), name: peer.name.clone() };
        let limit = Duration::from_millis(10 * self.timing.election_max_ms);
        let reply = self.transport.call(&address, Lane::Control, request, limit).await;
        match reply.map_err(|error| format!("does not answer: {}", error.reason()))?.answer {
            Some(Answer::Entries(reply)) => Ok(reply),
            Some(Answer::Refused(refusal)) => Err(format!("refuses: {}", refusal.message)),
            _ => Err("gave an answer of the wrong kind".into()),
        }
    }

    fn header(&self, to: &Member, boot_id: &[u8; 16]) -> Option<Header> {
        let own = self.folder.identity()?;
        let at = self.store.applied().membership.map(|(at, _)| at);
        Some(Header {
            wire_version: WIRE_VERSION,
            group_id: own.group_id,
            cluster_id: Bytes::copy_from_slice(&own.cluster_id),
            epoch: own.epoch,
            plan: own.plan,
            from: own.node_id,
            to: to.node_id,
            from_folder: Bytes::copy_from_slice(&own.folder_id),
            to_folder: to.folder_id.clone(),
            from_role: own.role as i32,
            from_site: own.site,
            from_name: own.name,
            counted_next: 0,
            counted_term: 0,
            member_at: at.map(Into::into),
            from_boot: Bytes::copy_from_slice(boot_id),
            release: RELEASE.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use saola_storage::types::LeaderId;

    use super::*;
    use crate::member::Seat;

    fn id(term: u64, index: u64) -> LogId {
        LogId { leader: LeaderId { term, node_id: 1 }, index }
    }

    /// Entries 21 to 25 are missing; the vote is of term 4, index 20 is known to be committed.
    fn damaged() -> Salvage {
        let mut salvage = Salvage::default();
        salvage.vote = Some(Vote { leader: LeaderId { term: 4, node_id: 1 }, committed: true });
        salvage.vote_certain = true;
        salvage.committed = Some(id(3, 20));
        salvage.missing = Some(21..26);
        salvage
    }

    #[test]
    fn the_newest_membership_and_the_newest_approvers_of_all_answers_are_taken() {
        let mut peers = Peers { own: 5, members: Vec::new(), membership: None, approvers: Vec::new() };
        let told = |at: u64, members: &[u64], approvers: &[u64]| {
            let member = |node_id: &u64| Member { node_id: *node_id, ..Member::default() };
            let seat = |node_id: &u64| Seat { node_id: *node_id, member: Some(member(node_id)) };
            let record = MembershipRecord { configs: Vec::new(), seats: members.iter().map(seat).collect() };
            let approvers = approvers.iter().map(|at| ApproverList { set: None, at_index: *at }).collect();
            let members = record.encode_to_vec().into();
            EntriesReply { members_at: Some(id(3, at).into()), members, approvers, ..EntriesReply::default() }
        };
        let ids = |peers: &Peers| peers.members.iter().map(|member| member.node_id).collect::<Vec<_>>();
        peers.learn_from(&told(10, &[1, 2, 5], &[4])).expect("it reads");
        peers.learn_from(&told(9, &[1, 9, 5], &[4, 8])).expect("it reads");
        assert_eq!(ids(&peers), [1, 2], "an older membership is nothing new, and nobody asks himself");
        let to = peers.told_at(id(3, 12));
        assert_eq!((to.last, to.membership.map(|(at, _)| at)), (id(3, 12), Some(id(3, 10))));
        assert_eq!(to.approvers.iter().map(|list| list.at_index).collect::<Vec<_>>(), [4, 8]);
        let garbled = EntriesReply { members: Bytes::from_static(b"\xff"), ..told(11, &[], &[]) };
        assert!(peers.learn_from(&garbled).expect_err("no record").contains("cannot be read"));
        peers.learn_from(&told(11, &[5], &[])).expect("it reads");
        assert_eq!((ids(&peers), peers.approvers.len()), (Vec::new(), 2), "whoever is alone has nobody to ask");
    }

    fn answer(term: u64, leads: bool, committed: u64, last: u64, purged: Option<u64>) -> EntriesReply {
        EntriesReply {
            entries: Vec::new(),
            committed: Some(id(3, committed).into()),
            vote: Some(Vote { leader: LeaderId { term, node_id: 2 }, committed: true }.into()),
            leads,
            purged: purged.map(|index| id(3, index).into()),
            last: Some(id(3, last).into()),
            ..EntriesReply::default()
        }
    }

    #[test]
    fn committed_entries_are_taken_from_anyone_and_others_from_a_leader_alone() {
        let judged = |term, leads, committed, last| judge(&damaged(), &answer(term, leads, committed, last, None));
        let take = |below, leads| Verdict::Take { below, leads };
        assert_eq!(judged(1, false, 25, 40), take(26, false), "committed: whoever says it, whatever its vote");
        assert_eq!(
            judged(1, false, 90, 95),
            take(27, false),
            "and the entry after them, which shows how the log goes on"
        );
        assert!(matches!(judged(9, false, 24, 40), Verdict::NotYet(reason) if reason.contains("index 25")));
        assert_eq!(judged(4, true, 20, 40), take(27, true), "a leader of the own term or later has all that matters");
        assert_eq!(judged(5, true, 20, 23), take(24, true), "what its log lacks was never committed");
        assert!(matches!(judged(3, true, 20, 40), Verdict::NotYet(_)), "an older one may lack what was acknowledged");
        assert!(matches!(judged(5, true, 19, 19), Verdict::NotYet(_)), "it lacks what is known to be committed");
    }

    #[test]
    fn a_peer_that_has_purged_what_is_missing_is_of_no_use() {
        let judged = |purged| judge(&damaged(), &answer(5, true, 90, 95, Some(purged)));
        assert!(matches!(judged(20), Verdict::Take { .. }));
        assert!(matches!(judged(21), Verdict::Purged(upto) if upto.index == 21));
    }
}
