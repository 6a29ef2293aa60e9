//! Compiles the way in to RocksDB's crash-test file system, with the headers and settings that RocksDB itself was built with.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=src/fault_fs.cc");
    let sources = env::var_os("DEP_ROCKSDB_CARGO_MANIFEST_DIR").expect("librocksdb-sys tells where its sources are");
    let rocksdb = PathBuf::from(sources).join("rocksdb");
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .file("src/fault_fs.cc")
        .include(&rocksdb)
        .include(rocksdb.join("include"))
        .define("NDEBUG", None)
        .define("OS_LINUX", None)
        .define("ROCKSDB_PLATFORM_POSIX", None)
        .define("ROCKSDB_LIB_IO_POSIX", None)
        .flag_if_supported("-Wno-unused-parameter")
        .compile("saola_fault_fs");
}
