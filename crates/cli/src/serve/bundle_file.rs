//! The bundle as a file: `bundle.pem` kept current for whoever verifies by files, and read as an agent's first trust.

use std::path::Path;

use anyhow::Context;
use attesta_runtime::{Live, Tasks};
use attesta_spiffe::{Bundle, TrustDomain, X509Authority};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::place;
use crate::{config::read_file, output::Failure};

/// Longest bundle, in bytes.
const BYTES: u64 = 4 << 20;
/// Characters of a line (RFC 7468 section 2).
const LINE: usize = 64;

/// Writes the bundle now and whenever it changes.
///
/// # Errors
/// The first time; later the old one stays and the log says so.
pub(super) fn keep(tasks: &Tasks, path: &Path, bundle: Live<Bundle>) -> anyhow::Result<()> {
    let mut seen = bundle.version();
    let put = |path: &Path, bundle: &Bundle| place::write(path, pem(bundle).as_bytes(), 0o644);
    put(path, &bundle.load()).with_context(|| format!("cannot write {}", path.display()))?;
    let (path, stop) = (path.to_owned(), tasks.stopping());
    tasks.spawn("bundle-file", async move {
        loop {
            tokio::select! {
                version = bundle.changed(seen) => seen = version,
                () = stop.cancelled() => return,
            }
            // A file this small does not hold up a thread.
            if let Err(e) = put(&path, &bundle.load()) {
                tracing::error!(path = %path.display(), error = %e, "the bundle could not be written; readers of the file see an old one");
            }
        }
    });
    Ok(())
}

/// The X.509 authorities as PEM.
fn pem(bundle: &Bundle) -> String {
    let mut text = String::new();
    for authority in bundle.x509_authorities() {
        text += "-----BEGIN CERTIFICATE-----\n";
        for line in STANDARD.encode(authority.der()).as_bytes().chunks(LINE) {
            // Base64 is ASCII, so that nothing is lost.
            text += &String::from_utf8_lossy(line);
            text.push('\n');
        }
        text += "-----END CERTIFICATE-----\n";
    }
    text
}

/// A bundle from a file: PEM certificates, or a SPIFFE bundle document.
///
/// # Errors
/// What is wrong with the file, by its name.
pub(crate) fn read(path: &Path, trust_domain: &TrustDomain) -> Result<Bundle, Failure> {
    let bytes = read_file(path, BYTES)?;
    parse(&bytes, trust_domain).map_err(|why| {
        Failure::usage(format!("{}: {why}", path.display()))
            .with_hint("`attesta bundle show` on the server writes one")
    })
}

/// As [`read`], from bytes.
fn parse(bytes: &[u8], trust_domain: &TrustDomain) -> Result<Bundle, String> {
    let bundle = if bytes.trim_ascii_start().starts_with(b"{") {
        Bundle::parse(trust_domain, bytes).map_err(|e| e.to_string())?
    } else {
        let mut authorities = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(bytes) {
            let certificate = certificate.map_err(|e| format!("no PEM: {e}"))?;
            authorities.push(
                X509Authority::from_der(&certificate)
                    .map_err(|e| format!("certificate {}: {e}", authorities.len() + 1))?,
            );
        }
        Bundle::new(trust_domain.clone(), authorities, Vec::new(), 0, None)
            .map_err(|e| e.to_string())?
    };
    if bundle.x509_authorities().is_empty() {
        return Err("no certificate of an authority is in it".to_owned());
    }
    Ok(bundle)
}
