//! Obtains credentials: one call per credential however many ask for it, in batches, by `Issue` or, from a server that
//! has it not, by SPIRE's RPCs. Keys are made here.
//!
//! Must not know who asks, nor decide who is entitled: the server does.

mod call;

use std::{collections::HashMap, sync::Arc};

use attesta_model::{Entry, KeyAlgorithm, Match, Sharing};
use attesta_runtime::{CancellationToken, Clock, Live, Wake};
use attesta_spiffe::SpiffeId;
use futures::{StreamExt, future::BoxFuture, future::join_all, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};
use tonic::Code;

use crate::{
    authorized::{Authorized, Who},
    holdings::{Book, Held, HoldingKey},
    instances::Instances,
    jwt::{Token, TokenKey, Tokens},
    link::Link,
    status::Board,
};

/// Most that may wait to be asked for; who comes then waits to wait.
const QUEUE: usize = 4096;
/// Most credentials in one call (SPIRE's bound).
const BATCH: usize = 500;
/// Most calls at once.
const CALLS: usize = 4;

/// What is wanted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Want {
    /// An X.509-SVID.
    X509,
    /// A JWT-SVID for these audiences, sorted.
    Jwt(Vec<String>),
}

/// One credential to obtain.
#[derive(Clone)]
pub(crate) struct Order {
    pub(crate) who: Arc<Who>,
    pub(crate) entry: Arc<Entry>,
    pub(crate) id: SpiffeId,
    pub(crate) want: Want,
    /// Ties the records of one call of a workload together.
    pub(crate) correlation: String,
    /// The serial of the one that is not good enough any more.
    pub(crate) instead_of: Option<String>,
}

/// What came.
#[derive(Clone)]
pub(crate) enum Granted {
    X509(Arc<Held>),
    Jwt(Arc<Token>),
}

/// Why nothing came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// By which the operator finds the server's record.
    pub(crate) decision: Option<String>,
}

impl Refusal {
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            code: Code::Unavailable,
            message: message.into(),
            decision: None,
        }
    }

    /// Whether it may go better without anything having changed.
    pub(crate) fn is_passing(&self) -> bool {
        !matches!(
            self.code,
            Code::PermissionDenied
                | Code::NotFound
                | Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::Unauthenticated
        )
    }
}

type Answer = Result<Granted, Refusal>;
type Waiters = Vec<oneshot::Sender<Answer>>;

/// What makes two orders one.
type OrderKey = (HoldingKey, Want);

struct Placed {
    order: Order,
    answer: oneshot::Sender<Answer>,
}

/// Where orders are placed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Desk(mpsc::Sender<Placed>);

/// The orders: the other end, for the task.
pub(crate) struct Orders(mpsc::Receiver<Placed>);

impl Desk {
    pub(crate) fn new() -> (Self, Orders) {
        let (desk, orders) = mpsc::channel(QUEUE);
        (Self(desk), Orders(orders))
    }

    /// Obtains all of them; the answers are in the order of the orders.
    pub(crate) async fn obtain(&self, orders: Vec<Order>) -> Vec<Answer> {
        join_all(orders.into_iter().map(|order| async {
            let (answer, answered) = oneshot::channel();
            let stopping = || Refusal::unavailable("the agent is stopping");
            self.0
                .send(Placed { order, answer })
                .await
                .map_err(|_| stopping())?;
            answered.await.map_err(|_| stopping())?
        }))
        .await
    }
}

/// Works off the orders: the task's state.
pub(crate) struct Issuer {
    pub(crate) link: Arc<Link>,
    pub(crate) authorized: Live<Authorized>,
    pub(crate) book: Arc<Book>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) instances: Arc<Instances>,
    pub(crate) board: Board,
    pub(crate) clock: Clock,
    pub(crate) algorithm: KeyAlgorithm,
    /// Woken when the server knows of entries that are not here yet.
    pub(crate) sync: Wake,
}

/// What a call came to.
struct Done {
    answers: Vec<(OrderKey, Answer)>,
    whole: bool,
}

