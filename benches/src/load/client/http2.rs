//! HTTP/2 (RFC 9113) by the `h2` crate: the streams of one connection share it and open it again when it ends.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Uri, Version};

use super::super::connect::Connector;
use super::super::failure::Failure;
use super::super::recorder::Received;
use super::super::spec::{Expect, HttpRequest};
use super::Exchange;

/// Flow-control windows in bytes: large enough that the generator does not slow the server down.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A connection that several streams use.
pub(in super::super) struct Shared {
    connector: Rc<Connector>,
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// Held by the stream that opens the connection.
    opening: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(in super::super) fn new(connector: Rc<Connector>) -> Rc<Self> {
        Rc::new(Self { connector, sender: RefCell::default(), opening: tokio::sync::Mutex::default() })
    }

    /// Returns a sender that may open a stream now: the connection is open and has fewer streams than the server allows.
    pub(super) async fn sender(&self) -> Result<SendRequest<Bytes>, Failure> {
        let _opening = self.opening.lock().await;
        let open = self.sender.borrow().clone();
        if let Some(sender) = open
            && let Ok(sender) = sender.ready().await
        {
            return Ok(sender);
        }
        let stream = self.connector.connect().await?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(|error| Failure::h2(&error))?;
        // What ends the connection is reported by its streams.
        tokio::task::spawn_local(async { drop(connection.await) });
        let sender = sender.ready().await.map_err(|error| Failure::h2(&error))?;
        *self.sender.borrow_mut() = Some(sender.clone());
        Ok(sender)
    }

    /// Closes the connection when its last stream has ended.
    pub(super) fn close(&self) {
        *self.sender.borrow_mut() = None;
    }
}

/// One stream at a time of a connection.
pub(in super::super) struct Http2 {
    connection: Rc<Shared>,
    request: Request<()>,
    body: Bytes,
    expect: Expect,
    once: bool,
}

impl Http2 {
    /// With `once`, each request has a connection of its own. Returns an error if the request has no valid URI.
    pub(in super::super) fn new(
        connection: Rc<Shared>,
        request: &HttpRequest,
        scheme: &'static str,
        once: bool,
    ) -> Result<Self, String> {
        let mut encoded = head(request, scheme)?;
        encoded.headers_mut().extend(request.headers.clone());
        Ok(Self {
            connection,
            request: encoded,
            body: request.body.clone(),
            expect: request.expect.clone(),
            once,
        })
    }
}

/// A head without fields, with the four pseudo-header fields of RFC 9113 section 8.3.1.
pub(super) fn head(request: &HttpRequest, scheme: &'static str) -> Result<Request<()>, String> {
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(request.authority.as_str())
        .path_and_query(request.path.as_str())
        .build()
        .map_err(|error| format!("{}{}: {error}", request.authority, request.path))?;
    let mut encoded = Request::new(());
    *encoded.method_mut() = request.method.clone();
    *encoded.uri_mut() = uri;
    *encoded.version_mut() = Version::HTTP_2;
    Ok(encoded)
}

impl Exchange for Http2 {
    async fn open(&mut self) -> Result<(), Failure> {
        if !self.once {
            self.connection.sender().await?;
        }
        Ok(())
    }

    async fn exchange(&mut self) -> Result<Received, Failure> {
        let mut sender = self.connection.sender().await?;
        let failed = |error| Failure::h2(&error);
        let (response, mut stream) =
            sender.send_request(self.request.clone(), self.body.is_empty()).map_err(failed)?;
        if !self.body.is_empty() {
            // The crate holds it until the window allows it; nothing is copied.
            stream.send_data(self.body.clone(), true).map_err(failed)?;
        }
        if self.once {
            self.connection.close();
        }
        let (status, received, trailers) = read(response).await?;
        let received = self.expect.verify(status, received)?;
        match self.expect.trailers && !trailers {
            true => Err(Failure::NoTrailers),
            false => Ok(received),
        }
    }
}

/// Reads a response. Returns its status, the size of its body and whether it has trailers.
async fn read(response: ResponseFuture) -> Result<(u16, u64, bool), Failure> {
    let response = response.await.map_err(|error| Failure::h2(&error))?;
    let (status, mut body) = (response.status().as_u16(), response.into_body());
    let mut received = 0;
    while let Some(data) = data(&mut body).await? {
        received += data.len() as u64;
    }
    let trailers = body.trailers().await.map_err(|error| Failure::h2(&error))?;
    Ok((status, received, trailers.is_some()))
}

/// The next piece of a body, after giving its window back. Returns None at the end.
pub(super) async fn data(body: &mut RecvStream) -> Result<Option<Bytes>, Failure> {
    let Some(data) = body.data().await else { return Ok(None) };
    let data = data.map_err(|error| Failure::h2(&error))?;
    body.flow_control().release_capacity(data.len()).map_err(|error| Failure::h2(&error))?;
    Ok(Some(data))
}
