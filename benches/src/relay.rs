//! A relay that parses nothing: what any proxy costs at least. `compare` starts it as a process of its own.
//!
//! One thread. Each connection has one to the application, and what arrives on one is written to the other. A connection ends when either
//! side fails.

use std::net::SocketAddr;

use clap::Args;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

/// Bytes that one read may return.
const READ: usize = 64 << 10;

/// Relays bytes until it is ended.
#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    /// Address to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// Where connections go.
    #[arg(long)]
    to: SocketAddr,
}

/// Relays until the process is ended. Returns an error if it cannot listen.
pub(crate) fn run(RelayArgs { listen, to }: RelayArgs) -> Result<(), String> {
    let relay = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        LocalSet::new().block_on(&runtime, async {
            let failed = |error| format!("{listen}: {error}");
            let listener = TcpListener::bind(listen).await.map_err(failed)?;
            loop {
                let (client, _) = listener.accept().await.map_err(failed)?;
                spawn_local(connection(client, to));
            }
        })
    };
    // It has a runtime of its own.
    std::thread::spawn(relay).join().map_err(|_| "the relay panicked")?
}

async fn connection(mut client: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let mut application = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    application.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut application, READ, READ).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::backend::{self, Service};

    #[tokio::test]
    async fn bytes_are_relayed_both_ways_until_the_client_ends() {
        let to = backend::start(Service::TcpEcho).unwrap();
        let [listen] = outrigger::ports::free().unwrap();
        assert_eq!(listen.ip(), Ipv4Addr::LOCALHOST);
        std::thread::spawn(move || run(RelayArgs { listen, to }));
        let mut stream = loop {
            match TcpStream::connect(listen).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        };
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "hello");
    }
}
