//! openraft's own suite for log stores and state machines, run on our adapters over every engine and disk we have.

use std::sync::Arc;
use std::time::Duration;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use saola_storage::disk::RealDisk;
use saola_storage::engine::EngineHome;
use saola_storage::engine::memory::MemoryHome;
use saola_storage::log::{Log, LogSettings};
use saola_storage::store::{Keeps, Store, StoreSettings};

use crate::frontier::FrontierCell;
use crate::log_store::LogStore;
use crate::state_machine::StateMachine;
use crate::types::{TokioRuntime, TypeConfig};

struct Builder {
    home: fn(&std::path::Path) -> Arc<dyn EngineHome>,
}

type Stores = (tempfile::TempDir, LogStore<TokioRuntime>, StateMachine<TokioRuntime>);

impl StoreBuilder<TypeConfig<TokioRuntime>, LogStore<TokioRuntime>, StateMachine<TokioRuntime>, tempfile::TempDir>
    for Builder
{
    async fn build(&self) -> Result<Stores, StorageError<TypeConfig<TokioRuntime>>> {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::open(folder.path()).unwrap());
        let (log, writer) = Log::open(disk, LogSettings::default()).unwrap();
        std::thread::spawn(move || writer.run(|error| panic!("the log failed: {error}")));
        let home = (self.home)(folder.path());
        let store = Store::open(home, Keeps::Records, StoreSettings::default()).unwrap();
        let frontier = Arc::new(FrontierCell::new(None));
        let machine = StateMachine::new(Arc::new(store), frontier, String::new(), Default::default());
        Ok((folder, LogStore::new(log), machine))
    }
}

fn run(home: fn(&std::path::Path) -> Arc<dyn EngineHome>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder { home })).unwrap();
    runtime.shutdown_timeout(Duration::from_secs(5));
}

#[test]
fn adapters_pass_openrafts_suite_on_the_ordered_map() {
    run(|_| Arc::new(MemoryHome::new()));
}

#[cfg(feature = "rocksdb")]
#[test]
fn adapters_pass_openrafts_suite_on_rocksdb() {
    use saola_storage::engine::rocks::{RocksHome, RocksSettings};
    run(|folder| Arc::new(RocksHome::new(folder.join("db"), RocksSettings::RECORDS)));
}
