//! HTTP/2 and gRPC by the `h2` crate.

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpStream;

const WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// How requests are answered.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Fixed { body: Bytes, trailers: bool },
    Grpc,
}

/// Answers the requests of a connection until it ends.
pub(super) async fn serve(stream: TcpStream, answer: Answer) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(1_000)
        .handshake(stream)
        .await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        let answer = answer.clone();
        // A stream that is reset ends; its connection goes on.
        match answer {
            Answer::Fixed { body, trailers } if request.body().is_end_stream() => {
                let _ = fixed(respond, body, trailers);
            }
            Answer::Fixed { body, trailers } => {
                tokio::task::spawn_local(async move {
                    let mut received = request.into_body();
                    while data(&mut received).await?.is_some() {}
                    fixed(respond, body, trailers)
                });
            }
            Answer::Grpc => {
                tokio::task::spawn_local(echo(request, respond));
            }
        }
    }
    Ok(())
}

fn fixed(mut respond: SendResponse<Bytes>, body: Bytes, trailers: bool) -> Result<(), h2::Error> {
    let mut stream = respond.send_response(Response::new(()), false)?;
    stream.send_data(body, !trailers)?;
    match trailers {
        true => stream.send_trailers(of("sum", "1")),
        false => Ok(()),
    }
}

/// Returns each message as it is: the bytes of the request's body, then status 0.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    *head.headers_mut() = of("content-type", "application/grpc");
    let mut stream: SendStream<Bytes> = respond.send_response(head, false)?;
    let mut body = request.into_body();
    while let Some(bytes) = data(&mut body).await? {
        stream.send_data(bytes, false)?;
    }
    stream.send_trailers(of("grpc-status", "0"))
}

fn of(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
}

async fn data(body: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    let Some(data) = body.data().await.transpose()? else { return Ok(None) };
    body.flow_control().release_capacity(data.len())?;
    Ok(Some(data))
}
