//! A node of a side that was left behind by a forced promotion comes back: as another node of the cluster, with the records
//! that it has as far as they are the same.
//!
//! 1. The leader gives it a number and a folder id that nobody has had, and tells it who has the records of the epoch.
//! 2. The node applies what is left of its log, so that its rows have all that it ever took, writes into its folder who
//!    it is from now on, and starts anew, without a log: it promises and acknowledges nothing that the former node did.
//! 3. The leader makes it a member without a vote, so that it is let in. It pulls what its records lack; before they
//!    become those of the epoch, the writes that it alone has stand in an orphan bundle in its folder.
//! 4. Raft runs there, it catches up, and gets its vote as any node that is added.
//!
//! Each step does only what is left to do. A witness comes back the same way, without records.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use prost::Message;
use saola_storage::error::StoreError;
use saola_storage::failpoint::{Failpoint, reach};
use saola_storage::import::Shipped;
use saola_storage::log::Log;
use saola_storage::orphan::Head;
use saola_storage::promotion::{SignedPlan, epoch_id, is_same_plan};
use saola_storage::store::Store;
use saola_storage::types::{LogId, NodeId};

use super::admin::invalid;
use super::fetch::{Orphans, fetch_state};
use super::former::{Fork, fork};
use super::repair::{PATIENCE, read_log};
use super::{AdminError, InstantOf, Replica, Shared};
use crate::folder::{Lineage, NodeIdentity, Reinstating};
use crate::member::{Member, MembershipRecord, Seat};
use crate::types::{Runtime, Takes, detach};
use crate::wire::{Admin, EpochBegan, LineageVerb, Nothing, Refusal, RefusalCode, ReinstateAs, Standing};

/// The node may have a long tail to apply before it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(240);
/// It starts anew within this time.
const START_LIMIT: Duration = Duration::from_secs(60);
/// So often a node is told who it is to become, if its process or the connection ends each time.
const TELLS: u64 = 3;
/// Between two attempts to get the records.
const PAUSE: Duration = Duration::from_millis(500);
/// Folder of orphan bundles, in the data folder.
pub const ORPHANS: &str = "orphans";

impl<RT: Runtime> Replica<RT> {
    /// Has a former member come back; it is a member with its vote when this ends. Answers who it is now, and what came, as
    /// far as the node remembers. The leader goes on when the caller goes away; called again, it finishes what is left.
    ///
    /// # Errors
    /// It does not answer, is not fenced, or cannot come back; the message says what to do.
    pub async fn reinstate(&self, former: Member) -> Result<(Member, Option<Shipped>), AdminError> {
        let name = former.name.clone();
        let members = self.admin(Admin::Reinstate(former)).await?;
        let back = members.into_iter().find(|it| it.name == name);
        let back = back.ok_or_else(|| AdminError::Unknown(format!("{name} came back and was removed again")))?;
        // For people: a node that does not answer just now is back all the same.
        let came = self.stand(&back).await.ok().and_then(|standing| standing.came);
        Ok((back, came.map(|it| Shipped { bytes: it.bytes, of_bytes: it.of_bytes, orphans: it.orphans })))
    }

    /// Where this node keeps writes that it alone had when it came back.
    pub fn orphans_folder(&self) -> PathBuf {
        self.shared.folder.lock().path().join(ORPHANS)
    }

    pub(super) async fn reinstate_here(&self, former: Member) -> Result<(), AdminError> {
        let back = match self.back_as(&former).await? {
            Some(back) => {
                self.tell_who_is_there(&back).await;
                back
            }
            None => self.until_back(&former).await?,
        };
        self.until_it_can_join(&back).await;
        self.add_here(back).await
    }

    /// A node that has just started asks for its epoch first, and nobody may have it take part meanwhile.
    async fn until_it_can_join(&self, back: &Member) {
        let until = InstantOf::<RT>::now() + START_LIMIT;
        while InstantOf::<RT>::now() < until
            && self.stand(back).await.is_ok_and(|standing| !standing.runs && !standing.reinstating)
        {
            RT::sleep(PAUSE).await;
        }
    }

