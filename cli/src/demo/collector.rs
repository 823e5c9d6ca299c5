//! A small OTLP receiver: keeps the demo's spans, and forwards them if the user gave an endpoint.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::sync::mpsc;
use tonic::transport::{Endpoint, Server, server::TcpIncoming};
use tonic::{Request, Response, Status};

/// How many spans are kept. The oldest are dropped first.
const KEPT: usize = 100_000;

/// The parts of a span that the demo uses.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) trace: Vec<u8>,
    pub(super) id: Vec<u8>,
    /// Empty for a root.
    pub(super) parent: Vec<u8>,
    /// `service.name` of the resource.
    pub(super) service: String,
    pub(super) kind: SpanKind,
    /// Unix time in nanoseconds.
    pub(super) start: u64,
    pub(super) duration: Duration,
    pub(super) attributes: HashMap<String, String>,
}

/// The receiver. All clones share the spans.
#[derive(Clone)]
pub(super) struct Collector {
    spans: Arc<Mutex<VecDeque<Span>>>,
    onward: Option<mpsc::Sender<ExportTraceServiceRequest>>,
}

impl Collector {
    /// Listens on a free loopback port, and forwards everything to `onward` (an OTLP/gRPC endpoint), if any. If that cannot be
    /// reached, its copy of the spans is lost.
    pub(super) async fn start(onward: Option<String>) -> Result<(Self, SocketAddr), String> {
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .map_err(|error| format!("cannot listen for spans: {error}"))?;
        let address = incoming.local_addr().map_err(|error| error.to_string())?;
        let onward = match onward {
            Some(endpoint) => Some(pass_on(&endpoint)?),
            None => None,
        };
        let collector = Self { spans: Arc::default(), onward };
        let server = Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        Ok((collector, address))
    }

    /// Returns every complete trace, newest last: one root, and the parent of every other span.
    pub(super) fn complete_traces(&self) -> Vec<Trace> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order = Vec::new();
        let mut traces: HashMap<&[u8], Vec<Span>> = HashMap::new();
        for span in spans.iter() {
            let trace = traces.entry(&span.trace).or_default();
            if trace.is_empty() {
                order.push(&span.trace);
            }
            trace.push(span.clone());
        }
        order.iter().filter_map(|id| Trace::new(traces.remove(id.as_slice())?)).collect()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        if let Some(onward) = &self.onward {
            let _ = onward.try_send(request.clone());
        }
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.resource_spans {
            let described = text(resource.resource.map(|resource| resource.attributes).unwrap_or_default());
            let service = described.get("service.name").cloned().unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push_back(Span {
                    kind: span.kind(),
                    trace: span.trace_id,
                    id: span.span_id,
                    parent: span.parent_span_id,
                    service: service.clone(),
                    start: span.start_time_unix_nano,
                    duration: Duration::from_nanos(
                        span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
                    ),
                    attributes: text(span.attributes),
                });
            }
        }
        let excess = spans.len().saturating_sub(KEPT);
        spans.drain(..excess);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn pass_on(endpoint: &str) -> Result<mpsc::Sender<ExportTraceServiceRequest>, String> {
    if !endpoint.starts_with("http://") {
        return Err(format!("{endpoint:?}: the demo forwards spans to http:// endpoints only"));
    }
    let channel = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|error| format!("{endpoint:?} is no OTLP endpoint: {error}"))?
        .connect_timeout(Duration::from_secs(2))
        .timeout(Duration::from_secs(5))
        .connect_lazy();
    let (sender, mut receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        let mut client = TraceServiceClient::new(channel);
        while let Some(request) = receiver.recv().await {
            let _ = client.export(Request::new(request)).await;
        }
    });
    Ok(sender)
}

fn text(attributes: Vec<KeyValue>) -> HashMap<String, String> {
    attributes
        .into_iter()
        .filter_map(|attribute| {
            let value = match attribute.value?.value? {
                Value::StringValue(text) => text,
                Value::IntValue(number) => number.to_string(),
                Value::BoolValue(truth) => truth.to_string(),
                Value::DoubleValue(number) => number.to_string(),
                _ => return None,
            };
            Some((attribute.key, value))
        })
        .collect()
}

