//! Arithmetic with moments: half lives with their jitter, waits that grow. Randomness is an argument.
//!
//! Must not know what is waited for.

use std::time::Duration;

use jiff::Timestamp;

/// How far a half life is moved at most, in permille of it.
const JITTER_PERMILLE: u64 = 100;

/// A moment plus a span; the end of time where there is no such moment.
pub(crate) fn after(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// The span between two moments; none where the second is not later.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

/// When something issued at `issued` for `ttl` is to be replaced: at half of it, give or take an even 10 % of that.
pub(crate) fn due_at(issued: Timestamp, ttl: Duration, random: u32) -> Timestamp {
    after(issued, jittered(ttl / 2, random))
}

/// A span, give or take an even 10 %: a random 0 is the shortest, the largest the longest.
pub(crate) fn jittered(span: Duration, random: u32) -> Duration {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    // Split before multiplying, so that no span overflows.
    let tenth = nanos / (1000 / JITTER_PERMILLE);
    let moved = u128::from(tenth) * 2 * u128::from(random) / u128::from(u32::MAX);
    let moved = u64::try_from(moved).unwrap_or(u64::MAX);
    Duration::from_nanos((nanos - tenth).saturating_add(moved))
}

/// Random bits for jitter. Where the system has none a fixed value is as good: jitter guards nothing.
pub(crate) fn dice() -> u32 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => u32::MAX / 2,
    }
}

/// Waits that grow by half, up to a longest one, until something succeeds.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The next wait, with its jitter.
    pub(crate) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 3 / 2).min(self.longest);
        jittered(wait, dice())
    }

    /// It succeeded.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_lives_move_by_a_tenth_at_most() {
        let issued: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        for (ttl, random, expect) in [
            (3600, 0, 1620),
            (3600, u32::MAX, 1980),
            (3600, u32::MAX / 2, 1799),
            (0, u32::MAX, 0),
            (20, 0, 9),
            (20, u32::MAX, 11),
        ] {
            let due = due_at(issued, Duration::from_secs(ttl), random);
            assert_eq!(between(issued, due).as_secs(), expect, "{ttl} {random}");
        }
        assert!(
            due_at(issued, Duration::MAX, u32::MAX) > issued,
            "no span overflows"
        );
        assert_eq!(
            between(issued, issued - Duration::from_secs(1)),
            Duration::ZERO
        );
    }

    #[test]
    fn waits_grow_to_their_longest_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(4));
        let waits: Vec<_> = (0..6).map(|_| backoff.wait()).collect();
        assert!(waits[0] <= Duration::from_millis(1100) && waits[0] >= Duration::from_millis(900));
        assert!(waits[5] >= Duration::from_millis(3600) && waits[5] <= Duration::from_millis(4400));
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(1100));
    }
}