    /// Those that had the records when it began to come back may be gone.
    async fn tell_who_is_there(&self, back: &Member) {
        if !self.stand(back).await.is_ok_and(|standing| standing.reinstating) {
            return;
        }
        let told = match self.shared.reinstate_as(&[], back.node_id, back.folder_id.clone()) {
            Ok(ask) => self.have_within(back, LineageVerb::Reinstate(ask), ANSWER_LIMIT).await,
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::warn!("tell {} who has the records of this epoch: {error}", back.name);
        }
    }

    async fn stand(&self, former: &Member) -> Result<Standing, AdminError> {
        let answers = self.standings_of(std::slice::from_ref(former), LineageVerb::Stand(Nothing {})).await;
        let answer = answers.into_iter().next().map(|(_, answer)| answer);
        answer.unwrap_or_else(|| Err("it was not asked".into())).map_err(|why| {
            invalid(format!("{} does not answer ({why}): start it, and repeat the command", former.name))
        })
    }

    /// Who the node is now, if it has begun to come back.
    async fn back_as(&self, former: &Member) -> Result<Option<Member>, AdminError> {
        let is_back = |it: &Member| it.name == former.name && it.site == former.site;
        if let Some(known) = self.shared.members().into_iter().find(is_back) {
            return Ok(Some(known));
        }
        let standing = self.stand(former).await?;
        let own = self.shared.identity().map(|own| own.epoch_id()).unwrap_or_default();
        let theirs = epoch_id(standing.epoch, Some(&standing.record));
        let now = standing.member.unwrap_or_default();
        let is_this = theirs.number == own.number && !theirs.is_twin_of(own);
        let comes_back = now.node_id != former.node_id && now.name == former.name && is_this;
        Ok(comes_back.then(|| Member {
            node_id: now.node_id,
            folder_id: now.folder_id,
            role: now.role,
            demoted: false,
            ..former.clone()
        }))
    }

    /// Has it become another node, and waits until it says so.
    async fn until_back(&self, former: &Member) -> Result<Member, AdminError> {
        let ask = self.new_number_for(former).await?;
        let (mut tells_left, mut until) = (TELLS, InstantOf::<RT>::now() + START_LIMIT);
        loop {
            match self.back_as(former).await {
                Ok(Some(back)) => return Ok(back),
                // It answers, and is who it was.
                Ok(None) if tells_left > 0 => {
                    match self.have_within(former, LineageVerb::Reinstate(ask.clone()), ANSWER_LIMIT).await {
                        // Its answer may be lost with the process, which ends for the next one, or loses power before it has
                        // done anything.
                        Err(AdminError::PeerUnreachable { maybe_delivered: true, .. }) => tells_left -= 1,
                        told => {
                            told?;
                            tells_left = 0;
                        }
                    }
                    until = InstantOf::<RT>::now() + START_LIMIT;
                }
                Err(error) if InstantOf::<RT>::now() >= until => return Err(error),
                _ if InstantOf::<RT>::now() >= until => {
                    return Err(invalid(format!("{} has not started anew: see its log", former.name)));
                }
                _ => {}
            }
            RT::sleep(PAUSE).await;
        }
    }

    /// What the node is told: steps 1 and 2 at the node. However often it hears it, it becomes one node.
    async fn new_number_for(&self, former: &Member) -> Result<ReinstateAs, AdminError> {
        let shared = &self.shared;
        let standing = self.stand(former).await?;
        let folder_id: [u8; 16] = rand::RngExt::random(&mut RT::thread_rng());
        let folder_id = Bytes::copy_from_slice(&folder_id);
        let node_id = loop {
            let node_id = shared.next_node_id();
            if self.claim_id(node_id, folder_id.clone()).await? {
                break node_id;
            }
        };
        shared.reinstate_as(&standing.epochs, node_id, folder_id)
    }

