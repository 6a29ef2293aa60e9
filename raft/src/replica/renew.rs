//! A start on records that cannot be used: another data node's whole state comes first, then Raft. When no node has one
//! to give, the own records are read through once more: what is whole after all is used again.
//!
//! The log is sound, so nothing is forgotten: votes, and all entries behind the state that comes. But a node that cannot
//! apply must not lead, and openraft applies before it does anything else. So this node answers its peers who it is and
//! takes no part until it has records: it does not vote, acknowledge, serve, or send its records. What comes must fit
//! the log ([`fit`]); what it makes of the log is durable before the records are switched, so that a crash at any point
//! leaves either records that cannot be used, or a log and records that belong together.

use std::collections::BTreeMap;

use openraft::storage::RaftLogStorage;
use saola_storage::error::StoreError;
use saola_storage::import::Import;
use saola_storage::log::LogState;
use saola_storage::store::SecondLook;
use saola_storage::types::{LogId, NodeId, Vote};

use super::Replica;
use super::fetch::fetch_state;
use super::repair::{PATIENCE, PAUSE};
use super::start::StartError;
use crate::folder::NodeIdentity;
use crate::log_store::LogStore;
use crate::types::{Runtime, Takes, detach, log_id_to, vote_to};

/// So many rounds go by before the own records are read once more: the others may only be starting.
const FIRST_LOOK: u32 = 8;
/// Bytes that are read of them between two rounds.
const LOOK_BYTES: usize = 256 << 20;

/// What keeps disks and network busy for minutes is tried in these rounds only: less and less often, at last every ten
/// minutes.
fn is_due(round: u32) -> bool {
    round.is_power_of_two() || round.is_multiple_of(120)
}

/// What the log needs before a received state may take its place beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fit {
    /// Save this vote: whoever wrote the last received entry was elected.
    vote: Option<Vote>,
    /// Remove all behind this entry, none: everything. It was never committed.
    cut: Option<Option<LogId>>,
}

/// Decides whether a state that ends at `received` goes with a log; `at` finds the entry at an index of it.
fn fit(own_id: NodeId, received: LogId, log: &LogState, at: impl Fn(u64) -> Option<LogId>) -> Result<Fit, String> {
    let index = received.index;
    let voted = log.vote.map(|vote| vote.leader);
    if received.leader.node_id == own_id && voted < Some(received.leader) {
        return Err(format!(
            "this node led when {received} was written, and its log knows nothing of it: an older copy of its folder was \
             put back, so it could vote twice; replace this node"
        ));
    }
    if let Some(purged) = log.last_purged.filter(|purged| purged.index > index) {
        return Err(format!("they end at index {index}, and this node's log begins behind index {}", purged.index));
    }
    let other = at(index).filter(|own| *own != received);
    // Of two entries at one index the newer leader's is the committed one; nothing follows the older one.
    let contradicts = |own: &LogId| *own > received || log.committed.is_some_and(|committed| committed.index >= index);
    let beyond = log.last.filter(|last| last.index < index && *last > received);
    if let Some(own) = other.filter(contradicts).or(beyond) {
        return Err(format!(
            "they end at {received}, where this node's log has {own}: they are of another history, keep this node's folder \
             for inquiry and replace it"
        ));
    }
    let before = || index.checked_sub(1).and_then(&at).max(log.last_purged);
    let elected = Vote { leader: received.leader, committed: true };
    Ok(Fit { vote: (voted < Some(received.leader)).then_some(elected), cut: other.map(|_| before()) })
}

impl<RT: Runtime> Replica<RT> {
    /// Why Raft cannot run on this node's records, if so.
    pub(super) fn unusable(&self) -> Option<String> {
        let shared = &self.shared;
        let applied = shared.store.applied().log_id;
        let behind = |purged: LogId| {
            let ends = applied.map_or("nothing has been applied".into(), |applied| format!("they end at {applied}"));
            format!("{ends}, and the log begins behind {purged}: an older copy was put back, or they were removed")
        };
        let purged = shared.log.state().last_purged.filter(|_| shared.claim.role.is_data());
        shared.store.ruined().or_else(|| purged.filter(|purged| Some(*purged) > applied).map(behind))
    }

