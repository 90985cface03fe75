//! The rustls ends: an SVID goes in, the SPIFFE ID of the peer comes out.
