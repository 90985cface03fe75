//! What the kernel writes about a process in `/proc/PID`: pure parsers, which read no file.
//!
//! A process chooses parts of these texts itself (its name above all), so nothing here trusts
//! where a word stands without counting from a side that the process cannot write.

/// Why a text is not what the kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} has no readable {what}")]
pub struct ParseError {
    /// The file below `/proc/PID`.
    pub file: &'static str,
    /// What was looked for.
    pub what: &'static str,
}

/// What we read of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The parent's process id; 0 for none that is visible here.
    pub parent: u32,
    /// Start time in clock ticks since boot (field 22).
    pub start: u64,
}

/// Parses `/proc/PID/stat`. The name may carry spaces, parentheses and line breaks; the last
/// closing parenthesis ends it, because only numbers follow.
///
/// # Errors
/// [`ParseError`] names the field.
pub fn stat(text: &[u8]) -> Result<Stat, ParseError> {
    let fail = |what| ParseError { file: "stat", what };
    let end = text.iter().rposition(|b| *b == b')').ok_or(fail("name"))?;
    let rest = text
        .get(end + 1..)
        .and_then(|b| std::str::from_utf8(b).ok())
        .ok_or(fail("fields"))?;
    // The first field after the name is field 3, the state.
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields
        .nth(1)
        .and_then(|f| f.parse().ok())
        .ok_or(fail("parent"))?;
    let start = fields
        .nth(17)
        .and_then(|f| f.parse().ok())
        .ok_or(fail("start time"))?;
    Ok(Stat { parent, start })
}

/// What we read of `/proc/PID/status`: the effective ids, which is what SPIRE's selectors name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary group ids, in the kernel's order.
    pub groups: Vec<u32>,
}

/// Parses `/proc/PID/status`. The kernel escapes line breaks in the name, so a line is a line;
/// one that comes twice is an error all the same.
///
/// # Errors
/// [`ParseError`] names the line.
pub fn status(text: &[u8]) -> Result<Status, ParseError> {
    let line = |name: &'static str| -> Result<Vec<u32>, ParseError> {
        let fail = ParseError {
            file: "status",
            what: name,
        };
        let mut values = text
            .split(|b| *b == b'\n')
            .filter_map(|l| l.strip_prefix(name.as_bytes())?.strip_prefix(b":"));
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(fail);
        };
        let value = std::str::from_utf8(value).map_err(|_| fail)?;
        value
            .split_ascii_whitespace()
            .map(|n| n.parse().map_err(|_| fail))
            .collect()
    };
    // Real, effective, saved, file system.
    let effective = |name: &'static str| match line(name)?.as_slice() {
        [_, effective, _, _] => Ok(*effective),
        _ => Err(ParseError {
            file: "status",
            what: name,
        }),
    };
    Ok(Status {
        uid: effective("Uid")?,
        gid: effective("Gid")?,
        groups: line("Groups")?,
    })
}

