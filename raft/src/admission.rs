//! Who may speak as which node.
//!
//! A message reaches Raft when all of this holds:
//! - the certificate of the connection carries the name that the header gives ([`check_caller`]);
//! - cluster, epoch, group and receiver are this node's own; the sender is, as far as this node's membership knows it,
//!   the member with that name, site, role and data folder, and was not removed ([`check_sender`]);
//! - of several processes that run as the sender, this is the one at the address that the membership records;
//! - this node's own folder is the one that the sender knows, and not an older copy of it ([`check_own_folder`]).
//!
//! The three functions decide from what they are given and are tested with literals; `Shared::admit` feeds them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message;
use saola_storage::planted::{self, Bug};
use saola_storage::release::UnknownFormat;
use saola_storage::types::{LeaderId, LogId, NodeId};
use tokio::sync::oneshot;

use crate::folder::{NodeIdentity, hex};
use crate::member::{Member, MembershipRecord};
use crate::replica::{RaftOf, Shared};
use crate::transport::{Caller, Lane, PeerAddress};
use crate::types::{Runtime, detach};
use crate::wire::{Answer, Header, Nothing, PeerRequest, Question, Refusal, RefusalCode, WIRE_VERSION, WireVote};

fn refuse(code: RefusalCode, message: String) -> Result<(), Refusal> {
    Err(Refusal::new(code, message))
}

/// What any message needs: a wire version that is spoken here, and the sender's own certificate.
pub(crate) fn check_caller(header: &Header, caller: &Caller) -> Result<(), Refusal> {
    if header.wire_version != WIRE_VERSION {
        let format = UnknownFormat::new(header.wire_version.into(), &header.release, WIRE_VERSION.into());
        return refuse(RefusalCode::BadMessage, format!("a message between nodes {format}"));
    }
    if !caller.is(&header.from_name) {
        return refuse(
            RefusalCode::WrongCertificate,
            format!(
                "the message says it is from {}, the certificate is {caller}'s: give each node its own certificate",
                header.from_name
            ),
        );
    }
    Ok(())
}

/// What a node knows of a sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownSender<'a> {
    /// The sender in the newest membership of this node's log.
    pub(crate) member: Option<&'a Member>,
    /// Entry that set the newest *committed* membership that this node knows, when the sender is not in it.
    pub(crate) absent_at: Option<LogId>,
}

/// Decides whether the sender is who it says it is, and speaks to this node.
pub(crate) fn check_sender(header: &Header, own: &NodeIdentity, known: KnownSender<'_>) -> Result<(), Refusal> {
    if header.cluster_id != own.cluster_id[..] {
        return refuse(
            RefusalCode::WrongCluster,
            format!(
                "node {} belongs to cluster {}, the sender to {}: correct the peer addresses or the data folder",
                own.node_id,
                hex(&own.cluster_id),
                hex(&header.cluster_id)
            ),
        );
    }
    if header.to != own.node_id {
        return refuse(
            RefusalCode::WrongNode,
            format!(
                "this is node {} ({}), the message is for node {}: correct the peer addresses",
                own.node_id, own.name, header.to
            ),
        );
    }
    if header.epoch != own.epoch {
        return refuse(
            RefusalCode::WrongEpoch,
            format!("node {} is in epoch {}, the sender in epoch {}", own.node_id, own.epoch, header.epoch),
        );
    }
    if header.epoch_id().is_twin_of(own.epoch_id()) {
        return refuse(
            RefusalCode::TwinEpoch,
            format!(
                "node {} is in {}, the sender in {}: two promotions began it, so people have to decide which one goes on",
                own.node_id,
                own.epoch_id(),
                header.epoch_id()
            ),
        );
    }
    if header.group_id != own.group_id || header.from == own.node_id || header.from_boot.len() != 16 {
        return refuse(
            RefusalCode::BadMessage,
            format!("node {} cannot tell who sends: run the same release on all nodes", own.node_id),
        );
    }
    match known.member {
        Some(member) => check_member(header, member),
        None => match (known.absent_at, header.member_at.map(LogId::from)) {
            // Ids are used once, so a later committed membership without the sender is its removal.
            (Some(absent_at), Some(member_at)) if absent_at > member_at => {
                refuse(RefusalCode::Removed, removed(header.from))
            }
            // It may have joined while this node was away.
            _ => Ok(()),
        },
    }
}

