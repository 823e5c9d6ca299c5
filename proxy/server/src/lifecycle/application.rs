//! Waits until the application accepts connections, before the workload is registered as ready.
//!
//! A sidecar starts faster than its application and would answer 503 until then. The workload is registered as not ready
//! until every application port has accepted a connection. Later failures are detected by the peers.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Connect timeout; an application that is slower is not ready.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between attempts: short at first, because most applications start quickly, then longer.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// Resolves when each of `applications` has accepted a connection. Cancel-safe.
pub(crate) async fn answering(applications: Vec<SocketAddr>) {
    for application in applications {
        let mut pause = FIRST_PAUSE;
        while !accepts(application).await {
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        tracing::debug!(%application, "the application answers");
    }
}

async fn accepts(application: SocketAddr) -> bool {
    matches!(timeout(CONNECT_TIMEOUT, TcpStream::connect(application)).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_application_is_awaited() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let waiting = tokio::spawn(answering(vec![address]));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let _listener = tokio::net::TcpListener::bind(address).await.unwrap();
        waiting.await.unwrap();
    }
}
