//! A collector in the test's process. It speaks OTLP over gRPC and over HTTP on one port, shows what arrived on the wire, and
//! answers as the test says.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Read as _;
use std::sync::{Arc, Mutex};

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// How a collector answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Accept,
    /// Accepts all but this many items.
    Reject(i64),
    /// 503, UNAVAILABLE.
    Unavailable,
    /// 503 with the longest `Retry-After` there is, by HTTP only.
    RetryLater,
    /// 400, INVALID_ARGUMENT.
    Refuse,
    /// Never answers.
    Silence,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// Whether the message was compressed on the wire.
    pub(crate) gzip: bool,
    /// The message.
    pub(crate) message: Bytes,
}

/// The collector. It ends with the test's runtime.
#[derive(Debug, Clone)]
pub(crate) struct Collector {
    /// `host:port`
    pub(crate) authority: String,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

impl Collector {
    /// Starts a collector that gives `answers` one after another and then accepts everything.
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::start_with(answers, None).await
    }

    /// Starts a collector behind TLS.
    pub(crate) async fn start_tls(tls: rustls::ServerConfig) -> Self {
        let mut tls = tls;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::start_with([], Some(TlsAcceptor::from(Arc::new(tls)))).await
    }

    /// Returns the requests so far.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }

    async fn start_with(answers: impl IntoIterator<Item = Answer>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = format!("localhost:{}", listener.local_addr().unwrap().port());
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        let collector = Self { authority, arrived: Arc::default(), answers };
        let serving = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (collector, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => collector.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                collector.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        collector
    }

    async fn serve(self, stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static) {
        let service = service_fn(move |request| {
            let collector = self.clone();
            async move { Ok::<_, Infallible>(collector.answer(request).await) }
        });
        let _ =
            auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let (head, body) = request.into_parts();
        let mut body = body.collect().await.unwrap().to_bytes();
        let grpc = head.headers["content-type"] == "application/grpc";
        let mut gzip = head.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip");
        if grpc {
            // gRPC over HTTP/2, "Length-Prefixed-Message".
            let prefix = body.split_to(5);
            gzip = prefix[0] == 1;
            assert!(!gzip || head.headers["grpc-encoding"] == "gzip");
        }
        if gzip {
            let mut decoded = Vec::new();
            GzDecoder::new(&body[..]).read_to_end(&mut decoded).unwrap();
            body = decoded.into();
        }
        let path = head.uri.path_and_query().unwrap().to_string();
        let arrived = Arrived { path, headers: head.headers, gzip, message: body };
        self.arrived.lock().unwrap().push(arrived);
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or(Answer::Accept);
        if answer == Answer::Silence {
            std::future::pending::<()>().await;
        }
        if grpc { grpc_response(answer) } else { http_response(answer) }
    }
}

fn message(answer: Answer) -> Vec<u8> {
    let rejected = match answer {
        Answer::Reject(rejected) => rejected,
        _ => 0,
    };
    let partial = ExportTracePartialSuccess { rejected_spans: rejected, error_message: "too old".into() };
    ExportTraceServiceResponse { partial_success: (rejected > 0).then_some(partial) }.encode_to_vec()
}

fn http_response(answer: Answer) -> Response<BoxBody<Bytes, Infallible>> {
    let status = match answer {
        Answer::Unavailable | Answer::RetryLater => 503,
        Answer::Refuse => 400,
        _ => 200,
    };
    let mut response = Response::new(Full::new(message(answer).into()).boxed());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    if answer == Answer::RetryLater {
        response.headers_mut().insert("retry-after", HeaderValue::from_static("18446744073709551615"));
    }
    response
}

fn grpc_response(answer: Answer) -> Response<BoxBody<Bytes, Infallible>> {
    let response = Response::builder().header("content-type", "application/grpc");
    let status = match answer {
        Answer::Unavailable => "14",
        Answer::Refuse => "3",
        _ => {
            let message = message(answer);
            let mut framed = BytesMut::new();
            framed.put_u8(0);
            framed.put_u32(message.len() as u32);
            framed.put_slice(&message);
            let trailers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            )]);
            let body = Full::new(framed.freeze()).with_trailers(async { Some(Ok(trailers)) });
            return response.body(body.boxed()).unwrap();
        }
    };
    response.header("grpc-status", status).body(Full::default().boxed()).unwrap()
}
