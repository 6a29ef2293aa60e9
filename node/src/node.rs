//! What the services of one node share.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use saola_client::epoch::Epoch;
use saola_client::proto::Member;
use saola_raft::{Replica, Role};
use saola_storage::command::{Command, Outcome};
use saola_storage::store::Store;
use saola_storage::types::EpochId;

use crate::api::deadline::Deadline;
use crate::api::errors::{Reason, Refusal, WITNESS};
use crate::api::point::Point;
use crate::drill::Troubles;
use crate::keys::{Keys, Ring};
use crate::settings::Settings;

/// Who a node is by its settings; the addresses are those it listens on.
pub fn member(settings: &Settings) -> Member {
    Member {
        node_id: settings.node_id,
        name: settings.name.clone(),
        site: settings.site.clone(),
        role: settings.role as i32,
        peer_address: settings.peer.to_string(),
        client_address: settings.client.to_string(),
    }
}

/// Seconds until a moment, seconds since 1970; negative once it has passed.
pub fn expires_in_s(not_after_s: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    not_after_s.saturating_sub_unsigned(now)
}

/// One running node.
pub struct Node {
    replica: Replica,
    keys: Keys,
    member: Member,
    role: Role,
    started: Instant,
    certificate_not_after_s: i64,
    troubles: Troubles,
}

impl Node {
    /// Of a replica that has started.
    pub fn new(
        settings: &Settings,
        replica: Replica,
        keys: Keys,
        certificate_not_after_s: i64,
        troubles: Troubles,
    ) -> Node {
        // A promotion gives a learner a vote, a reinstatement gives a node another number.
        let (role, node_id) = (replica.claim().role, replica.claim().node_id);
        let member = Member { node_id, role: role as i32, ..member(settings) };
        Node { replica, keys, member, role, started: Instant::now(), certificate_not_after_s, troubles }
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.member.node_id
    }

    /// Who it is; the addresses are those it listens on.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Its part in the cluster.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Its part in Raft.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Its records.
    pub fn store(&self) -> &Arc<Store> {
        self.replica.store()
    }

    /// What a drill does to it.
    pub fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    /// Its site's key.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Its open data keys, in line with the key ring.
    pub fn ring(&self) -> Arc<Ring> {
        self.keys.follow(self.store())
    }

    /// Lineage of the cluster; number 0 before the node is part of one.
    pub fn epoch(&self) -> Epoch {
        let EpochId { number, plan } = self.replica.epoch();
        Epoch { number, plan }
    }

    /// Why the node cannot answer calls now, if so.
    pub fn not_ready(&self) -> Option<String> {
        let status = self.replica.status();
        if !status.adopted {
            return Some("waiting: the node is not part of a cluster yet".into());
        }
        if let Some(reason) = status.refused_by_peers {
            return Some(reason);
        }
        if status.leader.is_none() {
            return Some("no leader is known".into());
        }
        self.ring().sealed().map(|reason| format!("sealed: {reason}"))
    }

    /// Seconds since it started.
    pub fn uptime_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Seconds until its certificate ends; negative once it has.
    pub fn certificate_expires_in_s(&self) -> i64 {
        expires_in_s(self.certificate_not_after_s)
    }

    /// Refuses calls about records on a witness, and on a data node without its key.
    ///
    /// # Errors
    /// WITNESS or SEALED.
    pub fn check_serves_records(&self) -> Result<(), Refusal> {
        if self.role == Role::Witness {
            return Err(Refusal::plain(Reason::Witness, WITNESS.into()));
        }
        self.ring().check_open()
    }

    /// Proposes a command and waits for its outcome.
    ///
    /// # Errors
    /// Any of [`saola_raft::ProposeError`] as a refusal.
    pub async fn propose(&self, command: Command, deadline: Deadline) -> Result<Outcome, Refusal> {
        Ok(self.replica.propose(command, deadline.left()).await?)
    }

    /// A point at or after every write acknowledged before this call.
    ///
    /// # Errors
    /// Any of [`saola_raft::ReadError`] as a refusal.
    pub async fn read_point(&self, deadline: Deadline) -> Result<Point, Refusal> {
        let point = self.replica.read_point(deadline.left()).await?;
        Ok(Point::new(self, point, false))
    }
}
