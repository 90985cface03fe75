//! The key-encryption key: 32 bytes in a file of mode 0600, made on first start. It seals the authorities' private keys
//! in the ledger; a copy of the database without it is worthless, and a copy of the directory has both.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::draw;

/// Length of the key in bytes.
pub const KEY_BYTES: usize = 32;

/// The key, ready to seal and open. No Debug, no Clone, no comparison.
pub struct Kek(LessSafeKey);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// The file could not be read or made.
    #[error("key file {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read or write it.
    #[error(
        "key file {path} has mode {mode:04o}: others could read or replace it. If nobody did, run `chmod 600 {path}` and start again; if in doubt, rotate the key"
    )]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Another user owns it.
    #[error(
        "key file {path} belongs to uid {owner}, and this process runs as uid {me}; start as that user or give it the file"
    )]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        me: u32,
    },
    /// It is not 32 bytes.
    #[error(
        "key file {path} has {len} bytes instead of 32: it is truncated or no key file. Restore it from where it is kept; without it the authorities in the ledger cannot be opened, and no new ones are made in their place"
    )]
    Length {
        /// Which file.
        path: PathBuf,
        /// What it has.
        len: usize,
    },
    /// Randomness failed.
    #[error(transparent)]
    Random(#[from] draw::NoRandomness),
}

/// What was sealed does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a sealed key does not open: it was sealed under another key-encryption key, or altered. Put back the key file that belongs to this ledger"
)]
pub struct Unsealable;

impl Kek {
    /// From its bytes.
    ///
    /// # Errors
    /// Never for 32 bytes; the library's type says it may.
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Result<Self, Unsealable> {
        UnboundKey::new(&AES_256_GCM, bytes)
            .map(|k| Self(LessSafeKey::new(k)))
            .map_err(|_| Unsealable)
    }

    /// A key of this process only, for what ends with it.
    ///
    /// # Errors
    /// Randomness failed.
    pub fn ephemeral() -> Result<Self, KekError> {
        let bytes = Zeroizing::new(draw::bytes::<KEY_BYTES>()?);
        Self::new(&bytes).map_err(|_| KekError::Random(draw::NoRandomness))
    }

    /// Reads the file, or makes it where there is none and `may_create` says so: only for a ledger without authorities.
    ///
    /// # Errors
    /// [`KekError`], with the way out.
    pub fn open(path: &Path, may_create: bool) -> Result<Self, KekError> {
        let io = |source| KekError::Io {
            path: path.to_owned(),
            source,
        };
        let bytes = match read(path) {
            Err(KekError::Io { source, .. })
                if source.kind() == ErrorKind::NotFound && may_create =>
            {
                let bytes = Zeroizing::new(draw::bytes::<KEY_BYTES>()?);
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(io)?;
                file.write_all(bytes.as_slice()).map_err(io)?;
                file.sync_all().map_err(io)?;
                if let Some(dir) = path.parent() {
                    File::open(dir).and_then(|d| d.sync_all()).map_err(io)?;
                }
                bytes
            }
            read => read?,
        };
        Self::new(&bytes).map_err(|_| KekError::Length {
            path: path.to_owned(),
            len: 0,
        })
    }

    /// Seals: nonce, ciphertext and tag. `context` binds the box to its place, so that two cannot be swapped.
    ///
    /// # Errors
    /// Randomness failed.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, draw::NoRandomness> {
        let nonce = draw::bytes::<NONCE_LEN>()?;
        let mut body = plain.to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context),
                &mut body,
            )
            .map_err(|_| draw::NoRandomness)?;
        Ok([nonce.as_slice(), &body].concat())
    }

    /// Opens what [`Kek::seal`] made in the same context.
    ///
    /// # Errors
    /// Another key, another context, or altered bytes.
    pub fn open_sealed(
        &self,
        context: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(Unsealable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unsealable)?;
        let mut body = Zeroizing::new(body.to_vec());
        let len = self
            .0
            .open_in_place(nonce, Aad::from(context), &mut body)
            .map_err(|_| Unsealable)?
            .len();
        body.truncate(len);
        Ok(body)
    }
}

fn read(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, KekError> {
    let io = |source| KekError::Io {
        path: path.to_owned(),
        source,
    };
    // No symlink: whoever may write the directory could point it anywhere.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW)
        .open(path)
        .map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if meta.mode() & 0o077 != 0 {
        return Err(KekError::Mode {
            path: path.to_owned(),
            mode: meta.mode() & 0o7777,
        });
    }
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me && me != 0 {
        return Err(KekError::Owner {
            path: path.to_owned(),
            owner: meta.uid(),
            me,
        });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
    file.take(u64::try_from(KEY_BYTES).unwrap_or(0) + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    let key: [u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| KekError::Length {
        path: path.to_owned(),
        len: bytes.len(),
    })?;
    Ok(Zeroizing::new(key))
}

/// Linux's `O_NOFOLLOW`, the same on x86-64 and AArch64's generic ABI through rustix.
const O_NOFOLLOW: i32 = {
    let bits = rustix::fs::OFlags::NOFOLLOW.bits();
    bits.cast_signed()
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_in_its_place() {
        let kek = Kek::new(&[1; 32]).unwrap();
        let sealed = kek.seal(b"here", b"secret").unwrap();
        assert_eq!(
            kek.open_sealed(b"here", &sealed).unwrap().as_slice(),
            b"secret"
        );
        assert!(kek.open_sealed(b"there", &sealed).is_err());
        assert!(
            Kek::new(&[2; 32])
                .unwrap()
                .open_sealed(b"here", &sealed)
                .is_err()
        );
        for cut in 0..sealed.len() {
            assert!(kek.open_sealed(b"here", &sealed[..cut]).is_err());
        }
    }

    #[test]
    fn the_file_is_tight_and_never_replaced() {
        let dir = std::env::temp_dir().join(format!("attesta-kek-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("kek");
        assert!(matches!(Kek::open(&path, false), Err(KekError::Io { .. })));
        let sealed = Kek::open(&path, true).unwrap().seal(b"", b"x").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(
            Kek::open(&path, true)
                .unwrap()
                .open_sealed(b"", &sealed)
                .is_ok(),
            "the same key again"
        );
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .unwrap();
        assert!(matches!(Kek::open(&path, true), Err(KekError::Mode { .. })));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"short").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        assert!(matches!(
            Kek::open(&path, true),
            Err(KekError::Length { len: 5, .. })
        ));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
