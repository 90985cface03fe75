//! The wire: SPIFFE's and SPIRE's messages, and ours, with hand-written conversions.
//!
//! It must not know state, policy or IO: formats change alone.

pub mod proto;
mod redacted;

/// Every service and message of [`proto`], as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/attesta.bin"));

/// The Workload API alone, for reflection on the agent's public socket (C172): a workload is told of nothing else.
pub const WORKLOAD_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/workload.bin"));

pub mod bundle;
pub mod entry;
pub mod fact;
pub mod id;
pub mod status;
