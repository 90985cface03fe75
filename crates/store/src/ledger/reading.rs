//! Reading records beside the writer: few connections, kept open, on threads that may block.

use std::sync::Arc;

use attesta_model::Denial;
use tokio::sync::{Mutex, Semaphore};

use super::unavailable;
use crate::{OpenRecords, RecordPage, RecordQuery, Records};

/// Most queries at a time.
const CONNECTIONS: u32 = 4;

/// See the module.
pub(super) struct Readers {
    open: Arc<OpenRecords>,
    idle: Mutex<Vec<Box<dyn Records>>>,
    permits: Semaphore,
}

impl Readers {
    pub(super) fn new(open: OpenRecords) -> Self {
        Self {
            open: Arc::new(open),
            idle: Mutex::new(Vec::new()),
            permits: Semaphore::new(CONNECTIONS as usize),
        }
    }

    /// Waits for the queries under way, closes every connection, and refuses what comes after: SQLite removes its log
    /// beside the database when the last connection goes, which must be the writer's.
    pub(super) async fn close(&self) {
        if let Ok(all) = self.permits.acquire_many(CONNECTIONS).await {
            self.idle.lock().await.clear();
            self.permits.close();
            drop(all);
        }
    }

    pub(super) async fn query(&self, query: RecordQuery) -> Result<RecordPage, Denial> {
        let Ok(_permit) = self.permits.acquire().await else {
            return Err(unavailable("the ledger is closed"));
        };
        let idle = self.idle.lock().await.pop();
        let open = Arc::clone(&self.open);
        let asked = tokio::task::spawn_blocking(move || {
            let mut connection = match idle {
                Some(connection) => connection,
                None => open()?,
            };
            connection.query(&query).map(|page| (connection, page))
        });
        match asked.await {
            Ok(Ok((connection, page))) => {
                self.idle.lock().await.push(connection);
                Ok(page)
            }
            // A connection that failed is not used again.
            Ok(Err(e)) => Err(e.into()),
            Err(_) => Err(unavailable("the reader of records was stopped by a defect")),
        }
    }
}
