//! Named places at which a crash test stops the process. Nothing is armed in production but by an explicit setting;
//! an unarmed set costs one comparison with null.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A group of commands is prepared; nothing of it was handed to the backend.
pub const BEFORE_COMMIT: &str = "before_commit";
/// The backend said that the group is durable; nobody was told yet.
pub const AFTER_FSYNC: &str = "after_fsync";

/// Which places are armed. Clones share their counts.
#[derive(Clone, Default)]
pub struct Failpoints(Vec<Arc<Armed>>);

struct Armed {
    name: String,
    nth: u64,
    hits: AtomicU64,
    action: Box<dyn Fn() + Send + Sync>,
}

impl Failpoints {
    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Arms one more place: `action` is called when `name` is passed for the `nth` time, counted from 1. In a crash
    /// test it is `std::process::abort`.
    #[must_use]
    pub fn arm(
        mut self,
        name: impl Into<String>,
        nth: u64,
        action: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        self.0.push(Arc::new(Armed {
            name: name.into(),
            nth,
            hits: AtomicU64::new(0),
            action: Box::new(action),
        }));
        self
    }

    /// This place is passed.
    pub fn hit(&self, name: &str) {
        for armed in self.0.iter().filter(|a| a.name == name) {
            if armed.hits.fetch_add(1, Ordering::AcqRel) + 1 == armed.nth {
                (armed.action)();
            }
        }
    }
}

impl fmt::Debug for Failpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|a| (&a.name, a.nth)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nth_of_its_name_acts() {
        let count = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&count);
        let points = Failpoints::none().arm(AFTER_FSYNC, 2, move || {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        let twin = points.clone();
        points.hit(BEFORE_COMMIT);
        for (times, expect) in [(1, 0), (2, 1), (3, 1)] {
            twin.hit(AFTER_FSYNC);
            assert_eq!(count.load(Ordering::Relaxed), expect, "after {times}");
        }
    }
}
