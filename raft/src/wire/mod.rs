//! Peer messages (wire format version 1, prost). Tags are never reused.
//!
//! Every message carries or is preceded by a [`Header`]; a node answers a message whose header does not fit with a
//! [`Refusal`] that names the next step, and never lets it reach Raft (`admission`).
//!
//! - `header`: who sends to whom, refusals; `call`: single questions and answers;
//! - `log`: votes and entries; `snapshot`; `repair`: entries for a damaged log; `admin`: joining, leaving, handing over;
//! - `copy`: comparing and repairing copies of the records; `lineage`: epochs, and how one ends and another begins.

mod admin;
mod call;
mod copy;
mod header;
mod lineage;
mod log;
mod repair;
mod snapshot;

pub use admin::{Admin, AdminVerb, Adopt, DigestAt, Identity, Members, ReplaceWith};
pub use call::{Answer, Barrier, Nothing, PeerReply, PeerRequest, Question};
pub use copy::{CopyAsk, CopyState, CopyVerb};
pub use header::{Header, Refusal, RefusalCode, WIRE_VERSION};
pub use lineage::{Came, EpochBegan, GateSeen, LineageAsk, LineageVerb, ReinstateAs, Standing};
pub use log::{
    AppendReply, AppendRequest, AppendResult, Ballot, BallotReply, Flushed, TakeOver, TakeOverReply, WireEntry,
    WireLogId, WireVote,
};
pub use repair::{EntriesFrom, EntriesReply};
pub use snapshot::{FetchPart, FetchReply, FetchRequest, SnapshotOffer};

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;
    use saola_storage::types::LeaderId;

    use saola_storage::keyspace::epochs::ApproverList;
    use saola_storage::outline::Span;

    use super::*;
    use crate::admission::{KnownSender, check_caller, check_own_folder, check_sender, check_speaks_for_itself};
    use crate::convert::{place_in_log, raft_append, raft_append_result, raft_ballot, raft_ballot_reply, raft_vote};
    use crate::folder::NodeIdentity;
    use crate::member::{Member, MembershipRecord, Role, Seat, VoterSet, membership_from_record};
    use crate::transport::Caller;
    use crate::types::TokioRuntime;

    const VOTE: WireVote = WireVote { term: 4, node_id: 1, committed: true };
    const AT: WireLogId = WireLogId { term: 4, node_id: 1, index: 9 };

    fn id(byte: u8) -> Bytes {
        Bytes::copy_from_slice(&[byte; 16])
    }

    fn header() -> Header {
        Header { counted_next: 9, counted_term: 4, member_at: Some(AT), ..Header::of_a_voter() }
    }

    fn member() -> Member {
        Member { node_id: 1, name: "main-1".into(), role: Role::Voter as i32, folder_id: id(7), ..Member::default() }
    }

    fn append() -> AppendRequest {
        AppendRequest {
            header: Some(header()),
            vote: Some(VOTE),
            prev: Some(WireLogId { index: 8, ..AT }),
            entries: vec![WireEntry { log_id: Some(AT), payload: Bytes::from_static(&[0]) }],
            leader_commit: Some(AT),
            frontier_next: 9,
            needed_from: 1,
            quorum_age_ms: 3,
            collect_round: 1,
            collect_collection: 1,
            collect_below: 5,
            witness_keeps_from: 6,
            heard_answer: 7,
            acknowledged_age_ms: 8,
        }
    }

    fn offer() -> SnapshotOffer {
        let record = MembershipRecord {
            configs: vec![VoterSet { node_ids: vec![1] }],
            seats: vec![Seat { node_id: 1, member: Some(member()) }],
        };
        SnapshotOffer {
            vote: Some(VOTE),
            last: Some(AT),
            membership_at: Some(AT),
            membership: record.encode_to_vec().into(),
            full: true,
            sources: vec![member()],
            approvers: vec![ApproverList { set: None, at_index: 3 }],
        }
    }

    fn fetch() -> FetchRequest {
        FetchRequest {
            header: Some(header()),
            export_id: id(9),
            from_chunk: 3,
            at_least: Some(AT),
            outlined: true,
            spans: vec![Span { kind: 1, behind: id(1), last: id(2), known: id(3) }],
        }
    }

    fn parts() -> Vec<FetchPart> {
        vec![
            FetchPart::Refused(Refusal::new(RefusalCode::Busy, "later")),
            FetchPart::Began(id(9)),
            FetchPart::Chunk(Bytes::from_static(b"frame")),
            FetchPart::Gone(Nothing {}),
        ]
    }

    fn questions() -> Vec<Question> {
        let ballot = Ballot { vote: Some(VOTE), last: Some(AT), leadership_transfer: true };
        let add = Admin::Replace(ReplaceWith { node_id: 3, member: Some(member()) });
        vec![
            Question::Vote(ballot),
            Question::PreVote(ballot),
            Question::Append(append()),
            Question::TransferLeader(TakeOver { from_leader: Some(VOTE), to: 2, last: Some(AT) }),
            Question::Adopt(Adopt { cluster_id: id(1), epoch: 1, member: Some(member()), record: Bytes::new() }),
            Question::Digest(DigestAt { index: 9 }),
            Question::Admin(AdminVerb { verb: Some(add) }),
            Question::Greet(Nothing {}),
            Question::LastVote(Nothing {}),
            Question::Copy(CopyAsk { verb: Some(CopyVerb::At(DigestAt { index: 9 })) }),
            Question::OfferSnapshot(offer()),
            Question::Entries(EntriesFrom { from: 4, end: 9, max_bytes: 1 }),
            Question::Lineage(LineageAsk { verb: Some(LineageVerb::Promise(id(3))), record: id(4) }),
        ]
    }

    fn answers() -> Vec<Answer> {
        let result = Some(AppendResult::Flushed(Flushed { log_id: Some(AT) }));
        vec![
            Answer::Refused(Refusal::new(RefusalCode::Removed, "gone")),
            Answer::Ballot(BallotReply { vote: Some(VOTE), granted: true, last: Some(AT) }),
            Answer::Append(AppendReply { result, ..AppendReply::default() }),
            Answer::TakeOver(TakeOverReply { refused: "no".into(), vote: Some(VOTE), flushed: Some(AT) }),
            Answer::Barrier(Barrier { frontier_next: 9 }),
            Answer::LastVote(VOTE),
            Answer::Identity(Identity { member: Some(member()), boot_id: id(8), ..Identity::default() }),
            Answer::Members(Members { members: vec![member()] }),
            Answer::Copy(CopyState { sums: vec![1; 64].into(), bad: true, checked: vec![2; 8].into() }),
            Answer::Standing(Box::new(Standing { member: Some(member()), epoch: 2, ..Standing::default() })),
            Answer::Entries(EntriesReply {
                entries: append().entries,
                committed: Some(AT),
                vote: Some(VOTE),
                leads: true,
                purged: Some(AT),
                last: Some(AT),
                members_at: Some(AT),
                members: offer().membership,
                approvers: offer().approvers,
            }),
        ]
    }

    /// Encoded messages of all kinds that arrive on a connection.
    fn messages() -> Vec<Vec<u8>> {
        let mut all = vec![append().encode_to_vec(), fetch().encode_to_vec()];
        all.extend(parts().into_iter().map(|part| FetchReply::from(part).encode_to_vec()));
        let ask = |question| PeerRequest { header: Some(header()), question: Some(question) }.encode_to_vec();
        all.extend(questions().into_iter().map(ask));
        all.extend(answers().into_iter().map(|answer| PeerReply::from(answer).encode_to_vec()));
        all
    }

    fn check_all(header: &Header) {
        let own = NodeIdentity {
            cluster_id: [1; 16],
            epoch: 1,
            plan: 0,
            node_id: 2,
            folder_id: [2; 16],
            role: Role::Voter,
            site: "main".into(),
            name: "main-2".into(),
            group_id: 0,
        };
        let member = member();
        let _let_in = check_caller(header, &Caller::certified(vec!["main-1".into()]));
        for known in [
            KnownSender { member: Some(&member), absent_at: None },
            KnownSender { member: None, absent_at: Some(AT.into()) },
        ] {
            let _let_in = check_sender(header, &own, known);
        }
        let _let_in = check_own_folder(header, &own, 5, LeaderId { term: 4, node_id: 1 });
        let _let_in = check_speaks_for_itself(header, Some(&VOTE));
    }

    /// Takes bytes as each kind of message, as far as a peer's bytes get.
    fn receive(bytes: &[u8]) {
        let requests = PeerRequest::decode(bytes).ok();
        if let Some(header) = requests.as_ref().and_then(|request| request.header.as_ref()) {
            check_all(header);
        }
        match requests.and_then(|request| request.question) {
            Some(Question::Vote(ballot) | Question::PreVote(ballot)) => drop(raft_ballot::<TokioRuntime>(ballot)),
            Some(Question::Append(request)) => drop(raft_append::<TokioRuntime>(request)),
            Some(Question::OfferSnapshot(offer)) => {
                drop(MembershipRecord::decode(offer.membership).map(membership_from_record));
                drop(offer.last.map(place_in_log::<TokioRuntime>));
            }
            Some(Question::TransferLeader(ask)) => drop(raft_vote::<TokioRuntime>(ask.from_leader)),
            _ => {}
        }
        match PeerReply::decode(bytes).ok().and_then(|reply| reply.answer) {
            Some(Answer::Ballot(reply)) => drop(raft_ballot_reply::<TokioRuntime>(reply)),
            Some(Answer::Append(reply)) => drop(raft_append_result::<TokioRuntime>(reply.result)),
            Some(Answer::Refused(refusal)) => drop(refusal.kind()),
            _ => {}
        }
        if let Ok(request) = AppendRequest::decode(bytes) {
            request.header.as_ref().inspect(|header| check_all(header));
            drop(raft_append::<TokioRuntime>(request));
        }
        if let Ok(reply) = AppendReply::decode(bytes) {
            drop(raft_append_result::<TokioRuntime>(reply.result));
        }
        if let Ok(request) = FetchRequest::decode(bytes) {
            request.header.as_ref().inspect(|header| check_all(header));
        }
        drop(FetchReply::decode(bytes));
    }

    #[test]
    fn every_message_survives_its_encoding() {
        for question in questions() {
            let request = PeerRequest { header: Some(header()), question: Some(question) };
            assert_eq!(PeerRequest::decode(request.encode_to_vec().as_slice()).unwrap(), request);
        }
        for answer in answers() {
            let reply = PeerReply::from(answer);
            assert_eq!(PeerReply::decode(reply.encode_to_vec().as_slice()).unwrap(), reply);
        }
        assert_eq!(FetchRequest::decode(fetch().encode_to_vec().as_slice()).unwrap(), fetch());
        for part in parts() {
            let reply = FetchReply::from(part);
            assert_eq!(FetchReply::decode(reply.encode_to_vec().as_slice()).unwrap(), reply);
        }
    }

    proptest! {
        /// Bytes that almost are a message reach further than any others.
        #[test]
        fn damaged_messages_never_panic(
            message in proptest::sample::select(messages()),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            keep in any::<prop::sample::Index>(),
        ) {
            let mut message = message;
            for (at, byte) in damage {
                let at = at.index(message.len());
                message[at] = byte;
            }
            receive(&message);
            message.truncate(keep.index(message.len()) + 1);
            receive(&message);
        }

        #[test]
        fn messages_of_any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            receive(&bytes);
        }
    }
}
