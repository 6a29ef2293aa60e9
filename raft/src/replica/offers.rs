//! Offers of a state: the leader says who has it, the receiver pulls it and has Raft install it.
//!
//! A node pulls one state at a time, on a task of its own: an offer that comes again joins the pull under way, and an
//! offer whose connection is cut does not end it.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::storage::{Snapshot, SnapshotMeta};
use openraft::type_config::alias::SnapshotMetaOf;
use parking_lot::Mutex;
use prost::Message;
use saola_storage::epoch::Approvers;
use saola_storage::failpoint::{Failpoint, reach};
use saola_storage::import::Import;
use saola_storage::types::{LogId, Vote};
use tokio::sync::watch;

use super::exports::KEPT;
use super::fetch::fetch_state;
use super::{RaftOf, Shared};
use crate::convert::{place_in_log, raft_vote};
use crate::member::{Member, MembershipRecord, membership_from_record};
use crate::state_machine::SnapshotBody;
use crate::transport::Caller;
use crate::types::{Runtime, TypeConfig, detach, log_id_from, vote_from, vote_to};
use crate::wire::{BallotReply, Header, Refusal, RefusalCode, SnapshotOffer};

/// A source that has sent nothing for so long is left for the next one.
const NEXT_AFTER: Duration = Duration::from_secs(10);
/// The last source is waited for as long as it keeps an export: nobody else is left.
const LAST_AFTER: Duration = KEPT;

/// What a leader knows of a member that could send its records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) member: &'a Member,
    /// Highest index that it has flushed.
    pub(crate) matched: Option<u64>,
    /// It has answered lately.
    pub(crate) live: bool,
    /// Its disk is below its mark.
    pub(crate) low: bool,
}

/// Who should send the records up to `offered` to `receiver`, the first to ask first: data nodes that have those
/// entries, are live and have room, those at the receiver's site first; the leader has other work, and comes last.
pub(crate) fn choose_sources(
    receiver: &Member,
    leader: &Member,
    offered: u64,
    candidates: &[Candidate<'_>],
) -> Vec<Member> {
    let fit = |one: &&Candidate<'_>| {
        let other = ![receiver.node_id, leader.node_id].contains(&one.member.node_id);
        other && one.member.role_value().is_data() && one.live && !one.low && one.matched >= Some(offered)
    };
    let mut sources: Vec<Member> = candidates.iter().filter(fit).map(|one| one.member.clone()).collect();
    sources.sort_by_key(|member| (member.site != receiver.site, member.node_id));
    sources.push(leader.clone());
    sources
}

/// What came of a pull.
#[derive(Clone, Debug)]
enum Outcome {
    /// Raft has answered with this vote about a state that reaches this entry.
    Answered {
        vote: Vote,
        reached: LogId,
    },
    Refused(Refusal),
}

/// The newest offer, and the end of the pull that it began or joined.
struct UnderWay {
    newest: Offered,
    ended: watch::Receiver<Option<Outcome>>,
}

/// An offer that was let in.
#[derive(Clone)]
struct Offered {
    header: Header,
    caller: Caller,
    vote: Vote,
    last: LogId,
    sources: Vec<Member>,
}

/// The pull under way on this node, if any.
#[derive(Default)]
pub(crate) struct Offers(Mutex<Option<UnderWay>>);

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::BadMessage, message)
}

