//! Making a cluster of fresh nodes.
//!
//! Fresh nodes are adopted, Raft gets its first voters, the first command says what the store is, learners join. Cut
//! short at any step, the same call finishes it: before Raft has anything all steps begin anew, later the first command
//! is proposed again, and apply takes only the first.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use saola_storage::command::{Bootstrap, Command, Op, Site};
use saola_storage::failover::Failover;
use saola_storage::types::NodeId;

use super::admin::{invalid, to_its_end};
use super::protection::{first_rule, new_id};
use super::{AdminError, Replica};
use crate::member::{Member, Role};
use crate::types::Runtime;
use crate::wire::{Admin, Adopt};

/// The first command may take so long, an election included.
const FIRST_COMMAND_LIMIT: Duration = Duration::from_secs(15);

/// What a cluster is to be.
struct Plan {
    cluster_name: String,
    sites: Vec<Site>,
    members: Vec<Member>,
    entropy: [u8; 32],
}

impl Plan {
    fn new_cluster_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&self.entropy[..16]);
        id
    }

    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.role_value().votes())
    }

    /// Leadership belongs where the first voter is that keeps records.
    fn home(&self) -> String {
        let first = self.members.iter().find(|it| it.role_value() == Role::Voter);
        first.map(|it| it.site.clone()).unwrap_or_default()
    }

    /// Whether the store is the one that is to be made. Sites may have come since.
    fn fits(&self, cluster_name: &str, sites: &[Site]) -> bool {
        cluster_name == self.cluster_name && self.sites.iter().all(|site| sites.contains(site))
    }
}

/// The same node, whatever folder it runs on.
fn same_node(one: &Member, other: &Member) -> bool {
    *one == Member { folder_id: one.folder_id.clone(), ..other.clone() }
}

impl<RT: Runtime> Replica<RT> {
    /// Makes a cluster of fresh nodes, this one among them. `entropy` is random: cluster id and store uuid.
    /// Answers the cluster id. It ends by itself when the caller goes away. Called again for the same cluster it
    /// finishes what is left; [`AdminError::AlreadyMade`] says that there is nothing left, or that this node belongs to
    /// another.
    pub async fn init(
        &self,
        cluster_name: &str,
        sites: Vec<Site>,
        members: Vec<Member>,
        entropy: [u8; 32],
    ) -> Result<[u8; 16], AdminError> {
        let replica = self.clone();
        let plan = Plan { cluster_name: cluster_name.to_owned(), sites, members, entropy };
        to_its_end::<RT, _>(async move { replica.init_here(plan).await }).await
    }

    async fn init_here(&self, mut plan: Plan) -> Result<[u8; 16], AdminError> {
        let shared = &self.shared;
        let own_id = shared.claim.node_id;
        if !plan.members.iter().any(|member| member.node_id == own_id) {
            return Err(invalid(format!(
                "the topology does not contain node {own_id}, which was asked to make the cluster"
            )));
        }
        let one_at_a_time = shared.admin.lock().await;
        let mut made = shared.store.view().info().is_some();
        if shared.describe_self().fresh {
            self.found(&mut plan).await?;
        }
        self.check_founded(&plan).await?;
        let cluster_id = shared.identity().map(|own| own.cluster_id).ok_or_else(|| self.other_cluster())?;
        if shared.store.view().info().is_none() {
            self.write_first_command(&plan, cluster_id).await?;
        }
        match shared.store.view().info() {
            Some(info) if plan.fits(&info.cluster_name, &info.sites) => {}
            _ => return Err(self.other_cluster()),
        }
        drop(one_at_a_time);

        let members = shared.members();
        for learner in plan.members.into_iter().filter(|member| !member.role_value().votes()) {
            if !members.iter().any(|member| same_node(member, &learner)) {
                made = false;
                self.admin(Admin::Add(learner)).await?;
            }
        }
        match made {
            true => Err(AdminError::AlreadyMade(format!(
                "cluster {} is made already, of these nodes, and nothing is left to do; `saola status` shows it",
                plan.cluster_name
            ))),
            false => Ok(cluster_id),
        }
    }

