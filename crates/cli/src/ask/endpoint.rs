//! The address of a Workload API, as the SPIFFE Workload Endpoint specification writes it (section 4, C165 to C168).
//!
//! Pure: it opens nothing and reads no environment.

use std::{
    ffi::OsString,
    fmt,
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
};

use crate::{args::Global, output::Failure};

/// Where a Workload API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// An address and a port.
    Tcp(SocketAddr),
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointError {
    /// Neither `unix` nor `tcp` (C166).
    Scheme,
    /// A unix address with more than scheme and path (C167).
    UnixParts,
    /// A unix address without an absolute path (C167).
    UnixPath,
    /// A percent sign that begins no escape, or an escaped NUL.
    Escape,
    /// A tcp address with more than scheme, IP address and port (C168).
    TcpParts,
    /// A tcp address whose host is no IP address (C168).
    TcpHost,
    /// A tcp address without a port, or with an impossible one (C168).
    TcpPort,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "the scheme is neither unix nor tcp",
            Self::UnixParts => "a unix address is a scheme and a path, nothing else (unix:///run/workload.sock)",
            Self::UnixPath => "a unix address has an absolute path (unix:///run/workload.sock)",
            Self::Escape => "a percent sign is followed by two hexadecimal digits that are not 00",
            Self::TcpParts => "a tcp address is a scheme, an IP address and a port, nothing else (tcp://127.0.0.1:8000)",
            Self::TcpHost => "the host of a tcp address is an IP address, not a name (tcp://127.0.0.1:8000)",
            Self::TcpPort => "a tcp address has a port between 1 and 65535 (tcp://127.0.0.1:8000)",
        })
    }
}

impl std::error::Error for EndpointError {}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Endpoint {
    /// The endpoint that the flag or the environment names (C165), else the one of the data directory.
    pub(crate) fn of(global: &Global) -> Result<Self, Failure> {
        match global.workload_api.as_deref().filter(|a| !a.is_empty()) {
            None => Ok(Self::Unix(global.workload_socket())),
            Some(address) => Self::parse(address).map_err(|e| {
                Failure::usage(format!("{address:?} is no address of a Workload API"))
                    .with_cause(e)
                    .with_hint("it comes from --workload-api or SPIFFE_ENDPOINT_SOCKET")
            }),
        }
    }

    /// Parses an address. A text without a scheme is the path of a socket: people leave `unix://` out.
    pub(crate) fn parse(address: &str) -> Result<Self, EndpointError> {
        let Some((scheme, rest)) = scheme(address) else {
            return Ok(Self::Unix(PathBuf::from(address)));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "unix" => unix(rest).map(Self::Unix),
            "tcp" => tcp(rest).map(Self::Tcp),
            _ => Err(EndpointError::Scheme),
        }
    }
}

/// Splits a URI's scheme off (RFC 3986 3.1). What has a slash before its first colon is a path.
fn scheme(address: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = address.split_once(':')?;
    let fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    fits.then_some((scheme, rest))
}

fn unix(rest: &str) -> Result<PathBuf, EndpointError> {
    if rest.contains(['?', '#']) {
        return Err(EndpointError::UnixParts);
    }
    // `unix:///path` has an empty authority, `unix:/path` has none; both are no more than scheme and path.
    let path = match rest.strip_prefix("//") {
        Some("") => return Err(EndpointError::UnixPath),
        Some(path) if !path.starts_with('/') => return Err(EndpointError::UnixParts),
        Some(path) => path,
        None => rest,
    };
    if !path.starts_with('/') || path == "/" {
        return Err(EndpointError::UnixPath);
    }
    Ok(PathBuf::from(OsString::from_vec(unescaped(path)?)))
}

fn unescaped(path: &str) -> Result<Vec<u8>, EndpointError> {
    let mut bytes = path.bytes();
    let mut out = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let digits =
                [bytes.next(), bytes.next()].map(|d| d.and_then(|d| char::from(d).to_digit(16)));
            let [Some(high), Some(low)] = digits else {
                return Err(EndpointError::Escape);
            };
            u8::try_from(high * 16 + low).map_err(|_| EndpointError::Escape)?
        } else {
            byte
        };
        if byte == 0 {
            return Err(EndpointError::Escape);
        }
        out.push(byte);
    }
    Ok(out)
}

