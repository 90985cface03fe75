//! What `build.rs` makes of `proto/`: one module per protobuf package, nested as the package's name is.
//!
//! Nothing here is written by hand but the tree: generated code finds other packages by their place in it.

#![expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated: the comments of the .proto files are its documentation, and it writes full paths"
)]

/// The SPIFFE Workload API. It has no package; on the wire its methods are `/SpiffeWorkloadAPI/METHOD`.
pub mod workload {
    include!(concat!(env!("OUT_DIR"), "/workload.rs"));
}

/// SPIFFE's other APIs.
pub mod spiffe {
    /// The SPIFFE Broker API.
    pub mod broker {
        tonic::include_proto!("spiffe.broker");
    }
}

/// What a SPIRE deployment speaks.
pub mod spire {
    /// SPIRE's agent, where its package lacks the `api`.
    pub mod agent {
        /// What an agent is doing.
        pub mod debug {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!("spire.agent.debug.v1");
            }
        }
    }

    /// SPIRE's APIs.
    pub mod api {
        /// What the APIs have in common.
        pub mod types {
            tonic::include_proto!("spire.api.types");
        }

        /// The agent's admin socket.
        pub mod agent {
            /// Identities for workloads that a trusted delegate names.
            pub mod delegatedidentity {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.agent.delegatedidentity.v1");
                }
            }

            /// The agent's log level.
            pub mod logger {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.agent.logger.v1");
                }
            }
        }

        /// The server.
        pub mod server {
            /// Nodes.
            pub mod agent {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.agent.v1");
                }
            }

            /// Bundles.
            pub mod bundle {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.bundle.v1");
                }
            }

            /// What a server is doing.
            pub mod debug {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.debug.v1");
                }
            }

            /// Registration entries.
            pub mod entry {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.entry.v1");
                }
            }

            /// Turning over the signing authorities by hand.
            pub mod localauthority {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.localauthority.v1");
                }
            }

            /// The server's log level.
            pub mod logger {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.logger.v1");
                }
            }

            /// Issuing.
            pub mod svid {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.svid.v1");
                }
            }

            /// Federation relationships.
            pub mod trustdomain {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.trustdomain.v1");
                }
            }
        }
    }
}

/// Ours, beside what SPIFFE and SPIRE define.
pub mod attesta {
    /// Between agent and server, and the agent's admin socket.
    pub mod agent {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("attesta.agent.v1");
        }
    }

    /// The server's admin socket.
    pub mod admin {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("attesta.admin.v1");
        }
    }

    /// What our services have in common.
    pub mod types {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("attesta.types.v1");
        }
    }
}
