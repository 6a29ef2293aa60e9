//! Generates the gRPC glue of the peer service. The messages are plain Rust types (`src/wire/`), so there is
//! no `.proto` file: the simulator moves the same bytes without gRPC.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "tonic")]
    generate();
}

#[cfg(feature = "tonic")]
fn generate() {
    use tonic_prost_build::manual::{Builder, Method, Service};

    let method = |name: &str, route: &str, input: &str, output: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::wire::{input}"))
            .output_type(format!("crate::wire::{output}"))
            .codec_path("tonic_prost::ProstCodec")
    };
    let service = Service::builder()
        .name("Peer")
        .package("saola.peer.v1")
        .method(method("call", "Call", "PeerRequest", "PeerReply").build())
        .method(
            method("append", "Append", "AppendRequest", "AppendReply").client_streaming().server_streaming().build(),
        )
        .method(method("fetch", "Fetch", "FetchRequest", "FetchReply").server_streaming().build())
        .build();
    Builder::new().compile(&[service]);
}
