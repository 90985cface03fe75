//! Periodic work: an idempotent tick without input, on its period and when woken.
//!
//! Must not know what a tick does; an error in one is logged and retried, never the end of the process.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::Tasks;
use crate::Clock;

/// The first wait after a failed tick; it doubles up to the task's period, or [`LONGEST_BACKOFF`] when that is less.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait after a failed tick.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// Work that is done again and again. A tick looks at the state and does what is due; it takes no input, so one that
/// was missed, repeated or came late changes nothing in the end.
pub trait Task: Send + 'static {
    /// The name in logs, counts and failures.
    const NAME: &'static str;
    /// The longest time between two ticks, on the tasks' clock.
    const EVERY: Duration;

    /// Does what is due at `now`.
    ///
    /// # Errors
    /// Whatever stopped it; the tick is repeated with growing waits.
    fn tick(&mut self, now: Timestamp) -> impl Future<Output = Result<Outcome, TaskError>> + Send;
}

/// What a tick came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was due.
    Idle,
    /// Something was done; the words are for the log.
    Did(String),
}

/// Why a tick failed: words for the log. Any error becomes one by `?`, with its sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskError {
    message: String,
}

impl TaskError {
    /// An error of these words.
    pub fn new(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
        }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// Not an `Error` itself, so that every error converts.
impl<E: Error> From<E> for TaskError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let words = cause.to_string();
            // Some errors show their source themselves.
            if !message.contains(&words) {
                message.push_str(": ");
                message.push_str(&words);
            }
            source = cause.source();
        }
        Self { message }
    }
}

/// Wakes one [`Task`] before its period is over. Clones wake the same task; wakes before a tick starts are one.
#[derive(Debug, Clone, Default)]
pub struct Wake {
    notify: Arc<Notify>,
}

impl Wake {
    /// A wake that nobody has used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the task tick soon. Kept when the task is busy.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// Waits for a wake and takes it; for work that is not a [`Task`].
    pub async fn woken(&self) {
        self.notify.notified().await;
    }

    /// Takes a wake that waits, if any: the tick that starts now serves it.
    fn forget(&self) {
        pin!(self.notify.notified()).enable();
    }
}

impl Tasks {
    /// Starts `task`: one tick at once, then one per period and one per wake, until the stop signal. A tick that runs
    /// when the signal comes is finished. A failed tick is logged when its message is new and repeated after 1 s, 2 s,
    /// 4 s, up to the period or 5 min, whichever is less; wakes do not shorten these waits.
    pub fn every<T: Task>(&self, mut task: T, wake: Option<Wake>) {
        let stop = self.stopping();
        let clock = self.shared.clock.clone();
        self.spawn(T::NAME, async move {
            let wake = wake.unwrap_or_default();
            let mut trouble = Trouble::default();
            while !stop.is_cancelled() {
                wake.forget();
                let pause = match task.tick(clock.now()).await {
                    Ok(outcome) => {
                        trouble.over(T::NAME);
                        if let Outcome::Did(what) = outcome {
                            tracing::debug!(task = T::NAME, what, "tick");
                        }
                        rest(&clock, T::EVERY, Some(&wake))
                    }
                    Err(error) => {
                        let backoff = trouble.again(T::NAME, T::EVERY, error);
                        rest(&clock, backoff, None)
                    }
                };
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = pause => {}
                }
            }
        });
    }
}

async fn rest(clock: &Clock, duration: Duration, wake: Option<&Wake>) {
    match wake {
        None => clock.sleep(duration).await,
        Some(wake) => tokio::select! {
            () = clock.sleep(duration) => {}
            () = wake.woken() => {}
        },
    }
}

/// The failures of one task in a row.
#[derive(Default)]
struct Trouble {
    count: u32,
    logged: Option<TaskError>,
}

impl Trouble {
    /// One more failure: logs it when it says something new, and gives the wait before the next try.
    fn again(&mut self, task: &'static str, every: Duration, error: TaskError) -> Duration {
        if self.logged.as_ref() != Some(&error) {
            tracing::warn!(task, %error, "a tick failed and will be repeated");
            self.logged = Some(error);
        }
        let limit = every.clamp(FIRST_BACKOFF, LONGEST_BACKOFF);
        let backoff = FIRST_BACKOFF.saturating_mul(2u32.saturating_pow(self.count));
        self.count = self.count.saturating_add(1);
        backoff.min(limit)
    }

    fn over(&mut self, task: &'static str) {
        if self.count > 0 {
            tracing::info!(task, failures = self.count, "ticks succeed again");
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_the_period() {
        let check = |every: u64, expect: &[u64]| {
            let mut trouble = Trouble::default();
            let waits: Vec<u64> = expect
                .iter()
                .map(|_| {
                    trouble
                        .again("t", Duration::from_secs(every), TaskError::new("no"))
                        .as_secs()
                })
                .collect();
            assert_eq!(waits, expect, "every {every} s");
        };
        check(0, &[1, 1, 1]);
        check(5, &[1, 2, 4, 5, 5]);
        check(86_400, &[1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    }

    #[test]
    fn an_error_brings_its_sources_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("disk full")]
        struct Inner;
        #[derive(Debug, thiserror::Error)]
        enum Outer {
            #[error("no commit")]
            Silent(#[source] Inner),
            #[error("no commit: {0}")]
            Shown(#[source] Inner),
        }
        for error in [Outer::Silent(Inner), Outer::Shown(Inner)] {
            assert_eq!(TaskError::from(error).to_string(), "no commit: disk full");
        }
    }
}
