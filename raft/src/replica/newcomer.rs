//! What is checked before a node joins: its id, its name and address, its data folder.

use bytes::Bytes;
use saola_storage::command::{ClaimNodeId, Command, Decision, Op};
use saola_storage::types::NodeId;

use super::admin::invalid;
use super::changes::COMMIT_LIMIT;
use super::{AdminError, Replica};
use crate::member::Member;
use crate::types::Runtime;
use crate::wire::Identity;

impl<RT: Runtime> Replica<RT> {
    /// False: another folder has the id, or had it.
    pub(super) async fn claim_id(&self, node_id: NodeId, folder_id: Bytes) -> Result<bool, AdminError> {
        let claim = ClaimNodeId { node_id, folder_id };
        let command = Command { request: None, op: Some(Op::ClaimNodeId(claim)) };
        match self.propose(command, COMMIT_LIMIT).await {
            Ok(outcome) => Ok(matches!(outcome.decision, Some(Decision::Done(_)))),
            Err(error) if error.certainly_not_applied() => {
                Err(invalid(format!("{error}; repeating the command finishes what is left")))
            }
            Err(error) => Err(AdminError::Unknown(error.to_string())),
        }
    }

    /// The id of a node that is gone is nobody's any more, not even that of the folder that had it.
    pub(super) async fn give_up_id(&self, node_id: NodeId) -> Result<(), AdminError> {
        self.claim_id(node_id, Bytes::new()).await.map(|_| ())
    }

    pub(super) fn was_used(&self, node_id: NodeId) -> bool {
        self.shared.store.view().info().is_some_and(|info| info.node_ids.contains(&node_id))
    }

    pub(super) fn used(&self, node_id: NodeId) -> AdminError {
        let info = self.shared.store.view().info();
        let free = info.and_then(|info| info.node_ids.last().copied()).map_or(1, |highest| highest + 1);
        invalid(format!(
            "node id {node_id} has been used in this cluster, and node ids are never used twice: take {free}"
        ))
    }

    /// The id of a node that is no member is unused, or was claimed for the very folder that the node runs on.
    pub(super) fn check_free(&self, member: &Member) -> Result<(), AdminError> {
        let info = self.shared.store.view().info();
        let Some(info) = info.filter(|info| info.node_ids.contains(&member.node_id)) else { return Ok(()) };
        let own: Option<&Bytes> = info.claims.get(&member.node_id);
        match !member.folder_id.is_empty() && own == Some(&member.folder_id) {
            true => Ok(()),
            false => Err(self.used(member.node_id)),
        }
    }

    pub(super) fn check_new(&self, member: &Member) -> Result<(), AdminError> {
        let info = self.shared.store.view().info();
        // Without a claim nobody may have it, so there is no need for the node to answer.
        if info
            .is_some_and(|info| info.node_ids.contains(&member.node_id) && !info.claims.contains_key(&member.node_id))
        {
            return Err(self.used(member.node_id));
        }
        for known in self.shared.members() {
            let what = if known.name == member.name {
                format!("name {}", member.name)
            } else if known.peer_address == member.peer_address {
                format!("peer address {}", member.peer_address)
            } else {
                continue;
            };
            return Err(invalid(format!(
                "{what} belongs to node {} ({}) of this cluster: choose another",
                known.node_id, known.name
            )));
        }
        Ok(())
    }

    /// A member is asked for again: it must be the same, and run on the folder that it joined with.
    pub(super) async fn check_same(&self, known: &Member, again: Member) -> Result<(), AdminError> {
        if *known != (Member { folder_id: known.folder_id.clone(), demoted: known.demoted, ..again }) {
            return Err(invalid(format!(
                "node {} is a member already, as {} {} at site {}, peer address {}, client address {}: repeat the \
                 command with these, or take another id",
                known.node_id,
                known.role_value().as_str(),
                known.name,
                known.site,
                known.peer_address,
                known.client_address
            )));
        }
        if known.node_id == self.shared.claim.node_id || self.is_here(known, &self.identify(known).await?) {
            return Ok(());
        }
        Err(invalid(format!(
            "node {} ({}) runs on another data folder than the one it joined with: put its own folder back, or remove \
             it with `saola cluster remove {}` and add it under a new id",
            known.node_id, known.name, known.name
        )))
    }

    /// Whether what answered at a member's address is that member.
    pub(super) fn is_here(&self, member: &Member, answer: &Identity) -> bool {
        let own = self.shared.identity();
        own.is_some_and(|own| answer.cluster_id == own.cluster_id[..])
            && answer.member.as_ref().is_some_and(|found| found.folder_id == member.folder_id)
    }

    /// Whether it votes and stores, too. A node that is refused goes on answering, so that one can see why.
    pub(super) fn takes_part(&self, member: &Member, answer: &Identity) -> bool {
        self.is_here(member, answer) && answer.runs
    }
}