/// A complete trace.
#[derive(Debug)]
pub(super) struct Trace {
    spans: Vec<Span>,
    root: usize,
}

impl Trace {
    fn new(spans: Vec<Span>) -> Option<Self> {
        let ids: HashSet<_> = spans.iter().map(|span| span.id.as_slice()).collect();
        let mut roots = spans.iter().enumerate().filter(|(_, span)| !ids.contains(span.parent.as_slice()));
        match (roots.next(), roots.next()) {
            (Some((root, span)), None) if span.parent.is_empty() => Some(Self { root, spans }),
            _ => None,
        }
    }

    /// The trace ID, in hexadecimal.
    pub(super) fn id(&self) -> String {
        self.spans[self.root].trace.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The services that took part.
    pub(super) fn services(&self) -> HashSet<&str> {
        self.spans.iter().map(|span| span.service.as_str()).collect()
    }

    /// Every call with its depth, callers before callees, in the order in which they began.
    pub(super) fn calls(&self) -> Vec<Call<'_>> {
        let mut children: HashMap<&[u8], Vec<&Span>> = HashMap::new();
        for span in &self.spans {
            children.entry(&span.parent).or_default().push(span);
        }
        let mut calls = Vec::new();
        let mut open = vec![(0, &self.spans[self.root])];
        while let Some((depth, client)) = open.pop() {
            let below = |span: &Span| children.get(span.id.as_slice()).cloned().unwrap_or_default();
            let server = below(client).into_iter().find(|span| span.kind == SpanKind::Server);
            let mut next = server.map(below).unwrap_or_default();
            next.sort_by_key(|span| std::cmp::Reverse(span.start));
            calls.push(Call { depth, client, server });
            open.extend(next.into_iter().map(|span| (depth + 1, span)));
        }
        calls
    }
}

/// One attempt of a call: the client span of the caller's sidecar, and below it the server span of the callee's.
#[derive(Debug)]
pub(super) struct Call<'trace> {
    /// How many calls it is a part of.
    pub(super) depth: usize,
    pub(super) client: &'trace Span,
    pub(super) server: Option<&'trace Span>,
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Span {
        /// A client span that is its own trace.
        pub(in crate::demo) fn of(service: &str, attributes: HashMap<String, String>) -> Self {
            let (trace, id, parent) = (vec![1], vec![1], Vec::new());
            let (kind, start, duration) = (SpanKind::Client, 1, Duration::ZERO);
            Self { trace, id, parent, service: service.to_owned(), kind, start, duration, attributes }
        }
    }

    fn span(id: u8, parent: &[u8]) -> Span {
        let kind = if id % 2 == 1 { SpanKind::Client } else { SpanKind::Server };
        let (id, parent, start) = (vec![id], parent.to_vec(), u64::from(id));
        Span { id, parent, kind, start, ..Span::of("web", HashMap::new()) }
    }

    #[tokio::test]
    async fn an_endpoint_without_plain_http_is_refused_by_name() {
        let refused = Collector::start(Some("https://traces:4317".into())).await.err();
        assert!(refused.is_some_and(|text| text.starts_with("\"https://traces:4317\": ")));
    }

    #[test]
    fn the_calls_of_a_trace_are_nested_and_in_order() {
        let spans = vec![span(7, &[2]), span(6, &[5]), span(2, &[1]), span(1, &[]), span(5, &[2])];
        let trace = Trace::new(spans).unwrap();
        let calls = trace.calls();
        let calls =
            calls.iter().map(|call| (call.depth, call.client.id[0], call.server.map(|span| span.id[0])));
        assert_eq!(calls.collect::<Vec<_>>(), [(0, 1, Some(2)), (1, 5, Some(6)), (1, 7, None)]);
    }

    #[test]
    fn a_trace_with_a_missing_parent_is_incomplete() {
        assert!(Trace::new(vec![span(1, &[]), span(2, &[9])]).is_none());
        assert!(Trace::new(vec![span(2, &[9])]).is_none());
    }
}
