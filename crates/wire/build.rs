//! Compiles `proto/` into message types, clients and servers, without protoc.
//!
//! It writes the descriptor sets for gRPC reflection itself: `compile_fds` writes none.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message;
use tonic_prost_build::FileDescriptorSet;

/// Messages with a private key, a bearer token or a join secret: their Debug is written by hand in src/redacted.rs.
const SECRET: [&str; 12] = [
    ".X509SVID",
    ".JWTSVID",
    ".ValidateJWTSVIDRequest",
    ".WITSVID",
    ".spiffe.broker.X509SVID",
    ".spiffe.broker.JWTSVID",
    ".spire.api.agent.delegatedidentity.v1.X509SVIDWithKey",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
    ".spire.api.types.AttestationData",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.JoinToken",
    ".spire.api.types.WITSVID",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    announce(&root);
    let out =
        PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for a build script")?);

    let all = protox::compile(protos(&root)?, [&root])?;
    fs::write(out.join("attesta.bin"), bare(all.clone()).encode_to_vec())?;
    let workload = protox::compile([root.join("workload.proto")], [&root])?;
    fs::write(out.join("workload.bin"), bare(workload).encode_to_vec())?;

    let mut config = tonic_prost_build::Config::new();
    // The Workload API has no package; without a name of its own its code would be a file called `_.rs`.
    config.default_package_filename("workload");
    // Messages know their type URL: details of a status travel in an Any.
    config
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com");
    // Equal messages have equal bytes.
    config.btree_map(["."]);
    tonic_prost_build::configure()
        .skip_debug(SECRET)
        .compile_fds_with_config(all, config)?;
    Ok(())
}

/// Every `.proto` file below `folder`, in an order that does not depend on the file system.
fn protos(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(protos(&path)?);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The set without comments and positions: a reflecting client has no use for them.
fn bare(mut set: FileDescriptorSet) -> FileDescriptorSet {
    for file in &mut set.file {
        file.source_code_info = None;
    }
    set
}

/// Tells cargo what this build depends on: a folder stands for everything in it.
fn announce(root: &Path) {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", root.display());
}
