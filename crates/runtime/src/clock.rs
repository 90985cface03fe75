//! The one clock: wall and boot time, and the sleeps on them; turned by hand in tests.
//!
//! Must not know what anybody waits for.

use std::fmt;
use std::future::{Future, pending};
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// The longest sleep in one piece. A wall clock that was set, or a machine that was suspended, is noticed no later.
const SLICE: Duration = Duration::from_secs(60);

/// Where time comes from: the machine, or a hand in a test. Cheap to clone; all clones of one clock agree.
#[derive(Clone)]
pub struct Clock {
    source: Source,
}

#[derive(Clone)]
enum Source {
    System,
    Manual(watch::Receiver<Dial>),
}

/// What a manual clock shows.
#[derive(Clone, Copy)]
struct Dial {
    wall: Timestamp,
    boot: Duration,
}

/// The hand of a manual clock. Clones turn the same clock.
#[derive(Clone)]
pub struct ClockHand {
    dial: watch::Sender<Dial>,
}

/// A deadline in real time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline of {0:?} passed")]
pub struct Elapsed(pub Duration);

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self {
            source: Source::System,
        }
    }

    /// A clock that stands at `start` until its hand is turned. Its boot time starts at zero.
    pub fn manual(start: Timestamp) -> (Self, ClockHand) {
        let (dial, seen) = watch::channel(Dial {
            wall: start,
            boot: Duration::ZERO,
        });
        (
            Self {
                source: Source::Manual(seen),
            },
            ClockHand { dial },
        )
    }

    /// The wall clock. May jump in both directions.
    pub fn now(&self) -> Timestamp {
        match &self.source {
            Source::System => wall(),
            Source::Manual(dial) => dial.borrow().wall,
        }
    }

    /// Time since the machine booted, suspended time included (`CLOCK_BOOTTIME`); on a manual clock since it was
    /// made. Never goes back.
    pub fn boot(&self) -> Duration {
        match &self.source {
            Source::System => boot(),
            Source::Manual(dial) => dial.borrow().boot,
        }
    }

    /// Waits until `duration` of boot time has passed. On a machine that was suspended it may be up to 60 s late.
    pub async fn sleep(&self, duration: Duration) {
        let until = self.boot().saturating_add(duration);
        match &self.source {
            Source::System => loop {
                let left = until.saturating_sub(boot());
                if left.is_zero() {
                    return;
                }
                timer(left.min(SLICE)).await;
            },
            Source::Manual(dial) => wait(dial, |dial| dial.boot >= until).await,
        }
    }

    /// Waits until the wall clock shows `time` or later; returns at once when it does. A wall clock that is set while
    /// we sleep is noticed within 60 s.
    pub async fn sleep_until(&self, time: Timestamp) {
        match &self.source {
            Source::System => loop {
                match Duration::try_from(time.duration_since(wall())) {
                    Ok(left) if !left.is_zero() => timer(left.min(SLICE)).await,
                    // Zero or negative: the time has come.
                    _ => return,
                }
            },
            Source::Manual(dial) => wait(dial, |dial| dial.wall >= time).await,
        }
    }

    /// Runs `future` for at most `duration` of **real** time, on a manual clock too: this bounds what others may do to
    /// us (a peer, a disk), and a standing clock must not make that wait for ever.
    ///
    /// # Errors
    /// [`Elapsed`] when the future was not done in time; it is dropped.
    pub async fn timeout<F: Future>(
        &self,
        duration: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        tokio::time::timeout(duration, future)
            .await
            .map_err(|_| Elapsed(duration))
    }
}

impl ClockHand {
    /// Turns wall and boot time forward by `duration` and wakes who waited for a time on the way.
    pub fn advance(&self, duration: Duration) {
        self.dial.send_modify(|dial| {
            dial.wall = dial.wall.checked_add(duration).unwrap_or(Timestamp::MAX);
            dial.boot = dial.boot.saturating_add(duration);
        });
    }

    /// Sets the wall clock alone, forward or back, as an operator or NTP would; boot time stands still.
    pub fn set(&self, time: Timestamp) {
        self.dial.send_modify(|dial| dial.wall = time);
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            Source::System => "system",
            Source::Manual(_) => "manual",
        };
        write!(f, "Clock({source}, {})", self.now())
    }
}

impl fmt::Debug for ClockHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClockHand({})", self.dial.borrow().wall)
    }
}

async fn wait(dial: &watch::Receiver<Dial>, reached: impl FnMut(&Dial) -> bool) {
    if dial.clone().wait_for(reached).await.is_err() {
        // The hand is gone: this time never comes.
        pending::<()>().await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
fn wall() -> Timestamp {
    Timestamp::now()
}

fn boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // Since boot, so neither part is ever negative.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[expect(clippy::disallowed_methods, reason = "the one place that sleeps")]
async fn timer(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn start() -> Timestamp {
        "2030-01-01T00:00:00Z".parse().unwrap()
    }

    /// Whether the future is done when everything that could run has run.
    async fn done<F: Future>(future: F) -> bool {
        tokio::select! {
            biased;
            _ = future => true,
            () = tokio::task::yield_now() => false,
        }
    }

    #[tokio::test]
    async fn hand_turns_both_clocks_and_wakes_sleepers() {
        let (clock, hand) = Clock::manual(start());
        let sleeper = clock.clone();
        let slept = tokio::task::spawn_blocking(move || {
            tokio::runtime::Handle::current().block_on(async {
                sleeper.sleep(MINUTE).await;
                sleeper.boot()
            })
        });
        while hand.dial.receiver_count() < 3 {
            tokio::task::yield_now().await;
        }
        hand.advance(MINUTE / 2);
        assert!(!slept.is_finished());
        hand.advance(MINUTE / 2);
        assert_eq!(slept.await.unwrap(), MINUTE);
        assert_eq!(clock.now(), start() + MINUTE);
    }

    #[tokio::test]
    async fn wall_alone_is_set_back_and_forth() {
        let (clock, hand) = Clock::manual(start());
        hand.set(start() - MINUTE);
        assert!(!done(clock.sleep_until(start())).await);
        assert_eq!(clock.boot(), Duration::ZERO);
        hand.set(start() + MINUTE);
        assert!(done(clock.sleep_until(start())).await);
        assert!(!done(clock.sleep(Duration::from_nanos(1))).await);
    }

    #[tokio::test]
    async fn without_its_hand_a_manual_clock_stands() {
        let (clock, hand) = Clock::manual(start());
        drop(hand);
        assert!(!done(clock.sleep(MINUTE)).await);
        assert!(done(clock.sleep(Duration::ZERO)).await);
        assert_eq!(clock.now(), start());
    }

    #[tokio::test]
    async fn timeout_is_real_time_on_a_standing_clock() {
        let (clock, _hand) = Clock::manual(start());
        let limit = Duration::from_millis(5);
        assert_eq!(
            clock.timeout(limit, pending::<()>()).await,
            Err(Elapsed(limit))
        );
        assert_eq!(clock.timeout(limit, async { 7 }).await, Ok(7));
    }

    #[tokio::test]
    async fn system_clock_sleeps() {
        let clock = Clock::system();
        let (wall, boot) = (clock.now(), clock.boot());
        clock.sleep(Duration::from_millis(3)).await;
        clock
            .sleep_until(clock.now() + Duration::from_millis(3))
            .await;
        assert!(clock.boot() - boot >= Duration::from_millis(6));
        assert!(clock.now() > wall);
        clock.sleep_until(wall).await;
    }
}
