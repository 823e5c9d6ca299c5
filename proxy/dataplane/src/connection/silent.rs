//! Waits for the first speaker of a plaintext connection whose client sends nothing at first.
//!
//! Called on listeners that serve mTLS and plain text side by side, and continue when the first bytes do not come in time. The
//! client may still send a ClientHello or a request, so its chain is chosen by its first bytes even then. If the server speaks
//! first, the bytes are opaque.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use outrigger_config::listener::{FilterChain, Handler, NetworkFilter};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{ConnectionHandler, LONGEST_DETECTION};
use crate::client::ClientFacts;
use crate::tcp::dial::{self, UpstreamConnection};
use crate::tcp::relay;

/// The side of a connection that speaks first.
pub(super) enum Speaker {
    /// The client: its bytes were read.
    Client,
    /// The server, or the client has closed its side and waits for the server.
    Server(Box<Greeting>),
    /// Neither: the connection ends.
    Neither,
}

/// A server that speaks first.
#[derive(Debug)]
pub(super) struct Greeting {
    /// The connection to it.
    pub(super) opened: UpstreamConnection,
    /// What it has sent.
    pub(super) spoken: Bytes,
}

impl ConnectionHandler {
    /// Returns the side that sends first. `chain` is the one for plain text of an unknown protocol, which dials a server if it is
    /// a TCP proxy; without a chain, the client has `hello` to begin its TLS handshake.
    pub(super) async fn first_speaker(
        &self,
        chain: Option<&FilterChain>,
        stream: &mut TcpStream,
        first: &mut BytesMut,
        facts: &ClientFacts,
        hello: Duration,
    ) -> Speaker {
        let mut drain = self.drain.clone();
        // Where plain text is refused, no server is dialled: only a ClientHello can lead to another chain.
        let chain = chain.filter(|chain| self.authorize(chain, facts).denied_by.is_none());
        let Some(NetworkFilter::Handle(Handler::Tcp(proxy))) = chain.map(|chain| &chain.filter) else {
            let longest = if chain.is_some() { LONGEST_DETECTION } else { hello };
            return tokio::select! {
                biased;
                read = tokio::time::timeout(longest, stream.read_buf(first)) => match read {
                    Ok(Ok(1..)) => Speaker::Client,
                    Ok(Ok(0) | Err(_)) | Err(_) => Speaker::Neither,
                },
                () = drain.started() => Speaker::Neither,
            };
        };
        let _running = facts.slot.begin();
        let snapshot = self.context.view.snapshot();
        let mut opened = match dial::open(&self.context, &snapshot, proxy, facts).await {
            Ok(opened) => opened,
            Err(failure) => {
                relay::refuse(&self.context, facts, &failure);
                return Speaker::Neither;
            }
        };
        drop(snapshot);
        let mut spoken = BytesMut::new();
        tokio::select! {
            biased;
            read = stream.read_buf(first) => match read {
                Ok(1..) => return Speaker::Client,
                Ok(0) => {}
                Err(_) => return Speaker::Neither,
            },
            // A server that hangs up, or whose connection fails, is relayed as just that.
            _ = opened.stream.read_buf(&mut spoken) => {}
            // A drain that has only been announced leaves the server time to speak: the connection was accepted.
            () = drain.closing() => return Speaker::Neither,
        }
        Speaker::Server(Box::new(Greeting { opened, spoken: spoken.freeze() }))
    }
}
