//! Files that other programs read while they are replaced: whole, or not at all.
//!
//! Must not know what is in them.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::output::Failure;

const CHAIN: &str = "svid.pem";
const KEY: &str = "svid.key";
const BUNDLE: &str = "bundle.pem";
const PUBLIC: u32 = 0o644;
const SECRET: u32 = 0o600;

/// Replaces one file by a rename; who reads it sees the old or the new one, whole.
///
/// # Errors
/// What the system refused, with the path.
pub(in crate::ask) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let fail = |e: io::Error| Failure::file("write", path, &e);
    let temporary = beside(path).map_err(fail)?;
    let done = write_new(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    done.map_err(|e| {
        drop(fs::remove_file(&temporary));
        fail(e)
    })
}

/// Writes chain, key and bundle into `directory` so that they belong together: where the directory holds nothing else, a
/// new one is exchanged for it in one step. Where it holds more, or is a mount point, or its parent cannot be written,
/// the files are replaced one by one: the bundle first, then the key, then the chain.
///
/// # Errors
/// What the system refused, with the path.
pub(super) fn write_pair(
    directory: &Path,
    chain: &[u8],
    key: &[u8],
    bundle: &[u8],
) -> Result<(), Failure> {
    let fail = |e: io::Error| Failure::file("write into", directory, &e);
    let files = [
        (BUNDLE, bundle, PUBLIC),
        (KEY, key, SECRET),
        (CHAIN, chain, PUBLIC),
    ];
    // Through a link, what it leads to is exchanged, not the link.
    let directory = match fs::canonicalize(directory) {
        Ok(real) => real,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(fail)?;
            fs::canonicalize(directory).map_err(fail)?
        }
        Err(e) => return Err(fail(e)),
    };
    if only_ours(&directory).map_err(fail)? && exchange(&directory, &files).is_ok() {
        return Ok(());
    }
    files
        .iter()
        .try_for_each(|(name, bytes, mode)| replace(&directory.join(name), bytes, *mode))
}

/// Removes chain and key; the bundle stays. Whether there was a key.
///
/// # Errors
/// What the system refused, with the path.
pub(super) fn remove_pair(directory: &Path) -> Result<bool, Failure> {
    let mut there = false;
    // The key first: without it the certificate is worth nothing.
    for name in [KEY, CHAIN] {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Ok(()) => there |= name == KEY,
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(Failure::file("remove", &path, &e)),
        }
    }
    Ok(there)
}

/// Whether the directory holds nothing but what is written here; nobody else's file is moved away.
fn only_ours(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let ours = [CHAIN, KEY, BUNDLE]
            .iter()
            .any(|name| entry.file_name() == *name);
        if !ours || !entry.file_type()?.is_file() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a whole new directory beside and swaps the two. Leaves nothing behind when that does not work.
fn exchange(directory: &Path, files: &[(&str, &[u8], u32)]) -> io::Result<()> {
    let fresh = beside(directory)?;
    DirBuilder::new().mode(0o700).create(&fresh)?;
    let swapped = (|| {
        for (name, bytes, mode) in files {
            write_new(&fresh.join(name), bytes, *mode)?;
        }
        // Whoever opened the old one to others meant it.
        let mode = fs::metadata(directory)?.permissions().mode() & 0o777;
        fs::set_permissions(&fresh, Permissions::from_mode(mode))?;
        File::open(&fresh)?.sync_all()?;
        renameat_with(CWD, &fresh, CWD, directory, RenameFlags::EXCHANGE).map_err(io::Error::from)
    })();
    // After the swap this is the old one.
    for name in [CHAIN, KEY, BUNDLE] {
        drop(fs::remove_file(fresh.join(name)));
    }
    drop(fs::remove_dir(&fresh));
    swapped
}

/// A name beside `path` that nobody else uses: hidden, with our process id.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(
            ErrorKind::InvalidInput,
            "the path names nothing in a directory",
        )
    })?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let hidden = path.with_file_name(hidden);
    // What a killed process with our id left.
    drop(fs::remove_file(&hidden));
    Ok(hidden)
}

/// Makes a file of this mode that was not there, and brings it to the disk.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    // The umask took bits away; what is asked for is what others are to see.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_directory_is_closed_and_whole() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a/tls");
        write_pair(&directory, b"chain", b"key", b"bundle").unwrap();
        assert_eq!(names(&directory), [BUNDLE, KEY, CHAIN]);
        assert_eq!(
            (
                mode(&directory),
                mode(&directory.join(KEY)),
                mode(&directory.join(CHAIN))
            ),
            (0o700, SECRET, PUBLIC)
        );
        assert_eq!(
            names(directory.parent().unwrap()),
            ["tls"],
            "nothing is left beside"
        );
    }

    #[test]
    fn a_reader_that_holds_the_directory_sees_one_moment() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("tls");
        write_pair(&directory, b"chain 1", b"key 1", b"bundle").unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o750)).unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let before = inode(&directory);
        write_pair(&directory, b"chain 2", b"key 2", b"bundle").unwrap();
        assert_ne!(inode(&directory), before, "exchanged");
        assert_eq!(mode(&directory), 0o750, "as its owner left it");
        assert_eq!(fs::read(directory.join(KEY)).unwrap(), b"key 2");
        assert_eq!(fs::read(directory.join(CHAIN)).unwrap(), b"chain 2");
        assert_eq!(names(root.path()), ["tls"]);
    }

    #[test]
    fn other_files_stay_where_they_are() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("tls");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("other"), "x").unwrap();
        for round in ["1", "2"] {
            write_pair(&directory, round.as_bytes(), round.as_bytes(), b"b").unwrap();
            assert_eq!(names(&directory), [BUNDLE, "other", KEY, CHAIN]);
            assert_eq!(fs::read_to_string(directory.join(KEY)).unwrap(), round);
            assert_eq!(mode(&directory.join(KEY)), SECRET);
        }
    }

    #[test]
    fn through_a_link_the_target_is_written() {
        let root = tempfile::tempdir().unwrap();
        let (real, link) = (root.path().join("real"), root.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write_pair(&link, b"c", b"k", b"b").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(&real), [BUNDLE, KEY, CHAIN]);
    }

    #[test]
    fn what_is_taken_away_is_gone() {
        let root = tempfile::tempdir().unwrap();
        write_pair(root.path(), b"c", b"k", b"b").unwrap();
        assert!(remove_pair(root.path()).unwrap());
        assert_eq!(names(root.path()), [BUNDLE]);
        assert!(!remove_pair(root.path()).unwrap());
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        replace(&path, b"1", 0o640).unwrap();
        replace(&path, b"22", 0o644).unwrap();
        assert_eq!(
            (fs::read(&path).unwrap().as_slice(), mode(&path)),
            (b"22".as_slice(), 0o644)
        );
        assert_eq!(names(root.path()), ["f"]);
        assert!(replace(&root.path().join("no/f"), b"1", 0o644).is_err());
        assert!(replace(Path::new("/"), b"1", 0o644).is_err());
    }
}
