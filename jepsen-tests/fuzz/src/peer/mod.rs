//! Messages from a node of the cluster to a running replica, and its answers to the replica's own messages.
//!
//! The replica is node 1 of two voters, in simulated time. Mode bit 0: headers are put right, as a member's are, so that
//! the messages reach Raft. The first byte of each part says what it is:
//!
//! | byte | part |
//! |---|---|
//! | 0 | a question, `PeerRequest` |
//! | 1 | an `AppendRequest`; those that follow one another are one stream |
//! | 2 | a `FetchRequest` |
//! | 6 | a `FetchReply`; those up to one without a part are the answer to the next fetch of the replica |
//! | 3 | `PeerReply`, the answer to the next question that the replica asks |
//! | 4 | `AppendReply`, the answer to the next append that the replica sends |
//! | 5 | time passes: 10 ms for each bit that is set in the next byte |

pub mod decode;
mod node;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use saola_raft::Member;
use saola_raft::sim;
use saola_raft::wire::{
    AppendReply, AppendRequest, AppendResult, Ballot, BallotReply, FetchPart, FetchReply, FetchRequest, Flushed,
    Header, LineageAsk, LineageVerb, PeerReply, PeerRequest, Question, ReinstateAs, SnapshotOffer, TakeOver, WireEntry,
    WireLogId, WireVote,
};
use saola_storage::command::CommandBatch;
use saola_storage::engine::memory::MemoryHome;

use self::node::{Node, home};
use crate::{Seed, input, store};

const MEMBERS_HEADER: u8 = 1;
const PARTS_MAX: usize = 16;

const CALL: u8 = 0;
const APPEND: u8 = 1;
const FETCH: u8 = 2;
const REPLY: u8 = 3;
const APPEND_REPLY: u8 = 4;
const TIME: u8 = 5;
const FETCH_REPLY: u8 = 6;

/// See the module.
pub fn run(bytes: &[u8]) {
    let (mode, bytes) = input::mode(bytes);
    let mut parts: Vec<(u8, &[u8])> = input::parts(bytes).into_iter().take(PARTS_MAX).map(input::mode).collect();
    let mut decodes = false;
    let answers =
        parts.extract_if(.., |(kind, _)| matches!(*kind, REPLY | APPEND_REPLY | FETCH_REPLY)).collect::<Vec<_>>();
    for (kind, part) in parts.iter().chain(&answers) {
        decodes |= match *kind {
            CALL => PeerRequest::decode(*part).is_ok(),
            APPEND => AppendRequest::decode(*part).is_ok(),
            FETCH => FetchRequest::decode(*part).is_ok(),
            FETCH_REPLY => FetchReply::decode(*part).is_ok(),
            REPLY => PeerReply::decode(*part).is_ok(),
            APPEND_REPLY => AppendReply::decode(*part).is_ok(),
            _ => false,
        };
    }
    // A replica costs a millisecond: not for what no message comes out of.
    if !decodes {
        return;
    }
    home();
    sim::run(1, async move {
        let node = Node::start(&answers).await;
        for same in parts.chunk_by(|one, next| one.0 == next.0 && one.0 == APPEND) {
            let messages = same.iter().map(|(_, part)| *part);
            match same[0].0 {
                CALL => node.call(decoded(messages, |m: &mut PeerRequest| put_right(mode, &mut m.header))).await,
                APPEND => {
                    node.append(decoded(messages, |m: &mut AppendRequest| put_right(mode, &mut m.header))).await;
                }
                FETCH => node.fetch(decoded(messages, |m: &mut FetchRequest| put_right(mode, &mut m.header))).await,
                TIME => node.wait(same[0].1.first().map_or(0, |bits| bits.count_ones())).await,
                _ => {}
            }
        }
        node.end().await;
    });
}

fn decoded<'a, M: Message + Default>(parts: impl Iterator<Item = &'a [u8]>, right: impl Fn(&mut M)) -> Vec<M> {
    let mut messages: Vec<M> = parts.filter_map(|part| M::decode(Bytes::copy_from_slice(part)).ok()).collect();
    messages.iter_mut().for_each(right);
    messages
}

fn put_right(mode: u8, header: &mut Option<Header>) {
    if mode & MEMBERS_HEADER != 0 {
        *header = Some(home().header());
    }
}

pub(crate) fn members() -> Vec<Member> {
    home().members.clone()
}

fn last() -> WireLogId {
    home().last.into()
}

fn vote(term: u64, committed: bool) -> Option<WireVote> {
    Some(WireVote { term, node_id: 2, committed })
}

fn question(question: Question) -> PeerRequest {
    PeerRequest { header: Some(home().header()), question: Some(question) }
}

fn entries(term: u64) -> Vec<WireEntry> {
    let batch = CommandBatch { stamp_us: 7, commands: vec![store::put(1, b"ward/9")] };
    let membership = decode::membership(&members()).encode_to_vec();
    let payloads = [vec![0], [&[1][..], &batch.encode_to_vec()].concat(), [&[2][..], &membership].concat()];
    let log_id = |at: usize| Some(WireLogId { term, node_id: 2, index: last().index + 1 + at as u64 });
    let entry = |(at, payload): (usize, Vec<u8>)| WireEntry { log_id: log_id(at), payload: payload.into() };
    payloads.into_iter().enumerate().map(entry).collect()
}

