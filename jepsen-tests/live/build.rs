//! Compiles the clock that nodes are given.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/clock.c");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where")).join("clock.so");
    let mut compile: Command = cc::Build::new().opt_level(2).get_compiler().to_command();
    let compiled =
        compile.args(["-Wall", "-Werror", "-shared", "-fPIC", "src/clock.c", "-ldl", "-o"]).arg(&out).status();
    assert!(compiled.is_ok_and(|status| status.success()), "compile src/clock.c: {compile:?}");
}