fn check_member(header: &Header, member: &Member) -> Result<(), Refusal> {
    if member.folder_id != header.from_folder {
        return refuse(
            RefusalCode::UnknownSender,
            format!(
                "node {} sends from a data folder that is not the one it joined with: \
                 put its own folder back, or replace it with `saola cluster replace {}`",
                header.from, header.from
            ),
        );
    }
    let said = (header.from_name.as_str(), header.from_site.as_str(), header.from_role);
    if said != (member.name.as_str(), member.site.as_str(), member.role) {
        return refuse(
            RefusalCode::UnknownSender,
            format!(
                "node {} says that it is {} at site {}, the membership knows it as {} {} at site {}: \
                 correct its settings, or replace it with `saola cluster replace {}`",
                header.from,
                header.from_name,
                header.from_site,
                member.role_value().as_str(),
                member.name,
                member.site,
                header.from
            ),
        );
    }
    Ok(())
}

/// Decides whether this node's own folder is the one that the sender knows. `own_next` is the first index not flushed
/// here, `voted_for` whom this node has voted for last.
pub(crate) fn check_own_folder(
    header: &Header,
    own: &NodeIdentity,
    own_next: u64,
    voted_for: LeaderId,
) -> Result<(), Refusal> {
    if !header.to_folder.is_empty() && header.to_folder != own.folder_id[..] {
        return refuse(RefusalCode::WrongFolder, wrong_folder(own.node_id));
    }
    // What a deposed leader counted may lawfully have been truncated since; Raft refuses it by its vote.
    let deposed = (header.counted_term, header.from) < (voted_for.term, voted_for.node_id);
    if header.counted_next > own_next && !deposed && !planted::is(Bug::OldFolderTaken) {
        return refuse(
            RefusalCode::FolderBehind,
            format!(
                "node {} has its log up to index {}, but the leader has counted it up to {}: an older copy of its data \
                 folder was put back; put the newest back, or replace the node with `saola cluster replace {}`",
                own.node_id,
                own_next.saturating_sub(1),
                header.counted_next - 1,
                own.node_id
            ),
        );
    }
    Ok(())
}

/// A node votes, leads and hands over for itself only.
pub(crate) fn check_speaks_for_itself(header: &Header, vote: Option<&WireVote>) -> Result<(), Refusal> {
    match vote {
        Some(vote) if vote.node_id != header.from => refuse(
            RefusalCode::BadMessage,
            format!("node {} speaks for node {}: a node votes and leads for itself only", header.from, vote.node_id),
        ),
        _ => Ok(()),
    }
}

fn wrong_folder(node_id: NodeId) -> String {
    format!(
        "node {node_id} is known to its cluster with another data folder than the one it runs on: \
         put its own folder back, or replace it with `saola cluster replace {node_id}`"
    )
}

fn removed(node_id: NodeId) -> String {
    format!(
        "node {node_id} was removed from the cluster: stop it and delete its data folder; to use the machine again add \
         it under a new node id"
    )
}

type Found = Result<Bytes, String>;

/// Boot ids of the processes that were found at the members' recorded addresses, and the questions under way.
#[derive(Default)]
pub(crate) struct Processes {
    found: Mutex<BTreeMap<NodeId, Bytes>>,
    asked: Mutex<BTreeMap<NodeId, futures::future::Shared<BoxFuture<'static, Found>>>>,
}

impl<RT: Runtime> Shared<RT> {
    /// Lets a message in, and answers Raft, or says why not.
    pub(crate) async fn admit(self: &Arc<Self>, header: &Header, caller: &Caller) -> Result<RaftOf<RT>, Refusal> {
        check_caller(header, caller)?;
        let Some(identity) = self.identity() else {
            if header.to == self.claim.node_id && !header.to_folder.is_empty() {
                self.set_refused(wrong_folder(header.to));
                return Err(Refusal::new(RefusalCode::WrongFolder, wrong_folder(header.to)));
            }
            return Err(Refusal::new(
                RefusalCode::NotAdopted,
                format!("node {} is not part of a cluster yet", self.claim.node_id),
            ));
        };
        // The log of a node that goes along in a new epoch does not know yet who is what there.
        let member = self.member_by_plan(header.from).or_else(|| self.member(header.from));
        let absent_at = if member.is_none() { self.absent_at(header.from) } else { None };
        check_sender(header, &identity, KnownSender { member: member.as_ref(), absent_at })
            .map_err(|refusal| self.with_record(header, refusal))?;
        if let Some(member) = &member {
            self.check_process(member, &header.from_boot).await?;
        }
        let voted_for = self.log.state().vote.unwrap_or_default().leader;
        if let Err(refusal) = check_own_folder(header, &identity, self.flushed_next(), voted_for) {
            self.refuse_to_run(refusal.message.clone());
            return Err(refusal);
        }
        self.raft().ok_or_else(|| self.does_not_run(&identity))
    }

