//! Between the contract's messages and the values of `storage` and `raft`.

use bytes::Bytes;
use saola_client::proto::{self, Header, WriteResponse};
use saola_raft as raft;
use saola_storage::command::{self, Decision, ExpectKind, KeyStyle, Outcome};
use saola_storage::failover::{Failover, Policy};
use saola_storage::goal::Goal;
use saola_storage::protection::{Mode, Protection, Timers, WaitsFor};
use saola_storage::store::{Collection, StoredVersion, VersionOp};

use super::errors::{Reason, Refusal};
use super::limits;
use crate::node::Node;

/// Checks and converts a request id.
///
/// # Errors
/// INVALID_ARGUMENT names the field.
pub fn request_id(id: Option<proto::RequestId>) -> Result<command::RequestId, Refusal> {
    let next = "send 16 random bytes per client and count its calls from 1; the client library does";
    let Some(id) = id else {
        return Err(Refusal::invalid("the call has no request id, so a retry could take effect twice".into(), next));
    };
    if id.client.len() != 16 {
        return Err(Refusal::invalid(format!("request.client has {} bytes instead of 16", id.client.len()), next));
    }
    if id.sequence == 0 || id.done_below > id.sequence {
        return Err(Refusal::invalid(
            format!("request.sequence {} with done_below {} is no call in progress", id.sequence, id.done_below),
            next,
        ));
    }
    Ok(command::RequestId { client: id.client, since: id.since, sequence: id.sequence, done_below: id.done_below })
}

/// Converts a condition; missing means none.
pub fn expect(expect: Option<proto::Expect>) -> Option<command::Expect> {
    let (kind, generation) = match expect?.kind? {
        proto::expect::Kind::Any(_) => (ExpectKind::Any, 0),
        proto::expect::Kind::Absent(_) => (ExpectKind::Absent, 0),
        proto::expect::Kind::Generation(generation) => (ExpectKind::Generation, generation),
    };
    Some(command::Expect { kind: kind as i32, generation })
}

/// Checks and converts provenance.
///
/// # Errors
/// INVALID_ARGUMENT names the field that is too long.
pub fn provenance(provenance: Option<proto::Provenance>) -> Result<Option<command::Provenance>, Refusal> {
    let Some(proto::Provenance { source_system, actor, reason }) = provenance else { return Ok(None) };
    limits::texts(&[
        ("provenance.source_system", &source_system),
        ("provenance.actor", &actor),
        ("provenance.reason", &reason),
    ])?;
    Ok(Some(command::Provenance { source_system, actor, reason }))
}

/// The answer to a write.
///
/// # Errors
/// The refusal that the outcome amounts to.
pub fn written(node: &Node, collection: &str, outcome: Outcome) -> Result<WriteResponse, Refusal> {
    match outcome.decision {
        Some(Decision::Written(written)) => Ok(WriteResponse {
            header: Some(header(node, outcome.revision, outcome.index)),
            generation: written.generation,
            revision: outcome.revision,
            recorded_at_us: outcome.recorded_at_us,
            replayed: outcome.replayed,
        }),
        other => Err(refused(other, collection)),
    }
}

/// Any decision that is not what the call hoped for.
pub fn refused(decision: Option<Decision>, collection: &str) -> Refusal {
    match decision {
        Some(Decision::Conflict(there)) => Refusal::conflict(there),
        Some(Decision::NotFound(_)) => Refusal::plain(Reason::NotFound, "there is no live record of that id".into()),
        Some(Decision::UnknownCollection(_)) => Refusal::unknown_collection(collection),
        Some(Decision::CollectionExists(_)) => {
            Refusal::plain(Reason::CollectionExists, format!("there is a collection {collection:?} already"))
        }
        Some(Decision::OnHold(hold)) => Refusal::invalid(
            format!("collection {collection:?} is on hold already: {}", hold.reason),
            "release that hold first (saola collection release)",
        ),
        Some(Decision::RequestExpired(_)) => Refusal::plain(
            Reason::RequestExpired,
            "the cluster no longer remembers this client's calls, so it cannot tell whether this one took effect"
                .into(),
        ),
        other => Refusal::internal(format!("a command was answered with {other:?}, which does not fit it")),
    }
}

/// Header of an answer that is complete up to `revision` and `log_index` at least.
pub fn header(node: &Node, revision: u64, log_index: u64) -> Header {
    let (status, epoch) = (node.replica().stale_point(), node.epoch());
    Header {
        revision: status.as_ref().map_or(revision, |s| s.revision.max(revision)),
        epoch: epoch.number,
        epoch_plan: epoch.plan,
        node: node.id(),
        log_index: status.as_ref().map_or(log_index, |s| s.index.max(log_index)),
    }
}

