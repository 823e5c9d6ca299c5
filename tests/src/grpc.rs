//! A gRPC application and a client, as frames: HTTP/2 with prior knowledge, nothing decoded.
//!
//! The application sends back each DATA frame as it comes, then trailers. Where a request has `please-fail`, it answers
//! with that gRPC status and no body.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::patience::in_time;

/// An application that runs until it is dropped.
#[derive(Debug)]
pub struct GrpcApplication {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl GrpcApplication {
    /// Starts it. Its name comes back in the header `x-app`.
    pub async fn echo(name: &'static str) -> Self {
        Self::serving(move |stream| connection(stream, name)).await
    }

    /// One that refuses every stream, as an application does that has no capacity left.
    pub async fn refusing() -> Self {
        Self::serving(|stream| async {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
        })
        .await
    }

    async fn serving<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { address, task }
    }
}

impl Drop for GrpcApplication {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(stream: TcpStream, name: &'static str) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        calls.spawn(call(request, respond, name));
    }
}

async fn call(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    name: &'static str,
) {
    let answer = || Response::builder().header("content-type", "application/grpc").header("x-app", name);
    let (head, mut body) = request.into_parts();
    if let Some(status) = head.headers.get("please-fail") {
        let _ = respond.send_response(answer().header("grpc-status", status).body(()).unwrap(), true);
        return;
    }
    let answer = answer().header("x-path", head.uri.path()).body(()).unwrap();
    let Ok(mut sender) = respond.send_response(answer, false) else { return };
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        if sender.send_data(data, false).is_err() {
            return;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let _ = sender.send_trailers(trailers);
}

/// One connection to a sidecar.
#[derive(Debug)]
pub struct GrpcClient {
    sender: SendRequest<Bytes>,
    task: JoinHandle<()>,
}

/// A call under way.
#[derive(Debug)]
pub struct Call {
    answer: ResponseFuture,
    /// Where messages go.
    pub messages: SendStream<Bytes>,
}

impl GrpcClient {
    /// Connects with prior knowledge.
    pub async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let task = tokio::spawn(async move { drop(connection.await) });
        Self { sender, task }
    }

    /// Begins a call.
    pub async fn call(&self, authority: &str, path: &str, fields: &[(&str, &str)]) -> Call {
        let mut request = Request::builder()
            .method("POST")
            .uri(format!("http://{authority}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut sender = in_time("a stream", self.sender.clone().ready()).await.unwrap();
        let (answer, messages) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        Call { answer, messages }
    }

    /// One message there; the answer's head, its message and its trailers back.
    pub async fn unary(
        &self,
        authority: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> (Response<()>, Bytes, HeaderMap) {
        let mut call = self.call(authority, path, fields).await;
        call.messages.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), true).unwrap();
        let (head, mut body) = call.answered().await.into_parts();
        let mut message = Vec::new();
        while let Some(data) = in_time("data", body.data()).await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            message.extend_from_slice(&data);
        }
        let trailers = in_time("trailers", body.trailers()).await.unwrap().unwrap_or_default();
        (Response::from_parts(head, ()), message.into(), trailers)
    }
}

impl Call {
    /// The head of the answer.
    pub async fn answered(&mut self) -> Response<RecvStream> {
        in_time("an answer", &mut self.answer).await.unwrap()
    }
}

impl Drop for GrpcClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}