    /// This node was left behind, and comes back as another one.
    pub(super) async fn begin_anew(&self, ask: ReinstateAs) -> Result<(), Refusal> {
        let shared = &self.shared;
        let refuse = |why: String| Err(Refusal::new(RefusalCode::Invalid, why));
        // Nobody whom it knows may be left to show it the record.
        self.meet(&ask.record).await;
        let _one_at_a_time = shared.lineage.lock().await;
        let lineage = shared.lineage();
        let own =
            shared.own_epoch().ok_or_else(|| Refusal::new(RefusalCode::NotAdopted, "this node has no cluster"))?;
        let (signed, plan) = super::promote::checked(&ask.record)?;
        let is_of_this = is_same_plan(&shared.record(), &ask.record);
        if let Some(known) = lineage.reinstating.clone().filter(|_| is_of_this) {
            // It is on its way: those that have the records may have changed.
            let members = ask.members.unwrap_or_default().encode_to_vec().into();
            let reinstating = Some(Reinstating { members, ..known });
            return shared.keep_in_folder(Lineage { reinstating, ..lineage });
        }
        let is_twin = epoch_id(plan.epoch, Some(&ask.record)).is_twin_of(own.epoch_id());
        if plan.epoch <= own.epoch && !is_twin {
            return refuse(format!("node {} is in epoch {} already", own.node_id, own.epoch));
        }
        if is_twin && lineage.fenced.is_none() {
            return refuse(format!(
                "{} goes on in {}, which another plan began: if that one is to give way, fence all its sites first, through \
                 one of its data nodes: `saola site fence {} --why TEXT --endpoint NODE`",
                own.name,
                own.epoch_id(),
                own.site
            ));
        }
        if lineage.fenced.is_none() {
            return refuse(format!("node {} is not fenced: it may take part in epoch {}", own.node_id, own.epoch));
        }
        if let Some(later) = latest_known(&lineage).filter(|later| *later > plan.epoch) {
            return refuse(format!(
                "node {} has heard of epoch {later}, and takes no part in epoch {} any more: reinstate it from a node that is \
                 in epoch {later}, or give that plan up with `saola dr abandon`",
                own.node_id, plan.epoch
            ));
        }
        if let Err(why) = shared.check_record(&signed, &plan).await {
            return refuse(format!("the record of epoch {}: {why}", plan.epoch));
        }
        let Ok(folder_id) = <[u8; 16]>::try_from(&ask.folder_id[..]) else {
            return refuse("a folder id has 16 bytes".into());
        };
        // On its way into an earlier epoch it had no log that counts.
        let committed_revision = match own.role.is_data() && lineage.reinstating.is_none() {
            true => self.apply_rest().await.map_err(|why| Refusal::new(RefusalCode::Invalid, why))?,
            false => shared.store.applied().revision,
        };
        let store_uuid = shared.store.view().info().map(|it| Bytes::copy_from_slice(&it.store_uuid));
        let head = Head {
            cluster_id: Bytes::copy_from_slice(&own.cluster_id),
            store_uuid: store_uuid.unwrap_or_default(),
            epoch: own.epoch,
            left_by_epoch: ask.left_by_epoch,
            node: own.name,
            node_id: own.node_id,
            site: own.site,
            base: ask.base,
            base_revision: ask.base_revision,
            committed_revision,
            ..Head::default()
        };
        // What it alone has is still of the epoch before, as long as its rows are.
        let rows_of = shared.store.epochs().pop().map(|epoch| epoch.record).unwrap_or_default();
        let have_come = is_same_plan(&rows_of, &shared.record());
        let before = lineage.reinstating.and_then(|it| Head::decode(it.left_behind).ok());
        let head = before.filter(|_| !have_come).unwrap_or(head);
        let reinstating = Reinstating {
            members: ask.members.unwrap_or_default().encode_to_vec().into(),
            left_behind: head.encode_to_vec().into(),
        };
        let new = (ask.node_id, folder_id);
        let begun = shared.folder.lock().reinstate(new, plan.epoch, ask.record, reinstating);
        begun.map_err(|error| Refusal::new(RefusalCode::Stopped, error.to_string()))?;
        reach(Failpoint::ReinstateBegun);
        tracing::warn!(node = ask.node_id, "this node comes back as node {} in epoch {}", ask.node_id, plan.epoch);
        shared.starts_anew.send_replace(true);
        Ok(())
    }

