//! The way to a sidecar, which can be cut: the sidecar at its end is then as good as killed.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A relay of connections to wherever it leads. Dropped, it is cut.
#[derive(Debug)]
pub struct Cable {
    /// Where others connect.
    pub address: SocketAddr,
    far_end: watch::Sender<Option<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Cable {
    /// A cable that leads nowhere yet; connections wait.
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let far_end = watch::Sender::new(None);
        let task = tokio::spawn(relay(listener, far_end.subscribe()));
        Self { address, far_end, task }
    }

    /// From now on it leads there.
    pub fn lead_to(&self, address: SocketAddr) {
        self.far_end.send_replace(Some(address));
    }

    /// Cuts every connection; new ones are refused.
    pub fn cut(&self) {
        self.task.abort();
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn relay(listener: TcpListener, far_end: watch::Receiver<Option<SocketAddr>>) {
    let mut connections = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        let mut far_end = far_end.clone();
        connections.spawn(async move {
            let Ok(Some(address)) = far_end.wait_for(Option::is_some).await.map(|address| *address) else {
                return;
            };
            if let Ok(mut far) = TcpStream::connect(address).await {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}
