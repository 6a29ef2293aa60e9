//! What clients send and operators write: requests, page tokens, topology files, lines of an import.
//!
//! Requests are decoded and go through the node's checks and conversions, as far as those need no running node.

use bytes::Bytes;
use prost::Message;
use saola_client::proto::{
    self, At, BatchGetRequest, Consistency, CreateCollectionRequest, DeleteRequest, Expect, GetRequest, HistoryRequest,
    InitRequest, ListRequest, Member, PutRequest, RecordRef, ReplaceMemberRequest, RequestId, StatusResponse,
    TransferRequest, Version, at, consistency, expect,
};
use saola_node::api::cluster::topology as topology_check;
use saola_node::api::page_token::PageToken;
use saola_node::api::{convert, limits};
use saola_ops::import::line::{self, Change};
use saola_ops::topology::Topology;
use saola_storage::collection::check_collection_name;
use saola_storage::command::KeyStyle;
use saola_storage::store::Collection;

use crate::{Seed, input};

fn collection(key_style: KeyStyle) -> Collection {
    Collection {
        number: 1,
        name: "agency".into(),
        incarnation: [1; 16],
        max_value_bytes: 64,
        key_style,
        owner: String::new(),
        label: String::new(),
        created_revision: 1,
        retention: Default::default(),
        collected_below: 0,
    }
}

fn decoded<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(Bytes::copy_from_slice(bytes)).ok()
}

fn check_record(id: &[u8], value: &[u8]) {
    for style in [KeyStyle::Ordered, KeyStyle::Bytes] {
        let collection = collection(style);
        let _ = limits::record_id(&collection, id).and_then(|()| limits::value(&collection, value)).is_ok();
    }
}

fn check_write(request: Option<RequestId>, expect: Option<Expect>, provenance: Option<proto::Provenance>) {
    let _ = (convert::request_id(request).is_ok(), convert::expect(expect), convert::provenance(provenance).is_ok());
}

/// Takes a request, or an answer that a node has of another node; the mode chooses which.
pub fn request(bytes: &[u8]) {
    let (mode, bytes) = input::mode(bytes);
    match mode {
        0 => {
            let Some(call) = decoded::<PutRequest>(bytes) else { return };
            check_record(&call.id, &call.value);
            let _ = limits::texts(&[("content_type", &call.content_type)]).is_ok();
            check_write(call.request, call.expect, call.provenance);
        }
        1 => {
            let Some(call) = decoded::<DeleteRequest>(bytes) else { return };
            check_record(&call.id, b"");
            check_write(call.request, call.expect, call.provenance);
        }
        2 => {
            let Some(call) = decoded::<GetRequest>(bytes) else { return };
            check_record(&call.id, b"");
        }
        3 => {
            let Some(call) = decoded::<BatchGetRequest>(bytes) else { return };
            let _ = limits::batch(&call.records).is_ok();
            call.records.iter().for_each(|record| check_record(&record.id, b""));
        }
        4 => {
            let Some(call) = decoded::<ListRequest>(bytes) else { return };
            assert!((1..=limits::MAX_PAGE).contains(&limits::page(call.page_size)));
            page_token(&call.page_token);
        }
        5 => {
            let Some(call) = decoded::<HistoryRequest>(bytes) else { return };
            check_record(&call.id, b"");
        }
        6 => {
            let Some(call) = decoded::<CreateCollectionRequest>(bytes) else { return };
            let _ = (check_collection_name(&call.name).is_ok(), limits::texts(&[("owner", &call.owner)]).is_ok());
            let _ = convert::request_id(call.request).is_ok();
        }
        7 => {
            let Some(InitRequest { topology: Some(topology) }) = decoded(bytes) else { return };
            let called = topology.members.first().cloned().unwrap_or_default();
            if topology_check::check(&topology, &called).is_ok() {
                topology.members.into_iter().for_each(|member| drop(convert::member_to_raft(member)));
                topology.sites.into_iter().for_each(|site| drop(convert::site_to_storage(site)));
            }
        }
        8 => {
            let Some(call) = decoded::<ReplaceMemberRequest>(bytes) else { return };
            let _ = topology_check::check_member(&call.member.unwrap_or_default(), &[]).is_ok();
        }
        9 => drop(decoded::<TransferRequest>(bytes)),
        _ => drop(decoded::<StatusResponse>(bytes).or_else(|| decoded::<Version>(bytes).map(|_| Default::default()))),
    }
}