    /// Adopts all nodes, this one last, and starts Raft with the first voters.
    async fn found(&self, plan: &mut Plan) -> Result<(), AdminError> {
        let shared = &self.shared;
        let own_id = shared.claim.node_id;
        // The others may have voted for this node before a power cut took what it had: they belong to the same cluster.
        let cluster_id = shared.identity().map_or_else(|| plan.new_cluster_id(), |own| own.cluster_id);
        for member in &mut plan.members {
            let identity = match member.node_id == own_id {
                true => shared.describe_self(),
                false => self.identify(member).await?,
            };
            let same = identity.cluster_id == cluster_id[..] && identity.last.is_none();
            if !identity.fresh && !same {
                return Err(invalid(format!(
                    "node {} ({}) at {} is not fresh: it belongs to a cluster already; if that is this one, and \
                     `saola cluster init` was cut short, repeat it through that node, else give it an empty data folder",
                    member.node_id, member.name, member.peer_address
                )));
            }
            member.folder_id = identity.member.map(|own| own.folder_id).unwrap_or_default();
        }
        let (own, others): (Vec<&Member>, Vec<&Member>) =
            plan.members.iter().partition(|member| member.node_id == own_id);
        for member in others {
            self.ask_to_adopt(member, &cluster_id, 1).await?;
        }
        for member in own {
            let (cluster_id, member) = (Bytes::copy_from_slice(&cluster_id), Some(member.clone()));
            let adopt = Adopt { cluster_id, epoch: 1, member, record: Bytes::new() };
            self.adopt_here(adopt).await.map_err(AdminError::from)?;
        }
        let voters: BTreeMap<NodeId, Member> = plan.voters().map(|member| (member.node_id, member.clone())).collect();
        let raft = shared.raft().ok_or_else(|| invalid("Raft does not run on this node"))?;
        raft.initialize(voters).await.map_err(|error| invalid(format!("initialize Raft: {error}")))
    }

    /// Raft's voters are those of the plan, and later changes have kept them.
    async fn check_founded(&self, plan: &Plan) -> Result<(), AdminError> {
        let shared = &self.shared;
        // Another node may have begun, and this one be only about to hear of it.
        self.within(FIRST_COMMAND_LIMIT, |shared| !shared.members().is_empty()).await;
        let members = shared.members();
        match plan.voters().all(|voter| members.iter().any(|member| same_node(member, voter))) {
            true => Ok(()),
            false => Err(self.other_cluster()),
        }
    }

    async fn write_first_command(&self, plan: &Plan, cluster_id: [u8; 16]) -> Result<(), AdminError> {
        let bootstrap = Bootstrap {
            store_uuid: Bytes::copy_from_slice(&plan.entropy[16..]),
            cluster_name: plan.cluster_name.clone(),
            sites: plan.sites.clone(),
            cluster_id: Bytes::copy_from_slice(&cluster_id),
            node_ids: plan.voters().map(|voter| voter.node_id).collect(),
            protection: Some(first_rule(&plan.members, &self.shared.timing).to_command(new_id::<RT>())),
            failover: Some(Failover { home: plan.home(), ..Failover::default() }.to_command()),
        };
        let command = Command { request: None, op: Some(Op::Bootstrap(bootstrap)) };
        let outcome = self
            .propose(command, FIRST_COMMAND_LIMIT)
            .await
            .map_err(|error| AdminError::Unknown(format!("write the cluster's first entry: {error}")))?;
        // Whoever's was first: the store is there, and soon here.
        if RT::timeout(FIRST_COMMAND_LIMIT, self.shared.applied(outcome.index)).await.is_err() {
            return Err(AdminError::Unknown("this node has not applied the cluster's first entry in time".into()));
        }
        Ok(())
    }

    fn other_cluster(&self) -> AdminError {
        AdminError::AlreadyMade(format!(
            "node {} is part of a cluster already, which is not the one of this topology; `saola status` shows it",
            self.shared.claim.node_id
        ))
    }
}
