//! Who: node and workload attestors. An attestor says only who; it cannot grant.
