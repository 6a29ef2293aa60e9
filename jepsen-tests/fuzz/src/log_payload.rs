//! Command batches: decoded and applied behind the first commands of a cluster.
//!
//! Mode bit 0: the store is fresh. Each part is one entry.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use saola_storage::command::CommandBatch;
use saola_storage::engine::memory::MemoryHome;

use crate::store::{beginning, empty, entry, others, read_all};
use crate::{Seed, input};

const FRESH: u8 = 1;

/// See the module. A store that applied something must export a state that another one takes.
///
/// # Panics
/// It does not.
pub fn run(bytes: &[u8]) {
    let (mode, bytes) = input::mode(bytes);
    let store = empty(&Arc::new(MemoryHome::new()));
    if mode & FRESH == 0 {
        let batch = CommandBatch { stamp_us: 1, commands: beginning() };
        store.apply(vec![entry(1, batch)]).expect("good commands are applied");
    }
    for (part, index) in input::parts(bytes).into_iter().zip(2..) {
        let Ok(batch) = CommandBatch::decode(Bytes::copy_from_slice(part)) else { return };
        if store.apply(vec![entry(index, batch)]).is_err() {
            return;
        }
    }
    read_all(&store);
    let kept = store.view().kept_digest().expect("memory reads");
    assert_eq!(kept, store.view().recomputed_digest().expect("own rows are read"), "the digest follows the rows");
    let copy = empty(&Arc::new(MemoryHome::new()));
    let mut export = store.export().expect("a store that applied everything exports");
    let mut import = copy.import().expect("memory has room");
    while let Some(chunk) = export.next_chunk().expect("memory reads") {
        import.write(&chunk).expect("a store takes another's own state");
    }
    import.finish().expect("a store takes another's own state");
    assert_eq!(copy.applied(), store.applied());
}

/// All kinds of commands.
pub fn seeds() -> Vec<Seed> {
    let batch = |commands| CommandBatch { stamp_us: 5, commands }.encode_to_vec();
    let each: Vec<_> = others().into_iter().map(|command| batch(vec![command])).collect();
    vec![
        ("all_in_one", input::join(0, [batch(others())])),
        ("one_by_one", input::join(0, each)),
        ("fresh", input::join(FRESH, [batch(beginning()), batch(others())])),
    ]
}
