//! What of the agent's identity outlives the process: the key, the SVID, the bundle; files of mode 0600, replaced whole.
//!
//! Must not know how any of it is obtained. Without a directory nothing outlives the process, and nothing is written.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use attesta_spiffe::{Bundle, TrustDomain};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::key::{KeyPair, Pkcs8};

const KEY: &str = "agent.key";
const NEXT_KEY: &str = "agent-next.key";
const SVID: &str = "agent-svid.json";
const BUNDLE: &str = "agent-bundle.json";

/// Why what was kept cannot be used, or nothing can be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Others than the owner can read or write a key.
    #[error("{} has mode {mode:04o}; a key is for its owner alone: chmod 600 it, or remove it to attest again", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file cannot be understood.
    #[error("{} is damaged: {why}; remove it to start from the bootstrap bundle again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// What was kept.
#[derive(Default)]
pub(crate) struct Found {
    /// The SVID with the key that fits it.
    pub(crate) identity: Option<(KeyPair, KeptSvid)>,
    /// A key that was made for a call whose answer never came.
    pub(crate) next: Option<KeyPair>,
    pub(crate) bundle: Option<Bundle>,
}

/// An SVID as it is kept.
pub(crate) struct KeptSvid {
    /// DER, leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) reattestable: bool,
    /// Unix seconds by this machine's clock when it came.
    pub(crate) issued_at: i64,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    chain: Vec<String>,
    reattestable: bool,
    issued_at: i64,
}

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Kept(Option<PathBuf>);

impl Kept {
    /// Keeps in this directory, which is made with mode 0700 where it is missing; or nowhere.
    pub(crate) fn open(dir: Option<PathBuf>) -> Result<Self, KeptError> {
        if let Some(dir) = &dir {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir);
            made.map_err(|source| KeptError::Io {
                path: dir.clone(),
                what: "make the directory",
                source,
            })?;
        }
        Ok(Self(dir))
    }

    /// Everything that was kept. An SVID that fits no key is as good as none: the agent attests again.
    pub(crate) fn load(&self, trust_domain: &TrustDomain) -> Result<Found, KeptError> {
        let Some(dir) = &self.0 else {
            return Ok(Found::default());
        };
        let mut found = Found {
            bundle: load_bundle(&dir.join(BUNDLE), trust_domain)?,
            ..Found::default()
        };
        let mut keys = [load_key(&dir.join(KEY))?, load_key(&dir.join(NEXT_KEY))?];
        if let Some(svid) = load_svid(&dir.join(SVID))? {
            // Of the two keys, because a crash between SVID and key leaves the new one under its first name.
            let fits = |key: &&mut Option<KeyPair>| key.as_ref().is_some_and(|k| is_for(&svid, k));
            if let Some(key) = keys.iter_mut().find(fits).and_then(Option::take) {
                found.identity = Some((key, svid));
            }
        }
        let [_, next] = keys;
        found.next = next;
        Ok(found)
    }

    /// Keeps the key of the call that is about to be made.
    pub(crate) fn save_next(&self, pkcs8: &Pkcs8) -> Result<(), KeptError> {
        self.write(NEXT_KEY, pkcs8)
    }

    /// Keeps an SVID, whose key was the next one and now is the key.
    pub(crate) fn save_svid(&self, svid: &KeptSvid) -> Result<(), KeptError> {
        let Some(dir) = &self.0 else { return Ok(()) };
        let document = Document {
            version: 1,
            chain: svid.chain.iter().map(|der| STANDARD.encode(der)).collect(),
            reattestable: svid.reattestable,
            issued_at: svid.issued_at,
        };
        let json = serde_json::to_vec(&document).map_err(|e| KeptError::Damaged {
            path: dir.join(SVID),
            why: e.to_string(),
        })?;
        self.write(SVID, &json)?;
        let path = dir.join(KEY);
        fs::rename(dir.join(NEXT_KEY), &path).map_err(|source| KeptError::Io {
            path,
            what: "replace",
            source,
        })
    }

    /// Keeps the bundle.
    pub(crate) fn save_bundle(&self, bundle: &Bundle) -> Result<(), KeptError> {
        self.write(BUNDLE, &bundle.to_json())
    }

    /// Forgets the SVID and its key; the bundle stays.
    pub(crate) fn forget_svid(&self) -> Result<(), KeptError> {
        let Some(dir) = &self.0 else { return Ok(()) };
        for name in [SVID, KEY] {
            let path = dir.join(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(KeptError::Io {
                        path,
                        what: "remove",
                        source,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Replaces a file whole, on disk before its name is.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), KeptError> {
        let Some(dir) = &self.0 else { return Ok(()) };
        let path = dir.join(name);
        let temporary = dir.join(format!(".{name}.new"));
        let written = (|| {
            // One that an earlier crash left may have another mode.
            match fs::remove_file(&temporary) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(dir)?.sync_all()
        })();
        written.map_err(|source| KeptError::Io {
            path,
            what: "write",
            source,
        })
    }
}

fn is_for(svid: &KeptSvid, key: &KeyPair) -> bool {
    crate::leaf::Leaf::read(&svid.chain, key.spki()).is_ok()
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, KeptError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeptError::Io {
            path: path.to_owned(),
            what: "read",
            source,
        }),
    }
}

fn load_key(path: &Path) -> Result<Option<KeyPair>, KeptError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
            return Err(KeptError::Mode {
                path: path.to_owned(),
                mode: metadata.permissions().mode() & 0o7777,
            });
        }
        _ => {}
    }
    let Some(pkcs8) = read(path)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    match KeyPair::from_pkcs8(pkcs8) {
        Ok(key) => Ok(Some(key)),
        Err(e) => {
            tracing::warn!(path = %path.display(), error = %e, "a kept key is damaged; the agent goes on without it");
            Ok(None)
        }
    }
}

