//! Compiles the data API's `.proto` with protox, so that building needs no `protoc`. Writes the Rust code and the
//! descriptor set that reflection serves to `OUT_DIR`.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let file = "proto/pleach/data/v1/data.proto";
    println!("cargo::rerun-if-changed={file}");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_file(file)?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("data_descriptor.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
