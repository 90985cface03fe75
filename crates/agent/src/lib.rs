//! The agent: attests its node and its workloads, holds what they were issued. It cannot sign.