/// One of each.
pub fn request_seeds() -> Vec<Seed> {
    let with = |mode: u8, message: Vec<u8>| [&[mode][..], &message].concat();
    let request = Some(RequestId { client: vec![1; 16].into(), since: 1, sequence: 2, done_below: 2 });
    let provenance = Some(proto::Provenance { source_system: "s".into(), actor: "a".into(), reason: "r".into() });
    let expect = Some(Expect { kind: Some(expect::Kind::Generation(3)) });
    let (collection, id) = ("agency".to_owned(), Bytes::from_static("phường/1".as_bytes()));
    let put = PutRequest {
        request: request.clone(),
        collection: collection.clone(),
        id: id.clone(),
        value: Bytes::from_static(b"{}"),
        content_type: "application/json".into(),
        expect,
        provenance: provenance.clone(),
    };
    let delete = DeleteRequest {
        request: request.clone(),
        collection: collection.clone(),
        id: id.clone(),
        expect: Some(Expect { kind: Some(expect::Kind::Absent(true)) }),
        provenance,
    };
    let at = Some(At { kind: Some(at::Kind::Revision(5)) });
    let stale = Some(Consistency { kind: Some(consistency::Kind::StaleWithinMs(100)) });
    let get = GetRequest { collection: collection.clone(), id: id.clone(), at, consistency: stale };
    let records = vec![RecordRef { collection: collection.clone(), id: id.clone() }; 2];
    let list = ListRequest {
        collection: collection.clone(),
        prefix: id.slice(..2),
        page_size: 10,
        page_token: token().into(),
        keys_only: true,
        ..ListRequest::default()
    };
    let history = HistoryRequest { collection: collection.clone(), id, newest_first: true, ..Default::default() };
    let create = CreateCollectionRequest { request, name: collection, ..Default::default() };
    let topology = Topology::parse(TOPOLOGY).expect("a good topology").to_proto();
    let replace = ReplaceMemberRequest { node_id: 1, member: topology.members.first().cloned() };
    vec![
        ("put", with(0, put.encode_to_vec())),
        ("delete", with(1, delete.encode_to_vec())),
        ("get", with(2, get.encode_to_vec())),
        ("batch_get", with(3, BatchGetRequest { records, at, consistency: stale }.encode_to_vec())),
        ("list", with(4, list.encode_to_vec())),
        ("history", with(5, history.encode_to_vec())),
        ("create", with(6, create.encode_to_vec())),
        ("init", with(7, InitRequest { topology: Some(topology) }.encode_to_vec())),
        ("replace", with(8, replace.encode_to_vec())),
    ]
}

fn token() -> Vec<u8> {
    let collection = collection(KeyStyle::Ordered);
    PageToken::new(&collection, 7, Bytes::from_static(b"ward/1"), Bytes::from_static(b"ward/")).encode_to_vec()
}

/// Reads a page token.
pub fn page_token(bytes: &[u8]) {
    if let Ok(token) = PageToken::read(bytes) {
        let _ = token.check_continues(&collection(KeyStyle::Ordered), b"ward/").is_ok();
    }
}

/// A page token.
pub fn page_token_seeds() -> Vec<Seed> {
    vec![("token", token())]
}

/// Reads a topology file; one that is good must be acceptable to be written and read again.
///
/// # Panics
/// It is not.
pub fn topology(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(topology) = Topology::parse(text) else { return };
    let proto = topology.to_proto();
    let called = proto.members.first().cloned().unwrap_or_else(Member::default);
    let _ = topology_check::check(&proto, &called).is_ok();
}

const TOPOLOGY: &str = r#"cluster_name = "registry"
[[site]]
name = "main"
kek_public = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
[[site]]
name = "third"
[[node]]
node_id = 1
name = "main-1"
site = "main"
role = "voter"
peer_address = "127.0.0.1:7101"
client_address = "127.0.0.1:7001"
[[node]]
node_id = 2
name = "witness"
site = "third"
role = "witness"
peer_address = "127.0.0.1:7102"
client_address = "127.0.0.1:7002"
"#;

/// A topology file.
pub fn topology_seeds() -> Vec<Seed> {
    vec![("good", TOPOLOGY.into())]
}

/// Reads a line of an import; a JSON value is stored compact, so that compacting it again changes nothing.
///
/// # Panics
/// It does.
pub fn import_line(bytes: &[u8]) {
    let Ok(parsed) = line::parse(bytes, Some("agency")) else { return };
    let Change::Put { value, .. } = parsed.change else { return };
    if let Ok(text) = std::str::from_utf8(&value)
        && !bytes.windows(12).any(|window| window == b"value_base64")
    {
        assert_eq!(line::compact(text), value, "compact twice");
    }
}

/// Lines of each kind.
pub fn import_line_seeds() -> Vec<Seed> {
    let json = r#"{"op":"put","collection":"agency","id":"ward/00004","value":{"n" : 1.50,"s":"\u00e9 \\"}}"#;
    let base64 = r#"{"op":"put","id":"x","value_base64":"AAEC","content_type":"image/png"}"#;
    let delete = r#"{"op":"delete","collection":"agency","id":"ward/00004"}"#;
    vec![("json", json.into()), ("base64", base64.into()), ("delete", delete.into())]
}