    /// A fenced node shows the others of its side what fenced it.
    fn does_not_run(&self, identity: &NodeIdentity) -> Refusal {
        let record = self.lineage().fenced.and_then(|fence| fence.record).unwrap_or_default();
        let message = format!("Raft does not run on node {}", identity.node_id);
        Refusal { record, ..Refusal::new(RefusalCode::Stopped, message) }
    }

    /// Whoever is refused for its epoch hears how the present one began; of a later one, and of a twin, this node looks for the
    /// record.
    fn with_record(self: &Arc<Self>, header: &Header, refusal: Refusal) -> Refusal {
        if !matches!(refusal.kind(), RefusalCode::WrongEpoch | RefusalCode::TwinEpoch) {
            return refusal;
        }
        let is_later = self.identity().is_some_and(|own| header.epoch > own.epoch);
        if is_later || refusal.kind() == RefusalCode::TwinEpoch {
            self.look_for_epoch(vec![header.from]);
        }
        if is_later {
            return refusal;
        }
        Refusal { record: self.record(), ..refusal }
    }

    /// Lets in a question that reads the log and changes nothing, from a member whose own process does not answer yet: it
    /// asks before its Raft runs. That a second process on a copy of its folder could ask too is harmless, for what it
    /// gets is what the member may have anyhow, sealed, and to vote or store it still has to pass [`Shared::admit`].
    pub(crate) fn admit_reader(&self, header: &Header) -> Result<(), Refusal> {
        let (Some(identity), Some(member)) = (self.identity(), self.any_member(header.from)) else {
            return refuse(
                RefusalCode::UnknownSender,
                format!("node {} is not known to be a member here", header.from),
            );
        };
        check_sender(header, &identity, KnownSender { member: Some(&member), absent_at: None })
    }

    /// See [`KnownSender::absent_at`]: what is applied was committed.
    fn absent_at(&self, node_id: NodeId) -> Option<LogId> {
        let (at, bytes) = self.store.applied().membership?;
        let record = MembershipRecord::decode(bytes).ok()?;
        record.seats.iter().all(|seat| seat.node_id != node_id).then_some(at)
    }

    /// Of two processes on copies of one folder, only the one at the recorded address is asked to vote and to store;
    /// so only that one may ask others to. Which it is, it says itself when it is asked at that address.
    async fn check_process(self: &Arc<Self>, member: &Member, boot: &Bytes) -> Result<(), Refusal> {
        if self.processes.found.lock().get(&member.node_id) == Some(boot) {
            return Ok(());
        }
        let node = member.node_id;
        let mut asked_again = false;
        loop {
            let (answer, asked_before) = self.ask_process(member);
            match answer.await {
                Ok(found) if found == *boot => return Ok(()),
                // The question is older than the message, so the process that answered may have been its predecessor.
                Ok(_) if asked_before && !asked_again => asked_again = true,
                Ok(_) => {
                    return refuse(
                        RefusalCode::TwoProcesses,
                        format!(
                            "two processes run as node {node}: the one at the recorded address {} counts; stop this one",
                            member.peer_address
                        ),
                    );
                }
                Err(reason) => {
                    return refuse(
                        RefusalCode::Unverified,
                        format!(
                            "node {} cannot see that this process is the one at the recorded address {} of node {node}: \
                             {reason}; nodes must reach each other both ways",
                            self.claim.node_id, member.peer_address
                        ),
                    );
                }
            }
        }
    }

    /// Asks which process runs at a member's recorded address; joins the question under way, and says so.
    fn ask_process(self: &Arc<Self>, member: &Member) -> (futures::future::Shared<BoxFuture<'static, Found>>, bool) {
        let mut asked = self.processes.asked.lock();
        if let Some(under_way) = asked.get(&member.node_id) {
            return (under_way.clone(), true);
        }
        let (answer, received) = oneshot::channel();
        let (shared, asked_member) = (self.clone(), member.clone());
        // On a task of its own: it goes on when the message that asked is given up, and the next one finds the answer.
        detach::<RT>(async move {
            let found = shared.process_at(&asked_member).await;
            if let Ok(boot) = &found {
                shared.processes.found.lock().insert(asked_member.node_id, boot.clone());
            }
            shared.processes.asked.lock().remove(&asked_member.node_id);
            let _nobody_waits = answer.send(found);
        });
        let question = received.map(|found| found.unwrap_or_else(|_| Err("this node stops".into()))).boxed().shared();
        asked.insert(member.node_id, question.clone());
        (question, false)
    }

