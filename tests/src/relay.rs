//! A TCP relay in front of a sidecar. Once it is closed, the sidecar is as unreachable as if it had been killed.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Relays connections to a sidecar. Dropping it closes them.
#[derive(Debug)]
pub struct Relay {
    /// Where clients connect.
    pub address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts without a target: connections wait for one.
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = watch::Sender::new(None);
        let task = tokio::spawn(relay(listener, target.subscribe()));
        Self { address, target, task }
    }

    /// Relays to `address` from now on.
    pub fn forward_to(&self, address: SocketAddr) {
        self.target.send_replace(Some(address));
    }

    /// Closes all connections. New ones are refused.
    pub fn close(&self) {
        self.task.abort();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.close();
    }
}

async fn relay(listener: TcpListener, target: watch::Receiver<Option<SocketAddr>>) {
    let mut connections = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        let mut target = target.clone();
        connections.spawn(async move {
            let Ok(Some(address)) = target.wait_for(Option::is_some).await.map(|address| *address) else {
                return;
            };
            if let Ok(mut far) = TcpStream::connect(address).await {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}
