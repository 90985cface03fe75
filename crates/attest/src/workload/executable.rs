//! The SHA-256 of a program's bytes: bounded in size, in memory and in how many run at once.
//!
//! Knows files, not processes: the caller opens the file and knows whose it is.

use std::{
    collections::{HashMap, VecDeque},
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::digest;
use tokio::sync::Semaphore;

/// Most digests kept: a few hundred bytes each.
const CACHED: usize = 1024;
/// How many files are read at the same time.
const AT_ONCE: usize = 2;
/// Bytes read at a time.
const CHUNK: usize = 128 * 1024;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hashed {
    /// The digest of all bytes.
    Digest([u8; 32]),
    /// The file is larger than the limit, and was not read.
    TooLarge {
        /// Its size in bytes.
        size: u64,
    },
}

/// Digests by file, remembered for as long as the file is the same.
pub(crate) struct Executables {
    limit: u64,
    gate: Arc<Semaphore>,
    #[expect(
        clippy::disallowed_types,
        reason = "held for one look-up or insertion, never across IO or await"
    )]
    cache: std::sync::Mutex<Cache>,
}

impl Executables {
    /// `limit` is the largest file that is read, in bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            gate: Arc::new(Semaphore::new(AT_ONCE)),
            cache: Default::default(),
        }
    }

    /// The largest file that is read, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Hashes a file on a blocking thread, or remembers. When the caller gives up, reading stops.
    pub(crate) async fn hash(&self, file: File) -> io::Result<Hashed> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("is no regular file"));
        }
        if metadata.len() > self.limit {
            return Ok(Hashed::TooLarge {
                size: metadata.len(),
            });
        }
        let key = Key::of(&metadata);
        if let Some(digest) = self.cached(&key) {
            return Ok(Hashed::Digest(digest));
        }
        let permit = Arc::clone(&self.gate)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        // Whoever waited here may have waited for this very file.
        if let Some(digest) = self.cached(&key) {
            return Ok(Hashed::Digest(digest));
        }
        let given_up = GivenUp::default();
        let (stop, limit) = (Arc::clone(&given_up.0), self.limit);
        let read = tokio::task::spawn_blocking(move || {
            // The permit goes with the thread, so that readers who are stuck are counted.
            let _permit = permit;
            let digest = sha256(&file, limit, &stop)?;
            Ok::<_, io::Error>((digest, Key::of(&file.metadata()?)))
        });
        let (digest, after) = read.await.map_err(io::Error::other)??;
        drop(given_up);
        if after != key {
            return Err(io::Error::other("changed while it was read"));
        }
        if let Ok(mut cache) = self.cache.lock() {
            cache.insert(key, digest);
        }
        Ok(Hashed::Digest(digest))
    }

    fn cached(&self, key: &Key) -> Option<[u8; 32]> {
        self.cache.lock().ok()?.digests.get(key).copied()
    }
}

/// Tells the reading thread to stop once nobody waits for it.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn sha256(mut file: impl Read, limit: u64, stop: &AtomicBool) -> io::Result<[u8; 32]> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; CHUNK];
    let mut total = 0_u64;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        let read = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        total = total.saturating_add(read as u64);
        if total > limit {
            return Err(io::Error::other("grew while it was read"));
        }
        context.update(chunk.get(..read).unwrap_or_default());
    }
    context
        .finish()
        .as_ref()
        .try_into()
        .map_err(io::Error::other)
}

/// That a file is the same with the same bytes. A write changes `ctime`, which no user can set;
/// two writes within one tick of the kernel's clock are told apart from Linux 6.13 on, and before
/// that by the kernel's refusal to write to a program that runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Key {
    fn of(m: &Metadata) -> Self {
        Self {
            dev: m.dev(),
            ino: m.ino(),
            size: m.size(),
            mtime: (m.mtime(), m.mtime_nsec()),
            ctime: (m.ctime(), m.ctime_nsec()),
        }
    }
}

/// Forgets what came first.
#[derive(Default)]
struct Cache {
    digests: HashMap<Key, [u8; 32]>,
    order: VecDeque<Key>,
}

impl Cache {
    fn insert(&mut self, key: Key, digest: [u8; 32]) {
        if self.digests.insert(key, digest).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > CACHED {
            if let Some(first) = self.order.pop_front() {
                self.digests.remove(&first);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    async fn hash(executables: &Executables, path: &std::path::Path) -> String {
        match executables.hash(File::open(path).unwrap()).await.unwrap() {
            Hashed::Digest(digest) => hex::encode(digest),
            Hashed::TooLarge { size } => format!("{size} bytes"),
        }
    }

    #[tokio::test]
    async fn bytes_are_hashed_and_a_write_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let executables = Executables::new(1 << 20);
        std::fs::write(&path, "").unwrap();
        assert_eq!(hash(&executables, &path).await, EMPTY);
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(hash(&executables, &path).await, ABC);
        assert_eq!(hash(&executables, &path).await, ABC);
        assert_eq!(executables.cache.lock().unwrap().digests.len(), 2);
        // Another file, the same bytes.
        std::fs::copy(&path, dir.path().join("copy")).unwrap();
        assert_eq!(hash(&executables, &dir.path().join("copy")).await, ABC);
    }

    #[tokio::test]
    async fn a_large_one_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let file = File::create(&path).unwrap();
        file.set_len(2 << 30).unwrap();
        assert_eq!(
            hash(&Executables::new(512 << 20), &path).await,
            "2147483648 bytes"
        );
        // Exactly at the limit it is read.
        file.set_len(300_000).unwrap();
        assert_eq!(hash(&Executables::new(300_000), &path).await.len(), 64);
        assert_eq!(
            hash(&Executables::new(299_999), &path).await,
            "300000 bytes"
        );
    }

    #[tokio::test]
    async fn only_regular_files() {
        let executables = Executables::new(1 << 20);
        assert!(
            executables
                .hash(File::open("/dev/null").unwrap())
                .await
                .is_err()
        );
    }

    #[test]
    fn reading_stops_when_nobody_waits_or_the_file_grows() {
        let stop = AtomicBool::new(true);
        assert!(sha256(io::repeat(0), u64::MAX, &stop).is_err());
        assert!(sha256(io::repeat(0), 1 << 20, &AtomicBool::new(false)).is_err());
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"x").unwrap();
        let key = Key::of(&file.metadata().unwrap());
        let mut cache = Cache::default();
        for ino in 0..3000 {
            cache.insert(Key { ino, ..key }, [0; 32]);
            cache.insert(Key { ino, ..key }, [0; 32]);
        }
        assert_eq!((cache.digests.len(), cache.order.len()), (CACHED, CACHED));
        assert!(cache.digests.contains_key(&Key { ino: 2999, ..key }));
    }
}
