//! The protocols. A client is one stream: it sends one request at a time and verifies the answer.

pub(super) mod grpc;
pub(super) mod http1;
pub(super) mod http2;
pub(super) mod tcp;
pub(super) mod websocket;
pub(crate) mod body;
pub(crate) mod duplex;

use super::failure::Failure;
use super::recorder::Received;
use super::spec::Expect;

/// One stream of requests.
pub(super) trait Exchange {
    /// Opens the connection, unless it is open. Returns why it failed.
    async fn open(&mut self) -> Result<(), Failure>;

    /// Sends a request and reads the whole answer, on a new connection if the last one is closed. Returns what the answer
    /// contained, or why it is not the expected one. A dropped future takes its connection or its HTTP/2 stream along.
    async fn exchange(&mut self) -> Result<Received, Failure>;
}

impl Expect {
    /// Compares an answer with what was expected.
    fn verify(&self, status: u16, received: u64) -> Result<Received, Failure> {
        let good = match self.status {
            Some(expected) => status == expected.as_u16(),
            None => (200..300).contains(&status),
        };
        if !good {
            return Err(Failure::Status(status));
        }
        verify_length(received, self.length)
    }
}

fn verify_length(received: u64, expected: Option<u64>) -> Result<Received, Failure> {
    match expected {
        Some(expected) if received != expected => Err(Failure::Length { received, expected }),
        _ => Ok(Received { bytes: received }),
    }
}