impl<RT: Runtime> Shared<RT> {
    /// Takes an offer that was let in, and answers once what is offered is installed.
    pub(crate) async fn take_offer(
        self: &Arc<Self>,
        header: Header,
        caller: Caller,
        raft: &RaftOf<RT>,
        offer: SnapshotOffer,
    ) -> Result<BallotReply, Refusal> {
        let is_data = self.role().is_data();
        if offer.full != is_data {
            return Err(bad(format!(
                "snapshot {} records offered to a node that keeps {}",
                if offer.full { "with" } else { "without" },
                if is_data { "records" } else { "log ids only" }
            )));
        }
        let vote = vote_from::<RT>(&raft_vote::<RT>(offer.vote)?);
        let last = offer.last.map(place_in_log::<RT>).transpose()?;
        if !is_data {
            let record = MembershipRecord::decode(offer.membership).map_err(|e| bad(format!("membership: {e}")))?;
            let membership = membership_from_record(record).map_err(bad)?;
            let membership_at = offer.membership_at.map(place_in_log::<RT>).transpose()?;
            let last_membership = openraft::StoredMembership::new(membership_at, membership);
            let meta = SnapshotMeta { last_log_id: last, last_membership };
            let approvers = offer.approvers.into_iter().map(Approvers::from).collect();
            return self.install(raft, vote, meta, SnapshotBody::LogIdsOnly(approvers)).await.map(reply);
        }
        let last = last.as_ref().map(log_id_from::<RT>).ok_or_else(|| bad("snapshot that reaches no entry"))?;
        if self.store.applied().log_id >= Some(last) {
            // The answer to an earlier offer was lost.
            return Ok(reply(self.log.state().vote.unwrap_or_default()));
        }
        reach(Failpoint::SnapshotOffered);
        let mut ended = self.join_pull(Offered { header, caller, vote, last, sources: offer.sources });
        let outcome = ended.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        match outcome {
            Some(Outcome::Answered { vote, reached }) if reached >= last => Ok(reply(vote)),
            Some(Outcome::Answered { reached, .. }) => Err(Refusal::new(
                RefusalCode::Busy,
                format!("the records that were being received end at {reached}, offered was {last}: offer again"),
            )),
            Some(Outcome::Refused(refusal)) => Err(refusal),
            None => Err(Refusal::new(RefusalCode::Stopped, "this node stops")),
        }
    }

    fn join_pull(self: &Arc<Self>, offered: Offered) -> watch::Receiver<Option<Outcome>> {
        let mut under_way = self.offers.0.lock();
        if let Some(UnderWay { newest, ended }) = &mut *under_way {
            *newest = offered;
            return ended.clone();
        }
        let (end, ended) = watch::channel(None);
        *under_way = Some(UnderWay { newest: offered.clone(), ended: ended.clone() });
        drop(under_way);
        let shared = self.clone();
        detach::<RT>(async move {
            let outcome = shared.pull(offered).await.unwrap_or_else(Outcome::Refused);
            *shared.offers.0.lock() = None;
            end.send_replace(Some(outcome));
        });
        ended
    }

    async fn pull(self: &Arc<Self>, offered: Offered) -> Result<Outcome, Refusal> {
        let import = self.fetch_from_any(&offered).await?;
        let (meta, snapshot) = SnapshotBody::received::<RT>(import).map_err(bad)?;
        let reached = meta.last_log_id.as_ref().map(log_id_from::<RT>).ok_or_else(|| bad("an empty state came"))?;
        let newest = self.offers.0.lock().as_ref().map_or(offered, |under_way| under_way.newest.clone());
        // Again: a transfer takes long enough for the leader to be removed meanwhile.
        let raft = self.admit(&newest.header, &newest.caller).await?;
        if reached < newest.last {
            let message = format!("the records that came end at {reached}, before {}: offer again", newest.last);
            return Err(Refusal::new(RefusalCode::Busy, message));
        }
        // What was received was applied, so committed, so its leader was elected; it may be newer than the one that
        // offered, and Raft takes no snapshot from a leader older than its entries.
        let vote = newest.vote.max(Vote { leader: reached.leader, committed: true });
        reach(Failpoint::SnapshotReceived);
        let vote = self.install(&raft, vote, meta, snapshot).await?;
        Ok(Outcome::Answered { vote, reached })
    }