/// Parses `/proc/PID/cgroup` (cgroups(7)) to the one path that says most: the unified hierarchy's
/// (v2, and hybrid where it is used), else systemd's named one, else the process counter's, else
/// the first that is not the root; `/` when all are.
///
/// # Errors
/// [`ParseError`] when there is no line of that shape, or the path is no UTF-8.
pub fn cgroup(text: &[u8]) -> Result<&str, ParseError> {
    let fail = ParseError {
        file: "cgroup",
        what: "hierarchy",
    };
    let text = std::str::from_utf8(text).map_err(|_| fail)?;
    let mut lines = Vec::new();
    for line in text.lines() {
        // hierarchy-id:controllers:path, and a path may carry colons.
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(fail);
        };
        if id.parse::<u32>().is_err() || !path.starts_with('/') {
            return Err(fail);
        }
        lines.push((controllers, path));
    }
    if lines.is_empty() {
        return Err(fail);
    }
    let wanted: [&dyn Fn(&str) -> bool; 4] = [
        &|c| c.is_empty(),
        &|c| c == "name=systemd",
        &|c| c.split(',').any(|one| one == "pids"),
        &|_| true,
    ];
    let found = wanted
        .iter()
        .find_map(|want| lines.iter().find(|(c, path)| want(c) && *path != "/"));
    Ok(found.map_or("/", |(_, path)| path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_any_name() {
        let tail =
            "S 41 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 2000 18446744073709551615";
        for name in [
            "sleep",
            "a b",
            "(sd-pam)",
            ") R 1 1",
            "x) S 9 9 (",
            "a\nb",
            "",
        ] {
            let text = format!("42 ({name}) {tail}\n");
            assert_eq!(
                stat(text.as_bytes()),
                Ok(Stat {
                    parent: 41,
                    start: 987_654
                }),
                "{name:?}"
            );
        }
        let mut raw = b"42 (\xff\xfe) ".to_vec();
        raw.extend_from_slice(tail.as_bytes());
        assert_eq!(
            stat(&raw),
            Ok(Stat {
                parent: 41,
                start: 987_654
            })
        );
    }

    #[test]
    fn stat_that_is_none() {
        for (text, what) in [
            ("", "name"),
            ("42 (sleep", "name"),
            ("42 (sleep)", "parent"),
            ("42 (sleep) S x", "parent"),
            ("42 (sleep) S 1 7 7 0", "start time"),
            ("42 (sleep) S -1 7 7 0", "parent"),
        ] {
            assert_eq!(
                stat(text.as_bytes()),
                Err(ParseError { file: "stat", what }),
                "{text:?}"
            );
        }
    }

    #[test]
    fn status_names_the_effective_ids() {
        let text = "Name:\tx\\nUid:\t0\nUmask:\t0022\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nGroups:\t4 20 1000 \nNStgid:\t1\n";
        assert_eq!(
            status(text.as_bytes()),
            Ok(Status {
                uid: 1001,
                gid: 6,
                groups: vec![4, 20, 1000]
            })
        );
        let none = "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \n";
        assert_eq!(status(none.as_bytes()).unwrap().groups, Vec::<u32>::new());
    }

    #[test]
    fn status_that_is_none() {
        for (text, what) in [
            ("", "Uid"),
            ("Uid:\t1\t2\t3\n", "Uid"),
            ("Uid:\t1\t2\t3\t4\nUid:\t1\t2\t3\t4\n", "Uid"),
            ("Uid:\t1\t2\t3\t-4\n", "Uid"),
            ("Uid:\t1\t2\t3\t4\nGid:\t1\t2\t3\t99999999999\n", "Gid"),
            ("Uid:\t1\t2\t3\t4\nGid:\t1\t2\t3\t4\n", "Groups"),
            ("Uid:\t1\t2\t3\t4\nGid:\t1\t2\t3\t4\nGroups:\tx\n", "Groups"),
        ] {
            assert_eq!(
                status(text.as_bytes()),
                Err(ParseError {
                    file: "status",
                    what
                }),
                "{text:?}"
            );
        }
    }

    #[test]
    fn cgroup_of_each_layout() {
        for (text, expect) in [
            ("0::/user.slice/a.scope\n", Some("/user.slice/a.scope")),
            ("0::/\n", Some("/")),
            ("0::/a:b\n", Some("/a:b")),
            // Hybrid, unified in use; hybrid, unified unused; v1 alone.
            ("12:pids:/p\n1:name=systemd:/s\n0::/u\n", Some("/u")),
            ("12:pids:/p\n1:name=systemd:/s\n0::/\n", Some("/s")),
            (
                "4:memory:/docker/1\n12:cpu,pids:/docker/2\n",
                Some("/docker/2"),
            ),
            ("3:cpuset:/\n4:memory:/docker/1\n", Some("/docker/1")),
            ("3:cpuset:/\n", Some("/")),
            ("", None),
            ("0:/a\n", None),
            ("x::/a\n", None),
            ("0::a\n", None),
        ] {
            assert_eq!(cgroup(text.as_bytes()).ok(), expect, "{text:?}");
        }
        assert!(cgroup(b"0::/\xff\n").is_err());
    }

    #[test]
    fn our_own_are_read() {
        let read = |name: &str| std::fs::read(format!("/proc/self/{name}")).unwrap();
        assert!(stat(&read("stat")).unwrap().start > 0);
        assert_eq!(
            status(&read("status")).unwrap().uid,
            rustix::process::geteuid().as_raw()
        );
        assert!(cgroup(&read("cgroup")).unwrap().starts_with('/'));
    }
}