/// Clear metadata of a version; its value is converted apart.
pub fn version_info(collection: &str, version: StoredVersion) -> proto::VersionInfo {
    let op = match version.op {
        VersionOp::Put => proto::Op::Put,
        VersionOp::Delete => proto::Op::Delete,
        VersionOp::Undelete => proto::Op::Undelete,
        VersionOp::Rollback => proto::Op::Rollback,
    };
    proto::VersionInfo {
        collection: collection.into(),
        id: version.id,
        generation: version.generation,
        revision: version.revision,
        recorded_at_us: version.recorded_at_us,
        op: op.into(),
        content_type: version.content_type,
        provenance: version.provenance.map(|p| proto::Provenance {
            source_system: p.source_system,
            actor: p.actor,
            reason: p.reason,
        }),
        digest: version.digest.to_vec().into(),
        chain: version.chain.to_vec().into(),
        value_bytes: version.value_bytes,
    }
}

/// A collection for people.
pub fn collection(collection: Collection) -> proto::CollectionInfo {
    let key_style = match collection.key_style {
        KeyStyle::Ordered => proto::KeyStyle::Ordered,
        KeyStyle::Bytes => proto::KeyStyle::Bytes,
    };
    proto::CollectionInfo {
        name: collection.name,
        incarnation: collection.incarnation.to_vec().into(),
        max_value_bytes: collection.max_value_bytes,
        key_style: key_style.into(),
        owner: collection.owner,
        label: collection.label,
        created_revision: collection.created_revision,
        retention: Some(proto::Retention {
            max_generations: collection.retention.max_generations,
            max_age_ms: collection.retention.max_age_ms,
            hold: collection.retention.hold,
        }),
        oldest_revision: collection.collected_below,
    }
}

/// A member as Raft keeps it, without the folder that is not known yet.
pub fn member_to_raft(member: proto::Member) -> raft::Member {
    // The contract's numbers for roles are Raft's; unspecified ones were refused before.
    raft::Member {
        node_id: member.node_id,
        name: member.name,
        site: member.site,
        role: member.role,
        peer_address: member.peer_address,
        client_address: member.client_address,
        folder_id: bytes::Bytes::new(),
        demoted: false,
    }
}

/// A member for people.
pub fn member_from_raft(member: raft::Member) -> proto::Member {
    proto::Member {
        node_id: member.node_id,
        name: member.name,
        site: member.site,
        role: member.role,
        peer_address: member.peer_address,
        client_address: member.client_address,
    }
}

/// A site of the site map.
pub fn site_to_storage(site: proto::Site) -> command::Site {
    command::Site { name: site.name, kek_public: site.kek_public }
}

/// A site for people.
pub fn site_from_storage(site: command::Site) -> proto::Site {
    proto::Site { name: site.name, kek_public: site.kek_public }
}

/// Checks and converts what an acknowledgement waits for.
///
/// # Errors
/// INVALID_ARGUMENT: there is no mode, or one that this release does not know.
pub fn protection_to_storage(protection: Option<proto::Protection>) -> Result<Protection, Refusal> {
    let protection = protection.unwrap_or_default();
    let mode = match protection.mode() {
        proto::ProtectionMode::MaximumPerformance => Mode::MaximumPerformance,
        proto::ProtectionMode::MaximumAvailability => Mode::MaximumAvailability,
        proto::ProtectionMode::MaximumProtection => Mode::MaximumProtection,
        proto::ProtectionMode::Unspecified => {
            let why = format!("there is no protection mode {}", protection.mode);
            let next = "send 1 (maximum performance), 2 (maximum availability) or 3 (maximum protection)";
            return Err(Refusal::invalid(why, next));
        }
    };
    let proto::Protection { acks, degrade_ms, return_ms, parity_ms, shrink_ms, .. } = protection;
    Ok(Protection { mode, acks, timers: Timers { degrade_ms, return_ms, parity_ms, shrink_ms } })
}

/// What an acknowledgement waits for.
pub fn protection_from_storage(protection: Protection) -> proto::Protection {
    let mode = match protection.mode {
        Mode::MaximumPerformance => proto::ProtectionMode::MaximumPerformance,
        Mode::MaximumAvailability => proto::ProtectionMode::MaximumAvailability,
        Mode::MaximumProtection => proto::ProtectionMode::MaximumProtection,
    };
    let Timers { degrade_ms, return_ms, parity_ms, shrink_ms } = protection.timers;
    proto::Protection { mode: mode.into(), acks: protection.acks, degrade_ms, return_ms, parity_ms, shrink_ms }
}

