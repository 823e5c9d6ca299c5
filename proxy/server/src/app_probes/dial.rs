//! Connections to the application, which the redirection of the pod must leave alone.

use std::io;
use std::net::SocketAddr;

use outrigger_dataplane::ORIGINAL_DESTINATION_PRIORITY;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// Connects to the application. To the redirection, it is the inbound side's connection: one that is not marked as such would come
/// back to the sidecar, as a client without mTLS.
pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    SockRef::from(&socket).set_priority(ORIGINAL_DESTINATION_PRIORITY)?;
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_probe_is_marked_as_a_connection_of_the_inbound_side() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(SockRef::from(&stream).priority().unwrap(), ORIGINAL_DESTINATION_PRIORITY);
    }
}