/// A candidate's question, and entries of a leader.
fn samples() -> (PeerRequest, AppendRequest) {
    let ballot = Ballot { vote: vote(20, false), last: Some(last()), leadership_transfer: true };
    let append = AppendRequest {
        header: Some(home().header()),
        vote: vote(20, true),
        prev: Some(last()),
        entries: entries(20),
        leader_commit: Some(WireLogId { term: 20, node_id: 2, index: last().index + 3 }),
        frontier_next: last().index + 3,
        needed_from: 1,
        quorum_age_ms: 5,
        collect_round: 1,
        collect_collection: 1,
        collect_below: 2,
        witness_keeps_from: 1,
        heard_answer: 1,
        acknowledged_age_ms: 1,
    };
    (question(Question::Vote(ballot)), append)
}

/// A granted vote, and the answer to an append.
fn sample_replies() -> (PeerReply, AppendReply) {
    let granted = BallotReply {
        vote: Some(WireVote { term: 3, node_id: 1, committed: false }),
        granted: true,
        last: Some(last()),
    };
    let flushed = AppendResult::Flushed(Flushed { log_id: Some(last()) });
    let reply = AppendReply { result: Some(flushed), free_bytes: 1 << 30, ..AppendReply::default() };
    (saola_raft::wire::Answer::Ballot(granted).into(), reply)
}

/// A leader's offer of records that node 2 has.
fn sample_offer() -> PeerRequest {
    question(Question::OfferSnapshot(SnapshotOffer {
        vote: vote(20, true),
        last: Some(WireLogId { term: 1, node_id: 1, index: 1 + last().index }),
        membership_at: Some(WireLogId { term: 1, node_id: 1, index: 0 }),
        membership: decode::membership(&members()).encode_to_vec().into(),
        full: true,
        sources: members(),
        approvers: Vec::new(),
    }))
}

fn sample_fetch() -> FetchRequest {
    FetchRequest { header: Some(home().header()), at_least: Some(last()), ..FetchRequest::default() }
}

/// What members send: votes, entries, a snapshot, questions; and answers that make the replica lead.
pub fn seeds() -> Vec<Seed> {
    let part = |kind: u8, message: &dyn Fn() -> Vec<u8>| [&[kind][..], &message()].concat();
    let (ballot, append) = samples();
    let heartbeat = AppendRequest { entries: Vec::new(), ..append.clone() };
    let (granted, flushed) = sample_replies();
    let votes = [
        part(CALL, &|| ballot.encode_to_vec()),
        part(APPEND, &|| append.encode_to_vec()),
        part(APPEND, &|| heartbeat.encode_to_vec()),
        part(TIME, &|| vec![255]),
    ];
    let mut questions = vec![
        Question::Status(Default::default()),
        Question::Identify(Default::default()),
        Question::Greet(Default::default()),
        Question::Digest(Default::default()),
        Question::ReadBarrier(Default::default()),
        Question::LastVote(Default::default()),
        Question::Propose(store::put(1, b"ward/1")),
        Question::Admin(Default::default()),
    ];
    questions.push(Question::TransferLeader(TakeOver { from_leader: vote(20, true), to: 1, last: Some(last()) }));
    let ask = |verb| Question::Lineage(LineageAsk { verb: Some(verb), record: Bytes::new() });
    let (_, plan) = crate::disk::files::plan_seeds().remove(0);
    questions.push(ask(LineageVerb::Stand(Default::default())));
    questions.push(ask(LineageVerb::Promise(plan.clone().into())));
    questions.push(ask(LineageVerb::Begin(plan.into())));
    questions.push(ask(LineageVerb::Fence("a drill".into())));
    questions.push(ask(LineageVerb::Unfence(Default::default())));
    questions.push(ask(LineageVerb::Reinstate(ReinstateAs { node_id: 9, ..ReinstateAs::default() })));
    let questions = questions.into_iter().map(|asked| part(CALL, &|| question(asked.clone()).encode_to_vec()));
    let mut export = store::furnished(&Arc::new(MemoryHome::new())).export().expect("a good store exports");
    let mut snapshot =
        vec![part(FETCH, &|| sample_fetch().encode_to_vec()), part(CALL, &|| sample_offer().encode_to_vec())];
    while let Some(data) = export.next_chunk().expect("memory reads") {
        if data.len() < usize::from(u16::MAX) / 2 {
            let chunk = FetchReply::from(FetchPart::Chunk(data.clone()));
            snapshot.push(part(FETCH_REPLY, &|| chunk.encode_to_vec()));
        }
    }
    let replies: Vec<_> = [REPLY, REPLY, APPEND_REPLY, APPEND_REPLY, APPEND_REPLY]
        .iter()
        .map(|kind| match *kind {
            REPLY => part(REPLY, &|| granted.encode_to_vec()),
            _ => part(APPEND_REPLY, &|| flushed.encode_to_vec()),
        })
        .chain([part(TIME, &|| vec![255])])
        .collect();
    vec![
        ("follows", input::join(MEMBERS_HEADER, votes)),
        ("as_sent", input::join(0, [part(CALL, &|| ballot.encode_to_vec())])),
        ("asked", input::join(MEMBERS_HEADER, questions)),
        ("snapshot", input::join(MEMBERS_HEADER, snapshot)),
        ("leads", input::join(MEMBERS_HEADER, replies)),
    ]
}
