//! Whether the clock can be believed. A clock that lags behind the newest record, or that jumped against the time since
//! boot, signs nothing (DESIGN section 9, Time).

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use attesta_model::{Code, Denial, Reason};
use attesta_runtime::Clock;
use jiff::Timestamp;

/// How far the wall clock may lie behind the newest record.
const BEHIND: Duration = Duration::from_secs(5 * 60);
/// How far it may have jumped against the boot-time clock.
const JUMP: Duration = Duration::from_secs(3600);

/// The wall clock held against the newest record and the boot-time clock.
pub(crate) struct TimeGuard {
    /// Newest record, in milliseconds.
    newest: AtomicI64,
    /// Wall minus boot time when they last agreed, in milliseconds.
    offset: AtomicI64,
}

impl TimeGuard {
    /// Starts at the newest record of the ledger.
    pub(crate) fn new(clock: &Clock, newest: Option<Timestamp>) -> Self {
        Self {
            newest: AtomicI64::new(newest.map_or(i64::MIN, Timestamp::as_millisecond)),
            offset: AtomicI64::new(offset(clock)),
        }
    }

    /// Refuses while the clocks disagree.
    pub(crate) fn check(&self, clock: &Clock) -> Result<(), Denial> {
        let now = clock.now().as_millisecond();
        let newest = self.newest.load(Ordering::Relaxed);
        if newest.saturating_sub(now) > millis(BEHIND) {
            let by = Duration::from_millis(u64::try_from(newest.saturating_sub(now)).unwrap_or(0));
            return Err(refuse(format!(
                "the clock is {} behind the newest record of the ledger; nothing is signed",
                words(by)
            )));
        }
        let jump = offset(clock).saturating_sub(self.offset.load(Ordering::Relaxed));
        if jump.abs() > millis(JUMP) {
            let by = Duration::from_millis(jump.unsigned_abs());
            let way = if jump > 0 { "forward" } else { "back" };
            return Err(refuse(format!(
                "the clock jumped {way} by {} against the time since boot; nothing is signed",
                words(by)
            )));
        }
        // Slow drift and small corrections (NTP) move the reference; a jump does not.
        if jump.abs() < millis(BEHIND) {
            self.offset.fetch_add(jump / 64, Ordering::Relaxed);
        }
        self.newest.fetch_max(now, Ordering::Relaxed);
        Ok(())
    }
}

fn refuse(message: String) -> Denial {
    Denial::new(Code::Unavailable, Reason::Clock, message)
        .with_hint("set the clock, or restart the server once it is right")
}

fn offset(clock: &Clock) -> i64 {
    clock
        .now()
        .as_millisecond()
        .saturating_sub(millis(clock.boot()))
}

fn millis(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX)
}

fn words(d: Duration) -> String {
    let s = d.as_secs();
    if s >= 2 * 86_400 {
        format!("{} days", s / 86_400)
    } else if s >= 2 * 3600 {
        format!("{} hours", s / 3600)
    } else {
        format!("{} minutes", s / 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_or_far_forward_signs_nothing_until_it_is_right_again() {
        let start = Timestamp::from_second(1_764_000_000).unwrap();
        let (clock, hand) = Clock::manual(start);
        let guard = TimeGuard::new(&clock, Some(start));
        guard.check(&clock).unwrap();
        hand.advance(Duration::from_secs(30 * 86_400));
        guard.check(&clock).unwrap();
        let right = clock.now();
        for (seconds, why) in [(-86_400, "behind"), (30 * 86_400, "forward")] {
            hand.set(Timestamp::from_second(right.as_second() + seconds).unwrap());
            let denial = guard.check(&clock).unwrap_err();
            assert_eq!(denial.reason, Reason::Clock);
            assert!(denial.message.contains(why), "{denial}");
            hand.set(right);
            guard.check(&clock).unwrap();
        }
    }

    #[test]
    fn a_restart_with_a_clock_set_back_is_noticed_by_the_newest_record() {
        let start = Timestamp::from_second(1_764_000_000).unwrap();
        let (clock, _hand) = Clock::manual(start);
        let newest = Timestamp::from_second(1_764_000_000 + 86_400).unwrap();
        assert_eq!(
            TimeGuard::new(&clock, Some(newest))
                .check(&clock)
                .unwrap_err()
                .reason,
            Reason::Clock
        );
    }
}