    /// Applies what the log has beyond the rows, and answers up to which revision it was known to be committed.
    async fn apply_rest(&self) -> Result<u64, String> {
        let shared = &self.shared;
        let held = || shared.store.held().map(|held| held.why.clone());
        if let Some(why) = self.unusable().or_else(held) {
            return Err(format!(
                "node {} has records that cannot be used ({why}), so nobody can say which writes it alone has: keep its data \
                 folder for inquiry, and add it with an empty one under a new id (saola cluster add)",
                shared.claim.node_id
            ));
        }
        let (log, store) = (shared.log.clone(), shared.store.clone());
        let apply = move || {
            let state = log.state();
            let committed = apply_up_to::<RT>(&store, &log, state.committed)?;
            apply_up_to::<RT>(&store, &log, state.last)?;
            store.flush().map(|_| committed)
        };
        RT::disk(Takes::Long, apply)
            .await
            .map_err(|error| format!("what is left of the log of node {}: {error}", shared.claim.node_id))
    }

    /// Steps 3 and 4 at the node: gets the records of its epoch, then takes part.
    pub(super) fn come_back(&self, identity: NodeIdentity) {
        let replica = self.clone();
        let shared = &self.shared;
        shared.set_waiting_for(format!("node {} comes back in epoch {}", identity.node_id, identity.epoch));
        detach::<RT>(async move {
            let shared = &replica.shared;
            while !shared.has_stopped() && shared.refused.lock().is_none() {
                match replica.get_records(&identity).await {
                    Ok(()) => return replica.take_part_again(&identity).await,
                    Err(why) => shared.set_waiting_for(format!(
                        "node {} comes back in epoch {} and waits to be let in and given its records, as `saola dr \
                         reinstate {}` does ({why})",
                        identity.node_id, identity.epoch, identity.site
                    )),
                }
                RT::sleep(PAUSE).await;
            }
        });
    }

    async fn get_records(&self, identity: &NodeIdentity) -> Result<(), String> {
        let shared = &self.shared;
        let lineage = shared.lineage();
        let Some(reinstating) = lineage.reinstating.clone() else { return Ok(()) };
        let record = shared.record();
        let has_them = || {
            let known = shared.store.epochs().into_iter().find(|it| it.number == identity.epoch);
            known.is_some_and(|it| is_same_plan(&it.record, &record))
        };
        if identity.role.is_data() && !has_them() {
            let head = Head::decode(reinstating.left_behind).map_err(|error| error.to_string())?;
            self.pull_difference(&Orphans { folder: self.orphans_folder(), head }).await?;
            if !has_them() {
                return Err(format!("the records that came are not of epoch {}", identity.epoch));
            }
        }
        reach(Failpoint::DifferenceTaken);
        let _one_at_a_time = shared.lineage.lock().await;
        if shared.refused.lock().is_some() {
            return Err("another epoch has begun meanwhile".into());
        }
        let kept = shared.keep_in_folder(Lineage { reinstating: None, ..shared.lineage() });
        kept.map_err(|refusal| refusal.message)?;
        if let Err(error) = shared.folder.lock().remove_aside() {
            tracing::warn!("remove the former log, which nobody needs any more: {error}");
        }
        Ok(())
    }

