//! Whether the application is there: asked once, before the workload is offered to others.
//!
//! A sidecar is up sooner than its application. Announced then, it would answer 503 for it; so the workload is registered
//! as not ready until every application port accepts a connection. Afterwards the mesh sees by itself who answers.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// For one connection; an application that takes longer is not ready.
const CONNECT: Duration = Duration::from_secs(1);

/// Between two looks: quickly at first, because most applications take a moment, then seldom.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Resolves when each of `applications` has accepted a connection once. Cancel-safe.
pub(crate) async fn answering(applications: Vec<SocketAddr>) {
    for application in applications {
        let mut pause = FIRST_PAUSE;
        while !accepts(application).await {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        tracing::debug!(%application, "the application answers");
    }
}

async fn accepts(application: SocketAddr) -> bool {
    matches!(timeout(CONNECT, TcpStream::connect(application)).await, Ok(Ok(_)))
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
