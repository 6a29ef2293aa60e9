//! The writes of a life: sealed as a node seals them, repeated at times, conditional at times.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngCore};
use saola_storage::command::{
    Bootstrap, Command, CreateCollection, DeleteRecord, Expect, ExpectKind, Op, PutRecord, RequestId, Site, TakeDigest,
    Wrap, WrappedDek,
};
use saola_storage::seal::{Dek, DekId, SealContext, open, seal};
use saola_storage::store::{At, Store, VersionOp};
use zeroize::Zeroizing;

const STORE: [u8; 16] = [7; 16];
const INCARNATION: [u8; 16] = [3; 16];
const KEY: DekId = DekId([5; 16]);
const COLLECTION: &str = "person";
const RECORDS: u64 = 40;
const CONTENT: &str = "application/json";
/// Stands in every value in clear, and may stand nowhere on a disk.
pub const CANARY: &[u8] = b"plain-canary-of-a-value";

/// Makes commands.
pub struct Work {
    key: Dek,
    calls: u64,
    last: Option<Command>,
}

impl Default for Work {
    fn default() -> Self {
        Work { key: Dek::new(KEY, Zeroizing::new([9; 32])), calls: 0, last: None }
    }
}

impl Work {
    /// What a store begins with.
    pub fn first() -> Vec<Command> {
        let kek = |name: &str| Bytes::from(vec![name.len() as u8; 32]);
        let site = |name: &str| Site { name: name.into(), kek_public: kek(name) };
        let wrap = |site: &str| Wrap {
            site: site.into(),
            kek_public: kek(site),
            encapsulated: Bytes::from_static(b"wrapped"),
            ciphertext: Bytes::from_static(b"wrapped"),
        };
        let bootstrap = Bootstrap {
            store_uuid: Bytes::copy_from_slice(&STORE),
            node_ids: vec![1],
            protection: None,
            failover: None,
            cluster_name: "power".into(),
            sites: vec![site("main"), site("dr")],
            cluster_id: vec![8; 16].into(),
        };
        let create = CreateCollection {
            name: COLLECTION.into(),
            incarnation: Bytes::copy_from_slice(&INCARNATION),
            max_value_bytes: 1 << 20,
            key_style: 0,
            owner: String::new(),
            label: String::new(),
            dek: Some(WrappedDek {
                id: Bytes::copy_from_slice(&KEY.0),
                incarnation: Bytes::copy_from_slice(&INCARNATION),
                wraps: vec![wrap("main"), wrap("dr")],
            }),
        };
        let command = |op| Command { request: None, op: Some(op) };
        vec![command(Op::Bootstrap(bootstrap)), command(Op::CreateCollection(create))]
    }

    /// The next call.
    pub fn next(&mut self, rng: &mut StdRng) -> Command {
        if let Some(again) = self.last.clone().filter(|_| rng.random_range(0..20) == 0) {
            return again;
        }
        self.calls += 1;
        let request = RequestId {
            client: Bytes::from_static(&[1; 16]),
            since: 1,
            sequence: self.calls,
            done_below: self.calls.saturating_sub(8),
        };
        let id = Bytes::from(format!("p{}", rng.random_range(0..RECORDS)));
        let expect = match rng.random_range(0..4) {
            0 => Some(Expect { kind: ExpectKind::Generation as i32, generation: rng.random_range(0..6) }),
            1 => Some(Expect { kind: ExpectKind::Absent as i32, generation: 0 }),
            _ => None,
        };
        let op = match rng.random_range(0..20) {
            0 => Op::TakeDigest(TakeDigest {}),
            1..4 => Op::Delete(DeleteRecord { collection: COLLECTION.into(), id, expect, provenance: None }),
            _ => {
                let value = self.value(&id, rng);
                let mut entropy = [0; 28];
                rng.fill_bytes(&mut entropy);
                let envelope = seal(&self.key, &context(&id), &value, &entropy).expect("a short value");
                let (content_type, value_bytes) = (CONTENT.into(), value.len() as u64);
                let collection = COLLECTION.into();
                Op::Put(PutRecord { collection, id, envelope, content_type, expect, provenance: None, value_bytes })
            }
        };
        let command = Command { request: Some(request), op: Some(op) };
        self.last = Some(command.clone());
        command
    }

    fn value(&self, id: &[u8], rng: &mut StdRng) -> Vec<u8> {
        let mut value = [CANARY, b" of ", id].concat();
        let padding = if rng.random_range(0..8) == 0 { 6_000 } else { rng.random_range(0..200) };
        value.resize(value.len() + padding, b'.');
        value
    }

    /// Opens every live value, and says what is wrong with one.
    pub fn opens_all(&self, store: &Store) -> Result<u64, String> {
        let view = store.view();
        let Some(collection) = view.collection(COLLECTION) else { return Ok(0) };
        let mut opened = 0;
        for record in 0..RECORDS {
            let id = format!("p{record}");
            let version = view.get(&collection, id.as_bytes(), At::Revision(store.applied().revision));
            let Some(version) = version.map_err(|error| error.to_string())? else { continue };
            if version.op == VersionOp::Delete {
                continue;
            }
            let value = open(&self.key, &context(id.as_bytes()), &version.envelope)
                .map_err(|error| format!("{id} generation {}: {error}", version.generation))?;
            if !value.starts_with(&[CANARY, b" of ", id.as_bytes()].concat()) {
                return Err(format!("{id} generation {} opens to another record's value", version.generation));
            }
            opened += 1;
        }
        Ok(opened)
    }
}

fn context(id: &[u8]) -> SealContext<'_> {
    SealContext { store_uuid: &STORE, incarnation: &INCARNATION, record_id: id, content_type: CONTENT }
}