    /// Takes another node's records, or its own again, then runs Raft. Until then the status says what it waits for.
    pub(super) fn renew_first(&self, identity: Option<NodeIdentity>, why: String) -> Result<(), StartError> {
        let shared = &self.shared;
        let own = shared.claim.node_id;
        let path = shared.folder.lock().path().join("db");
        let Some(identity) = identity else { return Err(StartError::Ruined { path, why }) };
        let others = shared.members().into_iter().any(|it| it.role_value().is_data() && it.node_id != own);
        let next = if others { "takes those of another data node" } else { "reads all of them once more" };
        shared.copy.known.lock().bad = Some(why.clone());
        shared.set_waiting_for(format!("node {own} takes no part: its records cannot be used ({why}), and it {next}"));
        let replica = self.clone();
        detach::<RT>(async move {
            match replica.renew(&why, others).await {
                Ok(from) => {
                    tracing::info!("the records have come from {from}; this node takes part again");
                    replica.take_part_again(&identity).await;
                }
                Err(again) => {
                    let refused = StartError::Ruined { path, why: format!("{why}; read once more: {again}") };
                    replica.gives_up(&refused);
                }
            }
        });
        Ok(())
    }

    /// Asks until there are records, and reads the own ones meanwhile once nobody has given any for a while; answers from
    /// where they come. Without others it ends with what is wrong with the own ones.
    async fn renew(&self, why: &str, others: bool) -> Result<String, String> {
        let (shared, copy) = (&self.shared, &self.shared.copy);
        let (mut unfit, mut look, mut round) = (BTreeMap::new(), None, 1);
        loop {
            if is_due(round) && look.is_none() {
                unfit.clear();
            }
            let asked = match others {
                true => self.renew_once(&mut unfit).await,
                false => Err("there is no other data node".to_owned()),
            };
            copy.known.lock().repairing_from = None;
            let mut reason = match asked {
                Ok(from) => return Ok(from),
                Err(reason) => reason,
            };
            if look.is_some() || !others || round >= FIRST_LOOK && is_due(round) {
                match self.look_on(look.take()).await {
                    Ok(None) => return Ok("this node's own disk, which gives them whole again".to_owned()),
                    Ok(reading) => {
                        look = reading;
                        continue;
                    }
                    Err(damage) if !others => return Err(damage),
                    Err(damage) => reason = format!("{reason}; its own, read once more: {damage}"),
                }
            }
            shared.set_waiting_for(format!(
                "node {} takes no part: its records cannot be used ({why}), and it waits for those of another data \
                 node: {reason}; start or mend the others; if no node has sound records restore a backup",
                shared.claim.node_id
            ));
            RT::sleep(PAUSE).await;
            round += 1;
        }
    }

    /// Reads the own records on, from their beginning if there is no look at them yet. None: they are used again.
    async fn look_on(&self, look: Option<SecondLook>) -> Result<Option<SecondLook>, String> {
        let (store, begins) = (self.shared.store.clone(), self.shared.log.state().last_purged);
        let step = move || {
            let mut look = match look {
                Some(look) => look,
                None => store.look_again(begins)?,
            };
            match look.step(LOOK_BYTES)? {
                true => look.finish().map(|_applied| None),
                false => Ok(Some(look)),
            }
        };
        RT::disk(Takes::Long, step).await.map_err(|error: StoreError| error.to_string())
    }

    /// Asks each sound copy but those whose whole state has come in vain, `unfit`, each with the reason.
    async fn renew_once(&self, unfit: &mut BTreeMap<NodeId, String>) -> Result<String, String> {
        let (shared, mut reasons) = (&self.shared, Vec::new());
        for source in self.sound_copies().await? {
            if let Some(reason) = unfit.get(&source.node_id) {
                reasons.push(reason.clone());
                continue;
            }
            shared.copy.known.lock().repairing_from = Some(source.node_id);
            let at_least = shared.log.state().last_purged;
            let import = match fetch_state(shared, &source, at_least, PATIENCE, None).await {
                Ok(import) => import,
                Err(error) => {
                    reasons.push(error.in_full());
                    continue;
                }
            };
            match self.take_state(import, &source.name).await {
                Ok(()) => {
                    shared.copy.known.lock().repairs += 1;
                    return Ok(format!("node {} ({})", source.node_id, source.name));
                }
                Err(reason) => {
                    // What has come would keep its room until the next flush.
                    let store = shared.store.clone();
                    RT::disk(Takes::Long, move || store.discard_unfinished()).await;
                    reasons.push(reason.clone());
                    unfit.insert(source.node_id, reason);
                }
            }
        }
        Err(reasons.join("; "))
    }