    async fn fetch_from_any(self: &Arc<Self>, offered: &Offered) -> Result<Import, Refusal> {
        let mut reasons = Vec::new();
        for (place, source) in offered.sources.iter().enumerate() {
            let patience = if place + 1 == offered.sources.len() { LAST_AFTER } else { NEXT_AFTER };
            match fetch_state(self, source, Some(offered.last), patience, None).await {
                Ok(import) => {
                    tracing::info!(from = source.name, "all records have been received");
                    return Ok(import);
                }
                Err(error) => {
                    let reason = error.in_full();
                    tracing::warn!("{reason}");
                    reasons.push(reason);
                }
            }
        }
        Err(Refusal::new(RefusalCode::Busy, format!("no records came: {}", reasons.join("; "))))
    }

    async fn install(
        &self,
        raft: &RaftOf<RT>,
        vote: Vote,
        meta: SnapshotMetaOf<TypeConfig<RT>>,
        snapshot: SnapshotBody,
    ) -> Result<Vote, Refusal> {
        let answered = raft.install_full_snapshot(vote_to::<RT>(&vote), Snapshot { meta, snapshot }).await;
        let answered = answered.map_err(|error| Refusal::new(RefusalCode::Stopped, error.to_string()))?;
        reach(Failpoint::SnapshotInstalled);
        Ok(vote_from::<RT>(&answered.vote))
    }

    /// Who should send its records to `receiver`: see [`choose_sources`].
    pub(crate) fn sources_for(&self, receiver: &Member, offered: u64) -> Vec<Member> {
        let members = self.members();
        let matched = self.matched().unwrap_or_default();
        let candidates: Vec<Candidate<'_>> = members
            .iter()
            .map(|member| {
                let answer = self.links.last_answer(member.node_id);
                let live = answer.is_some_and(|(at, _)| at.elapsed() <= self.stall_limit());
                let low = answer.is_some_and(|(_, room)| room.is_low());
                Candidate { member, matched: matched.get(&member.node_id).copied().flatten(), live, low }
            })
            .collect();
        let own = self.member(self.claim.node_id).unwrap_or_else(|| self.own_member());
        choose_sources(receiver, &own, offered, &candidates)
    }
}

fn reply(vote: Vote) -> BallotReply {
    BallotReply { vote: Some(vote.into()), granted: true, last: None }
}

#[cfg(test)]
mod tests {
    use saola_storage::types::NodeId;

    use super::*;
    use crate::member::Role;

    fn member(node_id: NodeId, site: &str, role: Role) -> Member {
        Member { node_id, site: site.into(), role: role as i32, ..Member::default() }
    }

    #[test]
    fn records_come_from_a_fit_follower_nearby_and_from_the_leader_last() {
        let (receiver, leader) = (member(9, "dr", Role::Voter), member(1, "main", Role::Voter));
        let members = [
            leader.clone(),
            member(2, "main", Role::Voter),
            member(3, "dr", Role::Learner),
            member(4, "dr", Role::Voter),
            member(5, "dr", Role::Witness),
            receiver.clone(),
        ];
        let sources = |spoil: &dyn Fn(&mut Candidate<'_>)| {
            let mut candidates: Vec<Candidate<'_>> =
                members.iter().map(|member| Candidate { member, matched: Some(50), live: true, low: false }).collect();
            candidates.iter_mut().for_each(spoil);
            let sources = choose_sources(&receiver, &leader, 50, &candidates);
            sources.iter().map(|source| source.node_id).collect::<Vec<_>>()
        };
        assert_eq!(sources(&|_| {}), [3, 4, 2, 1]);
        assert_eq!(sources(&|one| one.live = one.member.node_id != 3), [4, 2, 1]);
        assert_eq!(sources(&|one| one.low = one.member.site == "dr"), [2, 1]);
        assert_eq!(sources(&|one| one.matched = Some(49)), [1], "the leader has what it offers");
        assert_eq!(sources(&|one| one.matched = None), [1]);
    }
}
