//! A value that is replaced while others read it: one `Writer`, any number of `Live` readers.
//!
//! Must not know what the value is. Reading takes no lock and never waits for the writer.

use std::fmt;
use std::future::pending;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

/// The writing end. There is one; who must only read is given a [`Live`].
pub struct Writer<T> {
    value: Arc<ArcSwap<T>>,
    version: watch::Sender<u64>,
}

/// The reading end; cheap to clone.
pub struct Live<T> {
    value: Arc<ArcSwap<T>>,
    version: watch::Receiver<u64>,
}

/// Makes a live value that starts as `value`, at version 0.
pub fn live<T>(value: T) -> (Writer<T>, Live<T>) {
    let value = Arc::new(ArcSwap::from_pointee(value));
    let (writer, reader) = watch::channel(0);
    (
        Writer {
            value: Arc::clone(&value),
            version: writer,
        },
        Live {
            value,
            version: reader,
        },
    )
}

impl<T> Writer<T> {
    /// Replaces the value and wakes who waits in [`Live::changed`].
    pub fn publish(&self, value: T) {
        self.publish_arc(Arc::new(value));
    }

    /// As [`Writer::publish`], for a value that is shared already.
    pub fn publish_arc(&self, value: Arc<T>) {
        // INVARIANT: the value is stored before its version, so whoever saw a version finds that value or a newer one.
        self.value.store(value);
        self.version.send_modify(|version| *version += 1);
    }

    /// A new reader.
    pub fn reader(&self) -> Live<T> {
        Live {
            value: Arc::clone(&self.value),
            version: self.version.subscribe(),
        }
    }

    /// The value as it is now.
    pub fn load(&self) -> Arc<T> {
        self.value.load_full()
    }
}

impl<T> Live<T> {
    /// The value as it is now; it stays as it is for as long as the caller holds it.
    pub fn load(&self) -> Arc<T> {
        self.value.load_full()
    }

    /// How often the value has been replaced. Take the version first and load after: then the value is that version's
    /// or newer, and no change is missed.
    pub fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Waits until the version is above `seen` and returns it; at once when it is already. When the writer is gone and
    /// nothing newer came, this never resolves (a loop over it cannot spin): select it against the stop signal.
    pub async fn changed(&self, seen: u64) -> u64 {
        let mut version = self.version.clone();
        if let Ok(version) = version.wait_for(|version| *version > seen).await {
            return *version;
        }
        pending().await
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            version: self.version.clone(),
        }
    }
}

// Neither shows the value: it may be a key.
impl<T> fmt::Debug for Writer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writer(version {})", *self.version.borrow())
    }
}

impl<T> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Live(version {})", self.version())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readers_see_what_is_published() {
        let (writer, reader) = live(1);
        let held = reader.load();
        assert_eq!((*held, reader.version()), (1, 0));
        writer.publish(2);
        assert_eq!(reader.changed(0).await, 1);
        assert_eq!((*held, *reader.load(), *writer.reader().load()), (1, 2, 2));
        writer.publish_arc(Arc::new(3));
        // Two changes are one wake.
        assert_eq!(reader.changed(0).await, 2);
        assert_eq!((*writer.load(), writer.reader().version()), (3, 2));
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes() {
        let (writer, reader) = live("old");
        let (version, ()) = tokio::join!(reader.changed(0), async { writer.publish("new") });
        assert_eq!((version, *reader.load()), (1, "new"));
    }

    #[tokio::test]
    async fn without_a_writer_the_last_change_is_seen_and_no_other() {
        let (writer, reader) = live(1);
        writer.publish(2);
        drop(writer);
        assert_eq!(reader.changed(0).await, 1);
        tokio::select! {
            biased;
            _ = reader.changed(1) => panic!("nothing newer can come"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(*reader.load(), 2);
    }
}