fn load_svid(path: &Path) -> Result<Option<KeptSvid>, KeptError> {
    let Some(json) = read(path)? else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice::<Document>(&json)
        .ok()
        .filter(|d| d.version == 1);
    let svid = parsed.and_then(|document| {
        let chain = document
            .chain
            .iter()
            .map(|text| STANDARD.decode(text))
            .collect::<Result<_, _>>()
            .ok()?;
        Some(KeptSvid {
            chain,
            reattestable: document.reattestable,
            issued_at: document.issued_at,
        })
    });
    if svid.is_none() {
        tracing::warn!(path = %path.display(), "the kept SVID is damaged; the agent attests again");
    }
    Ok(svid)
}

fn load_bundle(path: &Path, trust_domain: &TrustDomain) -> Result<Option<Bundle>, KeptError> {
    let Some(json) = read(path)? else {
        return Ok(None);
    };
    // Never passed over silently: falling back to another bundle is a decision of the operator's.
    let damaged = |e: attesta_spiffe::BundleError| KeptError::Damaged {
        path: path.to_owned(),
        why: e.to_string(),
    };
    Bundle::parse(trust_domain, &json)
        .map(Some)
        .map_err(damaged)
}

#[cfg(test)]
mod tests {
    use attesta_model::KeyAlgorithm;

    use super::*;
    use crate::{authorized::tests::domain, testing::Ca};

    fn svid(ca: &Ca, key: &KeyPair) -> KeptSvid {
        KeptSvid {
            chain: ca.issue("/spire/agent/t/1", &key.csr(None).unwrap(), 60),
            reattestable: true,
            issued_at: 7,
        }
    }

    fn key() -> KeyPair {
        KeyPair::generate(KeyAlgorithm::EcP256).unwrap()
    }

    #[test]
    fn an_identity_survives_also_a_crash_before_its_key_was_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, kept) = (Ca::new(), Kept::open(Some(dir.path().join("d"))).unwrap());
        let path = |name: &str| dir.path().join("d").join(name);
        let load = || kept.load(&domain()).unwrap();
        assert!(load().identity.is_none() && load().next.is_none() && load().bundle.is_none());
        let first = key();
        kept.save_next(first.pkcs8()).unwrap();
        assert_eq!(
            load().next.unwrap().spki(),
            first.spki(),
            "a call without an answer is made again with its key"
        );
        kept.save_svid(&svid(&ca, &first)).unwrap();
        kept.save_bundle(&ca.bundle()).unwrap();
        let found = load();
        let (found_key, found_svid) = found.identity.unwrap();
        assert_eq!(
            (
                found_key.spki(),
                found_svid.reattestable,
                found_svid.issued_at
            ),
            (first.spki(), true, 7)
        );
        assert!(found.next.is_none() && found.bundle.is_some());
        for name in [KEY, SVID, BUNDLE] {
            assert_eq!(
                fs::metadata(path(name)).unwrap().permissions().mode() & 0o777,
                0o600,
                "{name}"
            );
        }
        // The new SVID is there, its key still under the name of the next one.
        let second = key();
        kept.save_next(second.pkcs8()).unwrap();
        let old_key = fs::read(path(KEY)).unwrap();
        kept.save_svid(&svid(&ca, &second)).unwrap();
        fs::rename(path(KEY), path(NEXT_KEY)).unwrap();
        kept.write(KEY, &old_key).unwrap();
        assert_eq!(load().identity.unwrap().0.spki(), second.spki());
        kept.forget_svid().unwrap();
        assert!(load().identity.is_none() && load().bundle.is_some());
    }

    #[test]
    fn what_is_damaged_is_said_or_attested_anew() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(Some(dir.path().to_owned())).unwrap();
        kept.write(SVID, b"{").unwrap();
        kept.write(KEY, b"no key").unwrap();
        assert!(kept.load(&domain()).unwrap().identity.is_none());
        kept.save_next(key().pkcs8()).unwrap();
        fs::set_permissions(dir.path().join(NEXT_KEY), fs::Permissions::from_mode(0o644)).unwrap();
        let Err(error) = kept.load(&domain()) else {
            panic!("a key that others read is refused")
        };
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::remove_file(dir.path().join(NEXT_KEY)).unwrap();
        kept.write(BUNDLE, b"{}").unwrap();
        assert!(matches!(
            kept.load(&domain()),
            Err(KeptError::Damaged { .. })
        ));
    }

    #[test]
    fn without_a_directory_nothing_is_kept() {
        let kept = Kept::open(None).unwrap();
        kept.save_next(key().pkcs8()).unwrap();
        kept.forget_svid().unwrap();
        assert!(kept.load(&domain()).unwrap().next.is_none());
    }
}