    pub(super) async fn take_state(&self, import: Import, name: &str) -> Result<(), String> {
        let shared = &self.shared;
        let received = import.manifest().and_then(|manifest| manifest.log_id).map(LogId::from);
        let received = received.ok_or_else(|| format!("the records of {name} are empty"))?;
        let fits = fit(shared.claim.node_id, received, &shared.log.state(), |index| shared.log.log_id_at(index));
        let Fit { vote, cut } = fits.map_err(|why| format!("the records of {name} do not fit: {why}"))?;
        self.may_run()?;
        let mut log = LogStore::<RT>::new(shared.log.clone());
        let not_written = |error: std::io::Error| format!("this node's log: {error}");
        if let Some(vote) = vote {
            log.save_vote(&vote_to::<RT>(&vote)).await.map_err(not_written)?;
        }
        if let Some(after) = cut {
            log.truncate_after(after.as_ref().map(log_id_to::<RT>)).await.map_err(not_written)?;
        }
        let taken = RT::disk(Takes::Long, move || import.finish()).await;
        taken.map(drop).map_err(|error| format!("what {name} sent was not taken: {error}"))
    }

    /// A peer may have said meanwhile that this folder must never run again, as one that was put back.
    fn may_run(&self) -> Result<(), String> {
        self.shared.refused.lock().clone().map_or(Ok(()), Err)
    }

    pub(super) async fn take_part_again(&self, identity: &NodeIdentity) {
        let shared = &self.shared;
        let _one_at_a_time = shared.admin.lock().await;
        shared.copy.known.lock().bad = None;
        *shared.waiting_for.lock() = None;
        if self.may_run().is_err() {
            return;
        }
        if let Err(error) = self.take_part(identity.clone()).await {
            self.gives_up(&error);
        }
        if let (Err(_), Some(raft)) = (self.may_run(), shared.raft.get())
            && let Err(error) = raft.shutdown().await
        {
            tracing::error!("stop Raft: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use saola_storage::types::LeaderId;

    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId { leader: LeaderId { term, node_id: 1 }, index }
    }

    /// Entries 11 to 20 of term 3 and 21 to 25 of term 4; 22 is known to be committed, the vote is of term 5.
    fn judged(received: LogId) -> Result<Fit, String> {
        let vote = Some(Vote { leader: LeaderId { term: 5, node_id: 2 }, committed: false });
        let (last_purged, last, committed) = (Some(id(2, 10)), Some(id(4, 25)), Some(id(4, 22)));
        let at = |index| match index {
            11..=20 => Some(id(3, index)),
            21..=25 => Some(id(4, index)),
            _ => None,
        };
        fit(3, received, &LogState { last_purged, last, vote, committed }, at)
    }

    #[test]
    fn a_state_within_the_log_goes_with_it_as_it_is() {
        for received in [id(2, 10), id(3, 11), id(4, 22), id(4, 25)] {
            assert_eq!(judged(received), Ok(Fit::default()), "{received}");
        }
    }

    #[test]
    fn a_state_from_before_the_log_begins_is_of_no_use() {
        assert!(judged(id(2, 9)).unwrap_err().contains("begins behind index 10"));
    }

    #[test]
    fn a_state_beyond_the_log_goes_with_it_and_its_leader_counts_as_elected() {
        assert_eq!(judged(id(5, 30)), Ok(Fit::default()), "another candidate of that term comes later");
        let elected = Vote { leader: LeaderId { term: 6, node_id: 1 }, committed: true };
        assert_eq!(judged(id(6, 30)), Ok(Fit { vote: Some(elected), cut: None }));
    }

    #[test]
    fn entries_that_were_never_committed_give_way() {
        assert_eq!(judged(id(5, 24)), Ok(Fit { vote: None, cut: Some(Some(id(4, 23))) }));
        let log = LogState { last_purged: Some(id(2, 10)), last: Some(id(3, 11)), ..LogState::default() };
        let cut = fit(3, id(4, 11), &log, |index| (index == 11).then(|| id(3, 11))).unwrap().cut;
        assert_eq!(cut, Some(Some(id(2, 10))), "nothing below is left but what was purged");
    }

    #[test]
    fn a_folder_that_forgot_that_its_node_led_must_not_vote_again() {
        let log = LogState { vote: Some(Vote { leader: id(3, 0).leader, committed: true }), ..LogState::default() };
        let led = id(4, 30);
        assert!(fit(led.leader.node_id, led, &log, |_| None).unwrap_err().contains("could vote twice"));
        assert!(fit(led.leader.node_id + 1, led, &log, |_| None).is_ok(), "another node led then");
        let knows = LogState { vote: Some(Vote { leader: led.leader, committed: true }), ..LogState::default() };
        assert!(fit(led.leader.node_id, led, &knows, |_| None).is_ok());
    }

    #[test]
    fn a_state_that_contradicts_what_is_committed_here_is_refused() {
        for received in [id(5, 22), id(3, 24), id(3, 26)] {
            assert!(judged(received).unwrap_err().contains("another history"), "{received}");
        }
    }
}