    async fn process_at(&self, member: &Member) -> Found {
        let address = PeerAddress { address: member.peer_address.clone(), name: member.name.clone() };
        let question = Some(Question::Identify(Nothing {}));
        let request = PeerRequest { header: Some(self.header(member, 0)), question };
        let limit = Duration::from_millis(2 * self.election_max_ms());
        let reply = self.transport.call(&address, Lane::Control, request, limit).await;
        match reply.map_err(|error| error.to_string())?.answer {
            Some(Answer::Identity(identity)) => Ok(identity.boot_id),
            Some(Answer::Refused(refusal)) => Err(refusal.message),
            _ => Err("it gave an answer of the wrong kind".into()),
        }
    }

    /// A peer did not let this node in. What holds for good ends its part in the cluster.
    pub(crate) fn heard_refusal(self: &Arc<Self>, peer: NodeId, refusal: Refusal) {
        if matches!(refusal.kind(), RefusalCode::Removed | RefusalCode::TwoProcesses) {
            self.refuse_to_run(refusal.message.clone());
        }
        if !refusal.record.is_empty() {
            self.meet_later(refusal.record.clone());
        }
        self.links.refused(peer, refusal);
    }
}

/// While no leader speaks, asks the others whether they still let this node in: a learner says nothing else to them,
/// and would never hear that it was removed.
pub(crate) async fn greet<RT: Runtime>(shared: Arc<Shared<RT>>) {
    let pause = Duration::from_millis(3 * shared.election_max_ms());
    loop {
        RT::sleep(pause).await;
        if shared.raft().is_none() || shared.has_stopped() {
            return;
        }
        if shared.leader().is_some() {
            continue;
        }
        let others = shared.members().into_iter().filter(|member| member.node_id != shared.claim.node_id);
        let greetings = others.map(|member| {
            let request =
                PeerRequest { header: Some(shared.header(&member, 0)), question: Some(Question::Greet(Nothing {})) };
            let address = PeerAddress { address: member.peer_address.clone(), name: member.name.clone() };
            let call = shared.transport.call(&address, Lane::Control, request, pause);
            call.map(move |reply| (member.node_id, reply))
        });
        for (peer, reply) in futures::future::join_all(greetings).await {
            match reply.map(|reply| reply.answer) {
                Ok(Some(Answer::Refused(refusal))) => shared.heard_refusal(peer, refusal),
                Ok(_) => shared.links.accepted(peer),
                Err(error) => tracing::debug!(peer, "greeting: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Role;

    fn id(byte: u8) -> Bytes {
        Bytes::copy_from_slice(&[byte; 16])
    }

    fn own() -> NodeIdentity {
        NodeIdentity {
            cluster_id: [1; 16],
            epoch: 1,
            plan: 7,
            node_id: 2,
            folder_id: [2; 16],
            role: Role::Voter,
            site: "main".into(),
            name: "main-2".into(),
            group_id: 0,
        }
    }

    fn header() -> Header {
        Header::of_a_voter()
    }

    fn sender() -> Member {
        Member {
            node_id: 1,
            name: "main-1".into(),
            site: "main".into(),
            role: Role::Voter as i32,
            folder_id: id(7),
            ..Member::default()
        }
    }

    fn at(term: u64, index: u64) -> LogId {
        LogId { leader: LeaderId { term, node_id: 1 }, index }
    }

    fn code(result: Result<(), Refusal>) -> Option<RefusalCode> {
        result.err().map(|refusal| refusal.kind())
    }

    fn from_member(header: Header) -> Option<RefusalCode> {
        let sender = sender();
        code(check_sender(&header, &own(), KnownSender { member: Some(&sender), absent_at: None }))
    }

    #[test]
    fn a_message_comes_with_its_senders_own_certificate() {
        let caller = Caller::certified(vec!["main-1".into()]);
        assert_eq!(code(check_caller(&header(), &caller)), None);
        let wrong = Some(RefusalCode::WrongCertificate);
        assert_eq!(code(check_caller(&Header { from_name: "main-3".into(), ..header() }, &caller)), wrong);
        assert_eq!(code(check_caller(&Header { from_name: String::new(), ..header() }, &caller)), wrong);
        assert_eq!(code(check_caller(&header(), &Caller::certified(vec![]))), wrong);
        let newer = Header { wire_version: WIRE_VERSION + 1, release: "0.3.0".into(), ..header() };
        let message = check_caller(&newer, &caller).unwrap_err().message;
        assert!(message.starts_with("a message between nodes has format 2, written by Saola 0.3.0;"), "{message}");
        assert_eq!(code(check_caller(&newer, &caller)), Some(RefusalCode::BadMessage));
    }

    #[test]
    fn only_a_fitting_header_reaches_raft() {
        assert_eq!(from_member(header()), None);
        assert_eq!(from_member(Header { cluster_id: id(9), ..header() }), Some(RefusalCode::WrongCluster));
        assert_eq!(from_member(Header { to: 3, ..header() }), Some(RefusalCode::WrongNode));
        assert_eq!(from_member(Header { epoch: 2, ..header() }), Some(RefusalCode::WrongEpoch));
        assert_eq!(from_member(Header { plan: 8, ..header() }), Some(RefusalCode::TwinEpoch));
        assert_eq!(from_member(Header { plan: 7, ..header() }), None);
        assert_eq!(from_member(Header { group_id: 1, ..header() }), Some(RefusalCode::BadMessage));
        assert_eq!(from_member(Header { from: 2, ..header() }), Some(RefusalCode::BadMessage));
        assert_eq!(from_member(Header { from_boot: Bytes::new(), ..header() }), Some(RefusalCode::BadMessage));
    }

    #[test]
    fn a_known_sender_has_the_folder_name_site_and_role_of_the_membership() {
        let unknown = Some(RefusalCode::UnknownSender);
        assert_eq!(from_member(Header { from_folder: id(9), ..header() }), unknown);
        assert_eq!(from_member(Header { from_name: "main-3".into(), ..header() }), unknown);
        assert_eq!(from_member(Header { from_site: "dr".into(), ..header() }), unknown);
        assert_eq!(from_member(Header { from_role: Role::Witness as i32, ..header() }), unknown);
    }

    #[test]
    fn a_removed_sender_is_told_and_one_that_joined_meanwhile_is_let_in() {
        let stranger = |absent_at, member_at: Option<LogId>| {
            let header = Header { member_at: member_at.map(Into::into), ..header() };
            code(check_sender(&header, &own(), KnownSender { member: None, absent_at }))
        };
        assert_eq!(stranger(Some(at(3, 20)), Some(at(3, 19))), Some(RefusalCode::Removed));
        assert_eq!(stranger(Some(at(4, 20)), Some(at(3, 25))), Some(RefusalCode::Removed));
        // It joined by an entry that this node has not applied yet.
        assert_eq!(stranger(Some(at(3, 20)), Some(at(3, 21))), None);
        assert_eq!(stranger(Some(at(3, 20)), Some(at(4, 21))), None);
        // It is still catching up, or this node knows no membership.
        assert_eq!(stranger(Some(at(3, 20)), None), None);
        assert_eq!(stranger(None, Some(at(3, 19))), None);
    }

    #[test]
    fn a_folder_that_is_not_the_nodes_own_or_an_older_copy_takes_no_part() {
        let voted_for = LeaderId { term: 4, node_id: 1 };
        let own_folder = |header: Header| code(check_own_folder(&header, &own(), 10, voted_for));
        let counted = |counted_next, counted_term| Header { counted_next, counted_term, ..header() };
        assert_eq!(own_folder(header()), None);
        assert_eq!(own_folder(Header { to_folder: Bytes::new(), ..header() }), None);
        assert_eq!(own_folder(Header { to_folder: id(9), ..header() }), Some(RefusalCode::WrongFolder));
        assert_eq!(own_folder(counted(10, 4)), None);
        assert_eq!(own_folder(counted(11, 4)), Some(RefusalCode::FolderBehind));
        assert_eq!(own_folder(counted(11, 5)), Some(RefusalCode::FolderBehind));
        // A deposed leader counted entries that the next one had truncated.
        assert_eq!(own_folder(counted(11, 3)), None);
    }

    #[test]
    fn a_node_votes_and_leads_for_itself_only() {
        let vote = |node_id| Some(WireVote { term: 4, node_id, committed: true });
        assert_eq!(code(check_speaks_for_itself(&header(), vote(1).as_ref())), None);
        assert_eq!(code(check_speaks_for_itself(&header(), None)), None);
        assert_eq!(code(check_speaks_for_itself(&header(), vote(3).as_ref())), Some(RefusalCode::BadMessage));
    }
}
