//! The work in the background: named, counted, stopped; a panic or an error in one is the process's failure.
//!
//! Must not know what the work is, and never ends the process itself: it says so through [`Tasks::failed`].

mod every;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::Clock;
pub use every::{Outcome, Task, TaskError, Wake};

/// How long an aborted task gets to be dropped. One that blocks its thread never is.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[expect(
    clippy::disallowed_types,
    reason = "held for one map operation, never over an await or a call out"
)]
type Lock<T> = std::sync::Mutex<T>;

/// All tasks of a process, or of a part of it that starts and stops as one. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    stop: CancellationToken,
    running: Lock<Running>,
    /// How many run; what `drain` waits on.
    count: watch::Sender<usize>,
    failure: watch::Sender<Option<TaskFailure>>,
}

#[derive(Default)]
struct Running {
    next: u64,
    tasks: BTreeMap<u64, (&'static str, Option<AbortHandle>)>,
}

/// A task panicked or ended with an error; the process is expected to stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task {name} failed: {message}")]
pub struct TaskFailure {
    /// The task's name.
    pub name: &'static str,
    /// Its error, or the panic's message.
    pub message: String,
}

/// What [`Tasks::drain`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// How many tasks ended by themselves after the stop signal.
    pub finished: usize,
    /// The names of those that did not and were aborted, sorted, one per task.
    pub aborted: Vec<&'static str>,
}

/// What a task may end with: nothing, or a `Result` whose error is the process's failure.
pub trait TaskEnd {
    /// The message of the failure, when there was one.
    fn failure(self) -> Option<String>;
}

impl TaskEnd for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: fmt::Display> TaskEnd for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

impl Tasks {
    /// No tasks yet; periods and backoff are measured on `clock`, the deadline of [`Tasks::drain`] in real time.
    pub fn new(clock: Clock) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                stop: CancellationToken::new(),
                running: Lock::default(),
                count: watch::Sender::new(0),
                failure: watch::Sender::new(None),
            }),
        }
    }

    /// Starts `future` as a task. It should end when [`Tasks::stopping`] says so; one that does not is aborted by
    /// [`Tasks::drain`] after the deadline. Must be called inside a tokio runtime.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output: TaskEnd> + Send + 'static,
    {
        let member = Member::enter(Arc::clone(&self.shared), name);
        let id = member.id;
        let handle = start(async move {
            if let Some(message) = run(future).await {
                member.shared.fail(name, message);
            }
        });
        // The task may have ended already; then there is nothing to hold a handle of.
        if let Some((_, abort)) = self.shared.running().tasks.get_mut(&id) {
            *abort = Some(handle);
        }
    }

    /// A token that is cancelled when the tasks are to stop. It is a child: cancelling it stops nobody else.
    pub fn stopping(&self) -> CancellationToken {
        self.shared.stop.child_token()
    }

    /// Gives the stop signal and returns at once; [`Tasks::drain`] gives it too and waits.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// Gives the stop signal, waits up to `deadline` (real time) for the tasks to end, then aborts what is left.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        let clock = &self.shared.clock;
        let before = self.shared.running().tasks.len();
        self.stop();
        if clock.timeout(deadline, self.idle()).await.is_ok() {
            return Drained {
                finished: before,
                aborted: Vec::new(),
            };
        }
        let mut aborted = Vec::new();
        for (name, handle) in self.shared.running().tasks.values() {
            aborted.push(*name);
            if let Some(handle) = handle {
                handle.abort();
            }
        }
        aborted.sort_unstable();
        if clock.timeout(LAST_WORDS, self.idle()).await.is_err() {
            tracing::warn!(tasks = ?self.counts(), "aborted tasks do not end");
        }
        Drained {
            finished: before.saturating_sub(aborted.len()),
            aborted,
        }
    }

    /// Resolves with the first failure of any task, also when it happened before; else never. Does not borrow.
    pub fn failed(&self) -> impl Future<Output = TaskFailure> + Send + use<> {
        let mut failure = self.shared.failure.subscribe();
        async move {
            if let Ok(failure) = failure.wait_for(Option::is_some).await
                && let Some(failure) = failure.clone()
            {
                return failure;
            }
            pending().await
        }
    }

    /// How many tasks of each name run now.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for (name, _) in self.shared.running().tasks.values() {
            *counts.entry(*name).or_default() += 1;
        }
        counts
    }

    /// Waits until no task runs.
    async fn idle(&self) {
        drop(
            self.shared
                .count
                .subscribe()
                .wait_for(|count| *count == 0)
                .await,
        );
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, Running> {
        // The map is whole whatever panicked.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, name: &'static str, message: String) {
        tracing::error!(task = name, message, "a task failed");
        self.failure.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(TaskFailure { name, message });
            }
            is_first
        });
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tasks").field(&self.counts()).finish()
    }
}

/// One task's place in the register; lives in its future, so it goes however that ends, an abort included.
struct Member {
    shared: Arc<Shared>,
    id: u64,
}

impl Member {
    fn enter(shared: Arc<Shared>, name: &'static str) -> Self {
        let id = {
            let mut running = shared.running();
            let id = running.next;
            running.next += 1;
            running.tasks.insert(id, (name, None));
            id
        };
        shared.count.send_modify(|count| *count += 1);
        Self { shared, id }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.running().tasks.remove(&self.id);
        self.shared
            .count
            .send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// Runs the future to its end and gives the message of its error or panic.
async fn run<F: Future<Output: TaskEnd>>(future: F) -> Option<String> {
    let mut future = Box::pin(future);
    poll_fn(move |context| {
        // After a panic the future is only dropped, never polled again.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(end)) => Poll::Ready(end.failure()),
            Err(panic) => Poll::Ready(Some(format!("panicked: {}", words(panic.as_ref())))),
        }
    })
    .await
}

fn words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
fn start(future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(future).abort_handle()
}

#[cfg(test)]
mod tests;
