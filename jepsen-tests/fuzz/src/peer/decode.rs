//! Messages between nodes, decoded and encoded again; the mode chooses which.

use bytes::Bytes;
use prost::Message;
use saola_raft::Member;
use saola_raft::member::{MembershipRecord, Seat, VoterSet};
use saola_raft::wire::{AppendReply, AppendRequest, FetchPart, FetchReply, FetchRequest, PeerReply, PeerRequest};

use crate::{Seed, input};

/// What decodes comes back from its own encoding.
///
/// # Panics
/// It does not.
pub fn run(bytes: &[u8]) {
    let (mode, bytes) = input::mode(bytes);
    match mode {
        0 => there_and_back::<PeerRequest>(bytes),
        1 => there_and_back::<PeerReply>(bytes),
        2 => there_and_back::<AppendRequest>(bytes),
        3 => there_and_back::<AppendReply>(bytes),
        4 => there_and_back::<FetchRequest>(bytes),
        6 => there_and_back::<FetchReply>(bytes),
        _ => there_and_back::<MembershipRecord>(bytes),
    }
}

fn there_and_back<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = M::decode(Bytes::copy_from_slice(bytes)) else { return };
    let again = M::decode(Bytes::from(message.encode_to_vec())).expect("a message decodes from its own encoding");
    assert!(again == message, "{message:?} came back as {again:?}");
}

pub(super) fn membership(members: &[Member]) -> MembershipRecord {
    let node_ids = members.iter().map(|member| member.node_id).collect();
    let seat = |member: &Member| Seat { node_id: member.node_id, member: Some(member.clone()) };
    MembershipRecord { configs: vec![VoterSet { node_ids }], seats: members.iter().map(seat).collect() }
}

/// One of each.
pub fn seeds() -> Vec<Seed> {
    let with = |mode: u8, message: Vec<u8>| [&[mode][..], &message].concat();
    let (vote, append) = super::samples();
    let (ballot, appended) = super::sample_replies();
    vec![
        ("request", with(0, vote.encode_to_vec())),
        ("reply", with(1, ballot.encode_to_vec())),
        ("append", with(2, append.encode_to_vec())),
        ("append_reply", with(3, appended.encode_to_vec())),
        ("fetch", with(4, super::sample_fetch().encode_to_vec())),
        ("chunk", with(6, FetchReply::from(FetchPart::Chunk(Bytes::from_static(b"frame"))).encode_to_vec())),
        ("offer", with(0, super::sample_offer().encode_to_vec())),
        ("membership", with(5, membership(&super::members()).encode_to_vec())),
    ]
}