impl Issuer {
    /// Works until `stop`.
    pub(crate) async fn run(self, mut orders: Orders, stop: CancellationToken) {
        let issuer = Arc::new(self);
        let mut asked: HashMap<OrderKey, Waiters> = HashMap::new();
        let mut queue: Vec<Order> = Vec::new();
        let mut calls: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        let mut limit = BATCH;
        loop {
            let mut placed = Vec::new();
            tokio::select! {
                () = stop.cancelled() => return,
                Some(done) = calls.next() => {
                    // A batch that fails whole is tried in halves.
                    limit = if done.whole { BATCH } else { (limit / 2).max(1) };
                    issuer.settle(done.answers, &mut asked);
                }
                taken = orders.0.recv_many(&mut placed, BATCH), if queue.len() < QUEUE => {
                    if taken == 0 {
                        return;
                    }
                    for Placed { order, answer } in placed {
                        issuer.place(order, answer, &mut asked, &mut queue);
                    }
                }
            }
            while calls.len() < CALLS && !queue.is_empty() {
                let batch: Vec<Order> = queue.drain(..queue.len().min(limit)).collect();
                let issuer = Arc::clone(&issuer);
                calls.push(Box::pin(async move { issuer.fill(batch).await }));
            }
        }
    }

    /// Answers an order from what is here, joins it to the same one under way, or queues it.
    fn place(
        &self,
        order: Order,
        answer: oneshot::Sender<Answer>,
        asked: &mut HashMap<OrderKey, Waiters>,
        queue: &mut Vec<Order>,
    ) {
        let key = order.key();
        if let Some(waiters) = asked.get_mut(&key) {
            waiters.push(answer);
            return;
        }
        let ready = self.ready(&order, &key).or_else(|| {
            let full =
                order.want == Want::X509 && order.instead_of.is_none() && self.book.is_full();
            full.then(|| {
                Err(Refusal {
                    code: Code::ResourceExhausted,
                    message: "the agent holds as many SVIDs as it may".to_owned(),
                    decision: None,
                })
            })
        });
        if let Some(ready) = ready {
            // Who asked may have gone; then nobody is told.
            drop(answer.send(ready));
            return;
        }
        asked.insert(key, vec![answer]);
        queue.push(order);
    }

    /// What came for someone else since the order was written.
    fn ready(&self, order: &Order, key: &OrderKey) -> Option<Answer> {
        let now = self.clock.now();
        match &order.want {
            Want::X509 => {
                let held = self.book.holdings().get(&key.0).cloned()?;
                let good = held.is_valid(now) && order.instead_of.as_ref() != Some(&held.serial);
                good.then_some(Ok(Granted::X509(held)))
            }
            Want::Jwt(audience) => {
                let key = TokenKey {
                    holding: key.0.clone(),
                    audience: audience.clone(),
                };
                self.tokens
                    .find(&key, &self.authorized.load(), now)
                    .map(|token| Ok(Granted::Jwt(token)))
            }
        }
    }

    /// Holds what came, then tells who waits.
    fn settle(&self, answers: Vec<(OrderKey, Answer)>, asked: &mut HashMap<OrderKey, Waiters>) {
        let mut held = Vec::new();
        for ((key, want), answer) in &answers {
            match (answer, want) {
                (Ok(granted), _) if !self.instances.is_live(&key.instance) => {
                    let credential = match granted {
                        Granted::X509(held) => held.serial.clone(),
                        Granted::Jwt(token) => token.credential.clone(),
                    };
                    self.instances.came_too_late(&key.instance, credential);
                }
                (Ok(Granted::X509(x509)), _) => held.push((key.clone(), Arc::clone(x509))),
                (Ok(Granted::Jwt(token)), Want::Jwt(audience)) => {
                    let key = TokenKey {
                        holding: key.clone(),
                        audience: audience.clone(),
                    };
                    self.tokens.put(key, Arc::clone(token), self.clock.now());
                }
                _ => {}
            }
        }
        self.book.put(held);
        let holdings = self.book.holdings().len();
        self.board.update(|status| status.holdings = holdings);
        for (key, answer) in answers {
            for waiter in asked.remove(&key).unwrap_or_default() {
                drop(waiter.send(answer.clone()));
            }
        }
    }
}

impl Order {
    /// For what an instance is entitled to and does not hold.
    pub(crate) fn first(who: Arc<Who>, found: Match, want: Want, correlation: String) -> Self {
        Self {
            who,
            entry: found.entry,
            id: found.id,
            want,
            correlation,
            instead_of: None,
        }
    }

    pub(crate) fn key(&self) -> OrderKey {
        let holding = match self.want {
            Want::X509 => HoldingKey::of(&self.who, &self.entry, &self.id),
            Want::Jwt(_) => HoldingKey::own(&self.who, &self.entry, &self.id),
        };
        (holding, self.want.clone())
    }

    /// Whether the node as a whole will hold it: then there are no facts by which to ask, only the entry.
    fn is_shared(&self) -> bool {
        self.want == Want::X509 && self.entry.sharing() == Sharing::Node
    }
}
