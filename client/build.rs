//! Compiles the public contract: client and server code, and the descriptors that reflection serves.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let contract = protox::compile(
        ["saola/v1/records.proto", "saola/v1/cluster.proto", "saola/v1/dr.proto", "saola/v1/drill.proto"],
        ["proto"],
    )?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), contract.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(contract)?;
    Ok(())
}