fn tcp(rest: &str) -> Result<SocketAddr, EndpointError> {
    let authority = rest.strip_prefix("//").ok_or(EndpointError::TcpParts)?;
    if authority.contains(['/', '?', '#', '@']) {
        return Err(EndpointError::TcpParts);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(inner) => {
            let (host, port) = inner.split_once(']').ok_or(EndpointError::TcpHost)?;
            (
                IpAddr::V6(host.parse().map_err(|_| EndpointError::TcpHost)?),
                port.strip_prefix(':'),
            )
        }
        None => {
            let (host, port) = authority
                .split_once(':')
                .map_or((authority, None), |(h, p)| (h, Some(p)));
            (
                IpAddr::V4(host.parse().map_err(|_| EndpointError::TcpHost)?),
                port,
            )
        }
    };
    // Digits alone: the number parser would take a plus sign too.
    let port = port
        .filter(|p| p.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|p| p.parse().ok())
        .filter(|p| *p != 0);
    Ok(SocketAddr::new(host, port.ok_or(EndpointError::TcpPort)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C166, C167, C168.
    #[test]
    fn addresses() {
        use EndpointError::{Escape, Scheme, TcpHost, TcpParts, TcpPort, UnixParts, UnixPath};
        let unix = |path: &str| Ok(Endpoint::Unix(PathBuf::from(path)));
        let tcp = |address: &str| Ok(Endpoint::Tcp(address.parse().unwrap()));
        for (input, expect) in [
            ("unix:///run/workload.sock", unix("/run/workload.sock")),
            ("unix:/run/workload.sock", unix("/run/workload.sock")),
            ("UNIX:///run/workload.sock", unix("/run/workload.sock")),
            ("unix:///run/a%20b", unix("/run/a b")),
            ("unix:///run/a:b@c", unix("/run/a:b@c")),
            ("/run/workload.sock", unix("/run/workload.sock")),
            ("/run/a:b", unix("/run/a:b")),
            ("workload.sock", unix("workload.sock")),
            ("unix:", Err(UnixPath)),
            ("unix://", Err(UnixPath)),
            ("unix:///", Err(UnixPath)),
            ("unix:run/workload.sock", Err(UnixPath)),
            ("unix://run/workload.sock", Err(UnixParts)),
            ("unix://user@host/run", Err(UnixParts)),
            ("unix:///run/w.sock?x=1", Err(UnixParts)),
            ("unix:///run/w.sock#x", Err(UnixParts)),
            ("unix:///run/%zz", Err(Escape)),
            ("unix:///run/%2", Err(Escape)),
            ("unix:///run/%00", Err(Escape)),
            ("tcp://127.0.0.1:8000", tcp("127.0.0.1:8000")),
            ("tcp://[::1]:8000", tcp("[::1]:8000")),
            ("tcp://localhost:8000", Err(TcpHost)),
            ("tcp://[127.0.0.1]:8000", Err(TcpHost)),
            ("tcp://::1:8000", Err(TcpHost)),
            ("tcp://127.0.0.1", Err(TcpPort)),
            ("tcp://127.0.0.1:", Err(TcpPort)),
            ("tcp://127.0.0.1:0", Err(TcpPort)),
            ("tcp://127.0.0.1:+80", Err(TcpPort)),
            ("tcp://127.0.0.1:65536", Err(TcpPort)),
            ("tcp://127.0.0.1:8000/", Err(TcpParts)),
            ("tcp://127.0.0.1:8000?x", Err(TcpParts)),
            ("tcp://a@127.0.0.1:8000", Err(TcpParts)),
            ("tcp:127.0.0.1:8000", Err(TcpParts)),
            ("http://127.0.0.1:8000", Err(Scheme)),
            ("spiffe://example.org/a", Err(Scheme)),
        ] {
            assert_eq!(Endpoint::parse(input), expect, "{input}");
        }
    }
}
