//! Tasks end by themselves, by a signal, by force, and by accident.

use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;

use super::*;
use crate::ClockHand;

const SOON: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_secs(10);

fn tasks() -> (Tasks, ClockHand) {
    let (clock, hand) = Clock::manual(Timestamp::UNIX_EPOCH);
    (Tasks::new(clock), hand)
}

async fn until(mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(LATE, async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the condition came about");
}

#[tokio::test]
async fn drain_lets_the_willing_finish_and_aborts_the_rest() {
    let (tasks, _hand) = tasks();
    for _ in 0..2 {
        let stop = tasks.stopping();
        tasks.spawn("willing", async move { stop.cancelled().await });
    }
    tasks.spawn("deaf", pending::<()>());
    assert_eq!(
        tasks.counts(),
        BTreeMap::from([("willing", 2), ("deaf", 1)])
    );
    let drained = tasks.drain(SOON).await;
    assert_eq!(
        drained,
        Drained {
            finished: 2,
            aborted: vec!["deaf"]
        }
    );
    assert!(tasks.counts().is_empty());
    assert_eq!(tasks.drain(LATE).await.aborted, Vec::<&str>::new());
}

#[tokio::test]
async fn a_task_that_ends_is_forgotten() {
    let (tasks, _hand) = tasks();
    tasks.spawn("short", async {});
    tasks.spawn("fine", async { Ok::<(), String>(()) });
    until(|| tasks.counts().is_empty()).await;
    assert!(tasks.shared.failure.borrow().is_none());
}

#[tokio::test]
async fn a_panic_and_an_error_are_failures() {
    let (panicked, _hand) = tasks();
    panicked.spawn("bad", async {
        let luck = Duration::ZERO;
        assert!(!luck.is_zero(), "out of {}", "luck");
    });
    let failure = panicked.failed().await;
    assert_eq!(
        failure.to_string(),
        "task bad failed: panicked: out of luck"
    );
    // The first failure stays.
    panicked.spawn("worse", async { Err::<(), _>("late") });
    until(|| panicked.counts().is_empty()).await;
    assert_eq!(panicked.failed().await, failure);

    let (erred, _hand) = tasks();
    let (failure, ()) = tokio::join!(erred.failed(), async {
        erred.spawn("listener", async { Err::<(), _>("address in use") });
    });
    assert_eq!(
        (failure.name, failure.message.as_str()),
        ("listener", "address in use")
    );
}

#[tokio::test]
async fn stopping_is_a_child() {
    let (tasks, _hand) = tasks();
    tasks.stopping().cancel();
    let stop = tasks.stopping();
    assert!(!stop.is_cancelled());
    tasks.stop();
    assert!(stop.is_cancelled() && tasks.stopping().is_cancelled());
}

/// Counts its ticks; fails while told to.
struct Counter {
    ticks: Arc<AtomicU32>,
    failing: Arc<AtomicU32>,
}

impl Task for Counter {
    const NAME: &'static str = "counter";
    const EVERY: Duration = Duration::from_secs(100);

    async fn tick(&mut self, _now: Timestamp) -> Result<Outcome, TaskError> {
        self.ticks.fetch_add(1, Ordering::SeqCst);
        if self.failing.load(Ordering::SeqCst) > 0 {
            return Err(TaskError::new("told to"));
        }
        Ok(Outcome::Did("counted".into()))
    }
}

/// Lets the task run as far as it can, so that its next sleep has begun.
async fn settle(ticks: &AtomicU32, expect: u32) {
    until(|| ticks.load(Ordering::SeqCst) >= expect).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ticks.load(Ordering::SeqCst), expect);
}

#[tokio::test]
async fn a_task_ticks_at_once_by_period_and_when_woken() {
    let (tasks, hand) = tasks();
    let (ticks, failing) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let wake = Wake::new();
    let counter = Counter {
        ticks: Arc::clone(&ticks),
        failing: Arc::clone(&failing),
    };
    tasks.every(counter, Some(wake.clone()));
    settle(&ticks, 1).await;
    hand.advance(Duration::from_secs(99));
    settle(&ticks, 1).await;
    hand.advance(Duration::from_secs(1));
    settle(&ticks, 2).await;
    wake.wake();
    wake.wake();
    settle(&ticks, 3).await;

    // While it fails, the waits grow and wakes wait too.
    failing.store(1, Ordering::SeqCst);
    wake.wake();
    settle(&ticks, 4).await;
    wake.wake();
    settle(&ticks, 4).await;
    hand.advance(Duration::from_secs(1));
    settle(&ticks, 5).await;
    hand.advance(Duration::from_secs(1));
    settle(&ticks, 5).await;
    failing.store(0, Ordering::SeqCst);
    hand.advance(Duration::from_secs(1));
    // Recovered, and the wake that waited was served by this very tick.
    settle(&ticks, 6).await;

    assert_eq!(tasks.drain(LATE).await.finished, 1);
    wake.wake();
    settle(&ticks, 6).await;
}