/// How the sites stand to each other, as a node knows it; none on a witness.
pub fn protection_status(status: &raft::ReplicaStatus) -> Option<proto::ProtectionStatus> {
    let raft::ProtectionStatus { replicated, limits, return_after_ms, open_in_quarter_ms, losses, seen } =
        status.protection.as_ref()?;
    let raft::protection::Limits { degrade_ms, return_ms, parity_ms, shrink_ms, .. } = *limits;
    let rule = Protection { timers: Timers { degrade_ms, return_ms, parity_ms, shrink_ms }, ..replicated.rule };
    Some(proto::ProtectionStatus {
        rule: Some(protection_from_storage(rule)),
        gate_closed: replicated.is_closed(),
        waits_for_witness: replicated.waits_for == WaitsFor::Witness,
        witness_has_all: seen.is_some_and(|seen| seen.witness_stands_in),
        needs_witness: seen.is_some_and(|seen| seen.needs_witness),
        needs_two_sites: seen.is_some_and(|seen| seen.needs_two_sites),
        witness_acknowledged_ago_ms: seen.and_then(|seen| seen.witness_acknowledged_ms).unwrap_or(0),
        state_id: Bytes::copy_from_slice(&replicated.id),
        since_us: replicated.since_us,
        open_in_quarter_ms: *open_in_quarter_ms,
        losses_last_hour: *losses,
        state: seen.map_or_else(String::new, |seen| seen.state.as_str().to_owned()),
        state_for_ms: seen.map_or(0, |seen| seen.for_ms),
        acknowledged_ago_ms: seen.map_or(0, |seen| seen.acknowledged_ms),
        missing_elsewhere: seen.and_then(|seen| seen.missing).map(|missing| {
            let raft::Missing { entries, revisions, ms } = missing;
            proto::Missing { entries, revisions, ms }
        }),
        has_quorum: seen.is_some_and(|seen| seen.has_quorum),
        return_after_ms: *return_after_ms,
        witness_released: seen.is_some_and(|seen| seen.is_released),
        in_force: seen.is_some_and(|seen| seen.is_in_force),
        waiting_revisions: seen.map_or(0, |_| status.revision.saturating_sub(status.frontier_revision)),
    })
}

/// Members whose role votes and who have no vote: until a change is complete one that it gives does not help.
pub fn without_vote(status: &raft::ReplicaStatus) -> Vec<proto::WithoutVote> {
    let votes = |id: u64| status.voter_sets.iter().all(|set| set.contains(&id));
    let gets_it = |id: u64| status.voter_sets.last().is_some_and(|set| set.contains(&id));
    let without = status.members.iter().filter(|it| it.role_value().votes() && !votes(it.node_id));
    let why = |it: &raft::Member| match () {
        () if gets_it(it.node_id) => "it gets one just now",
        () if it.demoted => {
            "its site was lost and its vote taken; it gets it back by itself once it answers, its site is waited for again \
             and it has everything; replace it if it is gone for good (saola cluster replace)"
        }
        () => "it has not caught up since it was added; if it is not being added just now, repeat that command",
    };
    let said = |it: &raft::Member| proto::WithoutVote { node_id: it.node_id, why: why(it).into(), taken: it.demoted };
    without.map(said).collect()
}

/// On the leader: how long each member takes to answer.
pub fn links(status: &raft::ReplicaStatus) -> Vec<proto::LinkStatus> {
    let leads = status.state == "leader";
    let of = status.round_trips.iter().filter(|_| leads);
    of.map(|(node_id, trip)| proto::LinkStatus {
        node_id: *node_id,
        p50_us: trip.p50_us,
        p99_us: trip.p99_us,
        samples: trip.samples,
        clock_ahead_us: status.clocks_ahead_us.get(node_id).copied().unwrap_or(0),
    })
    .collect()
}

/// Timers in force at a node.
pub fn timers(status: &raft::ReplicaStatus) -> proto::Timers {
    let raft::Timing { heartbeat_ms, election_min_ms, election_max_ms, degrade_ms } = status.timing;
    proto::Timers { heartbeat_ms, election_min_ms, election_max_ms, degrade_ms }
}

