//! Replaces what is due and drops what nobody is entitled to any more; fetches ahead what a node shares.
//!
//! Rotation is no mechanism of its own: an SVID is due, it is obtained anew like any other, and streams notice.

use std::{collections::HashMap, sync::Arc, time::Duration};

use attesta_model::{IdPattern, Match};
use attesta_runtime::{Clock, Live, Outcome, Task, TaskError};
use jiff::Timestamp;

use crate::{
    authorized::{Authorized, Who},
    holdings::{Book, Due, HoldingKey, LOOK_EVERY},
    issue::{Desk, Order, Want},
    moments::{self, Backoff},
    status::Board,
};

/// How long a refused holding is left alone, unless its entry changes.
const REFUSED: Duration = Duration::from_secs(60);

/// The task's state.
pub(crate) struct Rotate {
    authorized: Live<Authorized>,
    book: Arc<Book>,
    desk: Desk,
    board: Board,
    clock: Clock,
    /// Refused, of which revision, and when to ask again.
    refused: HashMap<HoldingKey, (u64, Timestamp)>,
    /// While the server is away: when to ask again.
    away: Option<Timestamp>,
    waits: Backoff,
}

impl Rotate {
    pub(crate) fn new(
        authorized: Live<Authorized>,
        book: Arc<Book>,
        desk: Desk,
        board: Board,
        clock: Clock,
    ) -> Self {
        let waits = Backoff::new(LOOK_EVERY, Duration::from_secs(30));
        Self {
            authorized,
            book,
            desk,
            board,
            clock,
            refused: HashMap::new(),
            away: None,
            waits,
        }
    }

    fn may_ask(&self, key: &HoldingKey, revision: u64, now: Timestamp) -> bool {
        self.refused
            .get(key)
            .is_none_or(|(refused, again)| *refused != revision || *again <= now)
    }

    /// What is to be obtained now.
    fn orders(&self, authorized: &Authorized, now: Timestamp) -> Vec<Order> {
        let holdings = self.book.holdings();
        let mut gone = Vec::new();
        let mut orders = Vec::new();
        for (key, held, why) in holdings.due(authorized, now) {
            match why {
                Due::Drop => gone.push((key, held)),
                Due::Replace(entry) if self.may_ask(&key, entry.revision(), now) => {
                    orders.push(Order {
                        who: Arc::clone(&held.who),
                        id: key.place.id,
                        entry,
                        want: Want::X509,
                        correlation: String::new(),
                        instead_of: Some(held.serial.clone()),
                    })
                }
                Due::Replace(_) => {}
            }
        }
        self.book.drop_held(&gone);
        let node = Arc::new(Who::node());
        for entry in authorized.shared() {
            let IdPattern::Exact(id) = entry.spiffe_id() else {
                continue;
            };
            let key = HoldingKey::of(&node, entry, id);
            if !entry.is_expired(now)
                && holdings.get(&key).is_none()
                && self.may_ask(&key, entry.revision(), now)
            {
                let one = Match {
                    entry: Arc::clone(entry),
                    id: id.clone(),
                };
                orders.push(Order::first(
                    Arc::clone(&node),
                    one,
                    Want::X509,
                    String::new(),
                ));
            }
        }
        orders
    }
}

impl Task for Rotate {
    const NAME: &'static str = "rotate";
    const EVERY: Duration = LOOK_EVERY;

    async fn tick(&mut self, now: Timestamp) -> Result<Outcome, TaskError> {
        if self
            .away
            .is_some_and(|again| now < again && !self.board.live().load().server_reachable)
        {
            return Ok(Outcome::Idle);
        }
        let authorized = self.authorized.load();
        let orders = self.orders(&authorized, now);
        let holdings = self.book.holdings().len();
        self.board.update(|status| status.holdings = holdings);
        if orders.is_empty() {
            self.refused.retain(|_, (_, again)| now < *again);
            return Ok(Outcome::Idle);
        }
        let keys: Vec<_> = orders
            .iter()
            .map(|order| (order.key().0, order.entry.revision()))
            .collect();
        let (mut replaced, mut away) = (0_usize, false);
        for ((key, revision), answer) in keys.into_iter().zip(self.desk.obtain(orders).await) {
            match answer {
                Ok(_) => replaced += 1,
                Err(refusal) if refusal.is_passing() => away = true,
                Err(refusal) => {
                    tracing::warn!(instance = %key.instance.key(), entry = %key.place.entry, error = refusal.message, decision = refusal.decision, "an SVID was not renewed");
                    self.refused
                        .insert(key, (revision, moments::after(now, REFUSED)));
                }
            }
        }
        if away {
            self.away = Some(moments::after(self.clock.now(), self.waits.wait()));
        } else {
            self.away = None;
            self.waits.reset();
        }
        Ok(Outcome::Did(format!("{replaced} SVIDs obtained")))
    }
}
