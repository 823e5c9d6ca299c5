//! The connection to a Redis or Valkey, which is made again whenever it ends or does not work.
//!
//! Questions never connect: they use the connection that there is, or fail at once. One task connects, and finds out about a store that hangs
//! or that has closed an idle connection.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::output::print_error;

/// How far apart attempts to connect begin, at least.
const PAUSE: Duration = Duration::from_millis(200);

/// How long an attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How far apart heartbeats are, and how long the answer to one may take.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The connection is given up after this many questions in a row without an answer.
const MOST_FAILURES: u32 = 3;

/// A connection, or why there is none.
#[derive(Debug, Clone)]
pub(super) enum Link {
    Up(Arc<Connection>),
    Down(Arc<str>),
}

impl Link {
    /// Returns the connection, or why there is none.
    pub(super) fn connection(&self) -> Result<Arc<Connection>, String> {
        match self {
            Self::Up(connection) => Ok(Arc::clone(connection)),
            Self::Down(why) => Err(why.to_string()),
        }
    }
}

/// A connection, which many questions use at a time.
pub(super) struct Connection {
    commands: MultiplexedConnection,
    /// Questions without an answer since the last answer.
    failures: AtomicU32,
    /// Gives the connection up, for a reason.
    give_up: mpsc::Sender<String>,
}

impl Connection {
    /// Asks, and waits for the answers up to `within`. Returns an error if they do not come, or if they are not what was asked for.
    pub(super) async fn ask(&self, questions: &Pipeline, within: Duration) -> Result<Vec<u64>, String> {
        self.within(within, questions.query_async(&mut self.commands.clone())).await
    }

    async fn within<T: FromRedisValue>(
        &self,
        within: Duration,
        answer: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, String> {
        let (why, is_broken) = match timeout(within, answer).await {
            Ok(Ok(answer)) => {
                self.failures.store(0, Relaxed);
                return Ok(answer);
            }
            Ok(Err(error)) => (error.to_string(), error.is_unrecoverable_error()),
            Err(_) => (format!("no answer within {within:?}"), false),
        };
        if self.failures.fetch_add(1, Relaxed) + 1 >= MOST_FAILURES || is_broken {
            // The reason of another question may be there already.
            let _ = self.give_up.try_send(why.clone());
        }
        Err(why)
    }

    /// Returns once the connection is given up, with the reason.
    async fn given_up(&self, mut reasons: mpsc::Receiver<String>) -> String {
        loop {
            if let Ok(Some(why)) = timeout(HEARTBEAT, reasons.recv()).await {
                return why;
            }
            if let Err(why) = self.ping().await {
                return why;
            }
        }
    }

    async fn ping(&self) -> Result<(), String> {
        // A write: a store that is read-only or full does not count.
        let mut probe = redis::cmd("SET");
        probe.arg("outrigger:probe").arg(1).arg("EX").arg(60);
        self.within(HEARTBEAT, probe.exec_async(&mut self.commands.clone())).await
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("failures", &self.failures).finish_non_exhaustive()
    }
}

/// Connects whenever there is no connection. Does not return. The first failure after a success, and the first success after it, are lines
/// on stderr.
pub(super) async fn keep_connected(client: Client, link: watch::Sender<Link>) {
    // Without the password.
    let address = client.get_connection_info().addr().clone();
    let mut is_away = false;
    loop {
        let began = Instant::now();
        let why = match connect(&client).await {
            Ok((connection, reasons)) => {
                let connection = Arc::new(connection);
                link.send_replace(Link::Up(Arc::clone(&connection)));
                if is_away {
                    print_error(&format!("outrigger: {address} counts requests again"));
                }
                is_away = false;
                connection.given_up(reasons).await
            }
            Err(why) => why,
        };
        if !is_away {
            print_error(&format!("outrigger: {address} does not count requests: {why}"));
        }
        is_away = true;
        link.send_replace(Link::Down(format!("{address}: {why}").into()));
        sleep_until(began + PAUSE).await;
    }
}

/// Connects. Returns an error unless the store accepts the password and answers.
async fn connect(client: &Client) -> Result<(Connection, mpsc::Receiver<String>), String> {
    // Questions have timeouts of their own.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let connects = client.get_multiplexed_async_connection_with_config(&config);
    let commands = match timeout(CONNECT_TIMEOUT, connects).await {
        Ok(connected) => connected.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("no connection within {CONNECT_TIMEOUT:?}")),
    };
    let (give_up, reasons) = mpsc::channel(1);
    let connection = Connection { commands, failures: AtomicU32::new(0), give_up };
    connection.ping().await?;
    Ok((connection, reasons))
}