/// Checks and converts what is done when a site is lost.
///
/// # Errors
/// INVALID_ARGUMENT: there is no policy, or one that this release does not know.
pub fn failover_to_storage(failover: Option<proto::Failover>) -> Result<Failover, Refusal> {
    let failover = failover.unwrap_or_default();
    let policy = match failover.policy() {
        proto::FailoverPolicy::Automatic => Policy::Automatic,
        proto::FailoverPolicy::ObserveOnly => Policy::ObserveOnly,
        proto::FailoverPolicy::Unspecified => {
            let why = format!("there is no failover policy {}", failover.policy);
            return Err(Refusal::invalid(why, "send 1 (automatic) or 2 (observe only)"));
        }
    };
    let proto::Failover { limit, home, returns, .. } = failover;
    Ok(Failover { policy, limit, home, returns })
}

/// Converts what a cluster is declared to survive.
///
/// # Errors
/// INVALID_ARGUMENT: this release does not know it.
pub fn goal_to_storage(survive: i32) -> Result<Option<Goal>, Refusal> {
    match proto::SurvivalGoal::try_from(survive) {
        Ok(proto::SurvivalGoal::Unspecified) => Ok(None),
        Ok(proto::SurvivalGoal::Node) => Ok(Some(Goal::Node)),
        Ok(proto::SurvivalGoal::Site) => Ok(Some(Goal::Site)),
        Err(_) => {
            Err(Refusal::invalid(format!("there is no survival goal {survive}"), "send 0 (none), 1 (node) or 2 (site)"))
        }
    }
}

/// What the cluster is declared to survive, as a node knows it; none on a witness.
pub fn goal_status(status: &raft::ReplicaStatus) -> Option<proto::GoalStatus> {
    let raft::GoalStatus { goal, broken } = status.goal.clone()?;
    let survive = match goal {
        None => proto::SurvivalGoal::Unspecified,
        Some(Goal::Node) => proto::SurvivalGoal::Node,
        Some(Goal::Site) => proto::SurvivalGoal::Site,
    };
    Some(proto::GoalStatus { survive: survive.into(), broken: broken.unwrap_or_default() })
}

/// What is done when a site is lost, as a node knows it; none on a witness.
pub fn failover_status(status: &raft::ReplicaStatus) -> Option<proto::FailoverStatus> {
    let raft::FailoverStatus { replicated, recent, held, held_back } = status.failover.clone()?;
    let Failover { policy, limit, home, returns } = replicated.rule;
    let policy = match policy {
        Policy::Automatic => proto::FailoverPolicy::Automatic,
        Policy::ObserveOnly => proto::FailoverPolicy::ObserveOnly,
    };
    let held = held.map_or_else(String::new, |held| held.to_string());
    Some(proto::FailoverStatus {
        rule: Some(proto::Failover { policy: policy.into(), limit, home, returns }),
        done_us: replicated.done_us,
        away: replicated.away,
        led_from: replicated.led_from,
        recent: recent as u32,
        held,
        held_back: held_back.unwrap_or_default(),
    })
}

/// What a node knows of its copy of the records.
pub fn copy_status(scrub: &saola_raft::ScrubStatus) -> saola_client::proto::CopyStatus {
    let (read, total) = scrub.running.unwrap_or_default();
    let last = scrub.last.as_ref();
    saola_client::proto::CopyStatus {
        scrub_running: scrub.running.is_some(),
        scrub_read_bytes: read,
        scrub_total_bytes: total,
        scrub_passes: scrub.passes,
        damaged_rows: scrub.damaged_rows,
        repairs: scrub.repairs,
        last_rows: last.map_or(0, |last| last.rows),
        last_bytes: last.map_or(0, |last| last.bytes),
        bad: scrub.bad,
        quarantined_buckets: scrub.quarantined_buckets,
        repairing_from: scrub.repairing_from.unwrap_or(0),
        alarm: scrub.alarm.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_one_number_in_contract_and_membership() {
        for (contract, raft) in [
            (proto::Role::Voter, raft::Role::Voter),
            (proto::Role::Learner, raft::Role::Learner),
            (proto::Role::Witness, raft::Role::Witness),
        ] {
            assert_eq!(contract as i32, raft as i32);
        }
    }

    #[test]
    fn a_request_id_that_cannot_protect_a_retry_is_refused() {
        let good = proto::RequestId { client: vec![1; 16].into(), since: 1, sequence: 2, done_below: 2 };
        assert!(request_id(Some(good.clone())).is_ok());
        for bad in [
            None,
            Some(proto::RequestId { client: vec![1; 15].into(), ..good.clone() }),
            Some(proto::RequestId { sequence: 0, done_below: 0, ..good.clone() }),
            Some(proto::RequestId { done_below: 3, ..good }),
        ] {
            assert_eq!(request_id(bad).expect_err("refused").reason(), Reason::InvalidArgument);
        }
    }
}