    async fn pull_difference(&self, orphans: &Orphans) -> Result<(), String> {
        let (shared, mut reasons) = (&self.shared, Vec::new());
        for source in self.sound_copies().await? {
            shared.copy.known.lock().repairing_from = Some(source.node_id);
            let fetched = fetch_state(shared, &source, None, PATIENCE, Some(orphans)).await;
            shared.copy.known.lock().repairing_from = None;
            let import = match fetched {
                Ok(import) => import,
                Err(error) => {
                    reasons.push(error.in_full());
                    continue;
                }
            };
            let shipped = import.shipped();
            match self.take_state(import, &source.name).await {
                Ok(()) => {
                    *shared.shipped.lock() = Some(shipped);
                    tracing::info!(
                        from = source.name,
                        bytes = shipped.bytes,
                        of_bytes = shipped.of_bytes,
                        orphans = shipped.orphans,
                        "the records of this epoch have come"
                    );
                    return Ok(());
                }
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("; "))
    }
}

/// The latest epoch that a node has heard of by an approved plan that may have begun it.
fn latest_known(lineage: &Lineage) -> Option<u64> {
    let fence = lineage.fenced.as_ref().and_then(|fence| fence.record.clone());
    let fence = fence.and_then(|record| SignedPlan::from_bytes(&record).ok()).map(|(_, plan)| plan.epoch);
    lineage.outbid.iter().chain(&lineage.promised).map(|promise| promise.epoch).chain(fence).max()
}

/// Applies the log up to an entry; answers the revision after it.
fn apply_up_to<RT: Runtime>(store: &Store, log: &Log, end: Option<LogId>) -> Result<u64, StoreError> {
    let Some(LogId { index: end, .. }) = end else { return Ok(store.applied().revision) };
    loop {
        let next = store.applied().log_id.map_or(0, |applied| applied.index + 1);
        // A log of which nothing was purged may begin anywhere.
        let Some(from) = (next..=end).find(|index| log.log_id_at(*index).is_some()) else {
            return Ok(store.applied().revision);
        };
        store.apply(read_log::<RT>(log, from, end)?)?;
    }
}

impl<RT: Runtime> Shared<RT> {
    /// What a node is told that comes back as this one, and is in these epochs.
    fn reinstate_as(
        &self,
        epochs: &[EpochBegan],
        node_id: NodeId,
        folder_id: Bytes,
    ) -> Result<ReinstateAs, AdminError> {
        let record = self.store.epochs().last().map(|epoch| epoch.record.clone());
        let record =
            record.ok_or_else(|| invalid("no site was promoted by force here: there is nobody to reinstate"))?;
        let Fork { epoch: left_by_epoch, base, revision: base_revision } = fork(&self.chain(), epochs);
        let seats = self.members().into_iter().map(|it| Seat { node_id: it.node_id, member: Some(it) }).collect();
        let members = Some(MembershipRecord { configs: Vec::new(), seats });
        Ok(ReinstateAs { record, node_id, folder_id, members, base, base_revision, left_by_epoch })
    }

    /// A number that no node has had.
    fn next_node_id(&self) -> NodeId {
        let used = self.store.view().info().and_then(|info| info.node_ids.last().copied()).unwrap_or(0);
        let members = self.members().into_iter().map(|it| it.node_id).max().unwrap_or(0);
        used.max(members) + 1
    }

    /// Who has the records that a node waits for which comes back.
    pub(super) fn members_while_away(&self) -> Option<Vec<Member>> {
        let members = self.folder.lock().lineage().reinstating.as_ref()?.members.clone();
        let record = MembershipRecord::decode(members).ok()?;
        Some(record.seats.into_iter().filter_map(|seat| seat.member).collect())
    }

    /// The number that those know this node by who do not know yet that it has come back.
    pub(super) fn former_id(&self) -> Option<NodeId> {
        self.folder.lock().lineage().numbered.map(|it| it.before)
    }

    /// What came when this node came back, since it was started.
    pub fn shipped(&self) -> Option<Shipped> {
        *self.shipped.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::{Fence, Promise};

    fn plan(epoch: u64) -> Bytes {
        use saola_storage::promotion::{FORMAT, Plan};
        let member = Member { node_id: 4, ..Member::default() };
        let (cluster_id, members) = (Bytes::from_static(&[1; 16]), vec![member]);
        let plan = Plan { format: FORMAT, cluster_id, epoch, base_node: 4, members, ..Plan::default() };
        SignedPlan { plan: plan.encode_to_vec().into(), approvals: Vec::new() }.to_bytes()
    }

    #[test]
    fn whatever_it_was_fenced_or_has_promised_for_outweighs_an_earlier_epoch() {
        let promise = |epoch| Promise { epoch, plan: plan(epoch) };
        let fenced = |record| Some(Fence { why: "why".into(), record });
        assert_eq!(latest_known(&Lineage::default()), None);
        assert_eq!(latest_known(&Lineage { fenced: fenced(None), ..Lineage::default() }), None, "by an operator");
        let by_record = Lineage { fenced: fenced(Some(plan(3))), ..Lineage::default() };
        assert_eq!(latest_known(&by_record), Some(3));
        let outbid = Lineage { promised: Some(promise(4)), outbid: vec![promise(2)], ..by_record };
        assert_eq!(latest_known(&outbid), Some(4));
        assert_eq!(latest_known(&Lineage { outbid: vec![promise(5)], ..outbid }), Some(5), "it may have begun");
    }
}
