//! A gRPC application and a client that exchange frames over HTTP/2 with prior knowledge. Messages are not decoded.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use outrigger_test_support::application::Application;
use outrigger_test_support::http2;
use outrigger_test_support::wait::in_time;

/// Starts an application that sends back each DATA frame as it comes, then trailers. A request with the header `please-fail`
/// is answered with that gRPC status and no body. The header `x-app` of each response is `name`.
pub async fn echo(name: &'static str) -> Application {
    Application::http2(move |request, respond| call(request, respond, name)).await
}

/// Starts an application that refuses every stream, as an overloaded one does.
pub async fn refusing() -> Application {
    Application::http2(|_, mut respond| async move { respond.send_reset(h2::Reason::REFUSED_STREAM) }).await
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
}

/// A call in progress.
#[derive(Debug)]
pub struct Call {
    response: ResponseFuture,
    /// Sends the messages of the request.
    pub messages: SendStream<Bytes>,
}

impl GrpcClient {
    /// Connects with prior knowledge.
    pub async fn connect(to: SocketAddr) -> Self {
        Self { sender: http2::connect(to).await }
    }

    /// Starts a call.
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
        let (response, messages) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        Call { response, messages }
    }

    /// Sends one message. Returns the response's head, its message and its trailers.
    pub async fn unary(
        &self,
        authority: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> (Response<()>, Bytes, HeaderMap) {
        let mut call = self.call(authority, path, fields).await;
        call.messages.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), true).unwrap();
        let (head, mut body) = call.response().await.into_parts();
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
    /// Waits for the head of the response.
    pub async fn response(&mut self) -> Response<RecvStream> {
        in_time("a response", &mut self.response).await.unwrap()
    }
}
