//! A gRPC service with one unary method.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use prost::Message;

use crate::application::Application;

/// Serves calls of `path` with the messages that `answer` returns. A call of another method fails the test.
pub async fn unary<Q, A>(path: &'static str, answer: impl Fn(Q) -> A + Send + Sync + 'static) -> Application
where
    Q: Message + Default,
    A: Message,
{
    let answer = Arc::new(answer);
    Application::http2(move |request, mut respond| {
        let answer = Arc::clone(&answer);
        async move {
            assert_eq!(request.uri().path(), path);
            let (mut body, mut message) = (request.into_body(), BytesMut::new());
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                message.extend_from_slice(&data);
            }
            let reply = answer(Q::decode(&message[5..]).unwrap()).encode_to_vec();
            let mut framed = vec![0];
            framed.extend(u32::try_from(reply.len()).unwrap().to_be_bytes());
            framed.extend(reply);
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(Bytes::from(framed), false).unwrap();
            let status = ("grpc-status".parse().unwrap(), "0".parse().unwrap());
            stream.send_trailers(HeaderMap::from_iter([status])).unwrap();
        }
    })
    .await
}
