//! TCP: sends bytes and waits for that many back. What is sent and received at the same time cannot deadlock with an echo.

use std::rc::Rc;

use bytes::BytesMut;

use super::super::connect::{Connector, Io};
use super::super::failure::Failure;
use super::super::recorder::Received;
use super::super::spec::Transfer;
use super::{Exchange, body, duplex};

/// One connection.
pub(in super::super) struct Tcp {
    connector: Rc<Connector>,
    transfer: Transfer,
    once: bool,
    stream: Option<Io>,
    read: BytesMut,
}

impl Tcp {
    /// With `once`, each transfer has a connection of its own.
    pub(in super::super) fn new(connector: Rc<Connector>, transfer: &Transfer, once: bool) -> Self {
        Self { connector, transfer: transfer.clone(), once, stream: None, read: BytesMut::new() }
    }
}

impl Exchange for Tcp {
    async fn open(&mut self) -> Result<(), Failure> {
        if self.stream.is_none() && !self.once {
            self.stream = Some(self.connector.connect().await?);
        }
        Ok(())
    }

    async fn exchange(&mut self) -> Result<Received, Failure> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connector.connect().await?,
        };
        self.read.clear();
        let expected = self.transfer.receive;
        duplex::write_all(&mut stream, &self.transfer.send, &mut self.read)
            .await
            .map_err(|error| Failure::io(&error))?;
        let bytes = body::discard(&mut stream, &mut self.read, expected).await?;
        if !self.read.is_empty() {
            return Err(Failure::Length { received: expected + self.read.len() as u64, expected });
        }
        self.stream = Some(stream).filter(|_| !self.once);
        Ok(Received { bytes })
    }
}
