//! WebSocket (RFC 6455): one binary message at a time, each answered by one message.

use std::rc::Rc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Request, Uri};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::super::connect::{Connector, Io};
use super::super::failure::Failure;
use super::super::recorder::Received;
use super::super::spec::WebSocketMessage;
use super::{Exchange, verify_length};

/// One connection.
pub(in super::super) struct WebSocket {
    connector: Rc<Connector>,
    uri: Uri,
    headers: HeaderMap,
    message: Bytes,
    expect_length: Option<u64>,
    once: bool,
    stream: Option<WebSocketStream<Io>>,
}

impl WebSocket {
    /// With `once`, each message has a connection of its own. Returns an error if the target has no valid URI.
    pub(in super::super) fn new(
        connector: Rc<Connector>,
        message: &WebSocketMessage,
        scheme: &'static str,
        once: bool,
    ) -> Result<Self, String> {
        let uri = Uri::builder()
            .scheme(if scheme == "https" { "wss" } else { "ws" })
            .authority(message.authority.as_str())
            .path_and_query(message.path.as_str())
            .build()
            .map_err(|error| format!("{}{}: {error}", message.authority, message.path))?;
        Ok(Self {
            connector,
            uri,
            headers: message.headers.clone(),
            message: message.message.clone(),
            expect_length: message.expect_length,
            once,
            stream: None,
        })
    }

    async fn connect(&self) -> Result<WebSocketStream<Io>, Failure> {
        let stream = self.connector.connect().await?;
        let mut request: Request<()> =
            self.uri.clone().into_client_request().map_err(|error| failure(&error))?;
        request.headers_mut().extend(self.headers.clone());
        match client_async(request, stream).await {
            Ok((stream, _)) => Ok(stream),
            Err(Error::Http(response)) => Err(Failure::Status(response.status().as_u16())),
            Err(error) => Err(failure(&error)),
        }
    }
}

impl Exchange for WebSocket {
    async fn open(&mut self) -> Result<(), Failure> {
        if self.stream.is_none() && !self.once {
            self.stream = Some(self.connect().await?);
        }
        Ok(())
    }

    async fn exchange(&mut self) -> Result<Received, Failure> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        stream.send(Message::Binary(self.message.clone())).await.map_err(|error| failure(&error))?;
        let received = loop {
            match stream.next().await {
                Some(Ok(message)) if message.is_binary() || message.is_text() => break message.len() as u64,
                // The library answers pings.
                Some(Ok(message)) if !message.is_close() => {}
                Some(Err(error)) => return Err(failure(&error)),
                Some(Ok(_)) | None => return Err(Failure::Closed),
            }
        };
        self.stream = Some(stream).filter(|_| !self.once);
        verify_length(received, self.expect_length)
    }
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::Io(error) => Failure::io(error),
        Error::ConnectionClosed | Error::AlreadyClosed => Failure::Closed,
        other => Failure::Protocol(other.to_string()),
    }
}
