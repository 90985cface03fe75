//! Readiness: a process is ready while nobody holds a guard.
//!
//! Must not know how readiness is shown (a health RPC, systemd), nor what is waited for beyond its name.

use std::collections::BTreeMap;

use tokio::sync::watch;

type Held = BTreeMap<&'static str, usize>;

/// Hands out guards. Long-lived: a guard may be taken at any time, a clock that jumped makes a server unready again.
#[derive(Debug, Clone)]
pub struct ReadyGuards {
    held: watch::Sender<Held>,
}

/// While it lives the process is not ready; dropped, it no longer objects.
#[derive(Debug)]
#[must_use = "a guard that is dropped at once guards nothing"]
pub struct ReadyGuard {
    name: &'static str,
    held: watch::Sender<Held>,
}

/// Reads whether the process is ready.
#[derive(Debug, Clone)]
pub struct Readiness {
    held: watch::Receiver<Held>,
}

/// Makes both ends. Nothing is held yet, so take the first guards before the [`Readiness`] is shown to anyone.
pub fn readiness() -> (ReadyGuards, Readiness) {
    let (held, reader) = watch::channel(Held::new());
    (ReadyGuards { held }, Readiness { held: reader })
}

impl ReadyGuards {
    /// A guard; `name` says to operators what is waited for.
    pub fn guard(&self, name: &'static str) -> ReadyGuard {
        self.held
            .send_modify(|held| *held.entry(name).or_default() += 1);
        ReadyGuard {
            name,
            held: self.held.clone(),
        }
    }
}

impl Drop for ReadyGuard {
    fn drop(&mut self) {
        self.held.send_modify(|held| {
            if let Some(count) = held.get_mut(self.name) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    held.remove(self.name);
                }
            }
        });
    }
}

impl Readiness {
    /// Whether no guard is held.
    pub fn is_ready(&self) -> bool {
        self.held.borrow().is_empty()
    }

    /// The names of the guards that are held, sorted.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.held.borrow().keys().copied().collect()
    }

    /// Waits until no guard is held.
    pub async fn ready(&self) {
        // When all guards and their maker are gone nothing is held, and the last value says so.
        drop(self.held.clone().wait_for(BTreeMap::is_empty).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_the_last_guard_drops() {
        let (guards, readiness) = readiness();
        let (first, second, ledger) = (
            guards.guard("sockets"),
            guards.guard("sockets"),
            guards.guard("ledger"),
        );
        assert!(!readiness.is_ready());
        assert_eq!(readiness.waiting_for(), ["ledger", "sockets"]);
        drop((first, ledger));
        assert_eq!(readiness.waiting_for(), ["sockets"]);
        let ((), ()) = tokio::join!(readiness.ready(), async { drop(second) });
        assert!(readiness.is_ready());

        let clock = guards.guard("clock");
        assert!(!readiness.is_ready());
        drop(guards);
        drop(clock);
        readiness.ready().await;
    }
}
