use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::ResourceLogs;

use super::*;
use crate::telemetry::otlp::environment::Environment;
use crate::telemetry::otlp::testing::{Answer, Collector};
use crate::telemetry::signal::Signal;

const PROTOCOLS: [&str; 2] = ["grpc", "http/protobuf"];

fn destination(signal: Signal, variables: &[(&str, &str)]) -> Destination {
    let mut all = vec![("OTEL_LOGS_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "5000")];
    all.extend(variables);
    let variables = all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment = Environment::new(variables);
    Destination::read(&environment, signal, "OTEL_BLRP_EXPORT_TIMEOUT").unwrap().unwrap()
}

fn to(collector: &Collector, protocol: &str, more: &[(&str, &str)]) -> (Exporter, Arc<Losses>) {
    let endpoint = format!("http://{}", collector.authority);
    let mut variables =
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
    variables.extend(more);
    exporter(destination(Signal::Logs, &variables))
}

fn exporter(destination: Destination) -> (Exporter, Arc<Losses>) {
    let losses = Arc::new(Losses::default());
    (Exporter::new(destination, Arc::clone(&losses)), losses)
}

fn request() -> ExportLogsServiceRequest {
    let logs = ResourceLogs { schema_url: "x".repeat(5000), ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![logs] }
}

fn counts(losses: &Losses) -> (u64, u64) {
    (losses.counts().log_records_exported, losses.counts().log_records_lost)
}

#[tokio::test]
async fn every_signal_arrives_by_both_transports() {
    for protocol in PROTOCOLS {
        for signal in Signal::ALL {
            let collector = Collector::start([]).await;
            let endpoint = format!("http://{}", collector.authority);
            let variables = [
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b,user-agent=mine"),
            ];
            let (exporter, _) = exporter(destination(signal, &variables));
            exporter.export(&request(), 1).await;
            exporter.export(&request(), 1).await;
            let arrived = collector.arrived();
            assert_eq!(arrived.len(), 2, "{protocol} {signal:?}");
            let path = if protocol == "grpc" { signal.grpc_path() } else { signal.http_path() };
            assert_eq!(arrived[0].path, path);
            assert_eq!(arrived[0].message, request().encode_to_vec());
            assert_eq!(arrived[0].headers["api-key"], "a b");
            let content = if protocol == "grpc" { "application/grpc" } else { "application/x-protobuf" };
            assert_eq!(arrived[0].headers["content-type"], content);
            assert!(!arrived[0].gzip);
        }
    }
}

#[tokio::test]
async fn gzip_compresses_what_is_sent() {
    for protocol in PROTOCOLS {
        let collector = Collector::start([]).await;
        let (exporter, losses) = to(&collector, protocol, &[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")]);
        exporter.export(&request(), 3).await;
        let arrived = collector.arrived();
        assert!(arrived[0].gzip, "{protocol}");
        assert_eq!(arrived[0].message, request().encode_to_vec());
        assert_eq!(counts(&losses), (3, 0));
    }
}

#[tokio::test]
async fn a_collector_that_recovers_gets_the_second_attempt() {
    for protocol in PROTOCOLS {
        let collector = Collector::start([Answer::Unavailable]).await;
        let (exporter, losses) = to(&collector, protocol, &[]);
        exporter.export(&request(), 3).await;
        assert_eq!((collector.arrived().len(), counts(&losses)), (2, (3, 0)), "{protocol}");
    }
}

#[tokio::test]
async fn a_collector_that_asks_for_more_time_than_there_is_costs_the_batch_at_once() {
    let collector = Collector::start([Answer::RetryLater]).await;
    let (exporter, losses) = to(&collector, "http/protobuf", &[("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000")]);
    exporter.export(&request(), 3).await;
    assert_eq!((collector.arrived().len(), counts(&losses)), (1, (0, 3)));
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    for protocol in PROTOCOLS {
        let collector = Collector::start([Answer::Refuse]).await;
        let (exporter, losses) = to(&collector, protocol, &[]);
        exporter.export(&request(), 3).await;
        assert_eq!((collector.arrived().len(), counts(&losses)), (1, (0, 3)), "{protocol}");
        assert!(exporter.failing.load(Relaxed));
        exporter.export(&request(), 3).await;
        assert!(!exporter.failing.load(Relaxed));
    }
}

#[tokio::test]
async fn what_a_collector_rejects_is_lost_and_the_rest_is_exported() {
    for protocol in PROTOCOLS {
        let collector = Collector::start([Answer::Reject(1)]).await;
        let (exporter, losses) = to(&collector, protocol, &[]);
        exporter.export(&request(), 3).await;
        assert_eq!(counts(&losses), (2, 1), "{protocol}");
    }
}

#[tokio::test]
async fn a_frozen_collector_costs_one_timeout_and_the_batch() {
    for protocol in PROTOCOLS {
        let collector = Collector::start([Answer::Silence]).await;
        let (exporter, losses) = to(&collector, protocol, &[("OTEL_BLRP_EXPORT_TIMEOUT", "100")]);
        exporter.export(&request(), 3).await;
        assert_eq!(counts(&losses), (0, 3), "{protocol}");
        exporter.export(&request(), 3).await;
        assert_eq!(counts(&losses), (3, 3), "{protocol}: the next request is not behind the frozen one");
    }
}

#[tokio::test]
async fn a_dead_collector_costs_the_batch() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for protocol in PROTOCOLS {
        let endpoint = format!("http://{closed}");
        let variables =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
        let (exporter, losses) = exporter(destination(Signal::Logs, &variables));
        exporter.export(&request(), 3).await;
        assert_eq!(counts(&losses), (0, 3), "{protocol}");
    }
}

#[test]
fn a_query_is_not_logged() {
    assert_eq!(shown(&"https://c:4318/in?key=secret".parse().unwrap()), "https://c:4318/in");
}

#[test]
fn a_port_of_the_other_protocol_is_pointed_out() {
    let hint_for = |endpoint, protocol| {
        let variables =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
        hint(&destination(Signal::Logs, &variables))
    };
    assert!(hint_for("http://c:4318", "grpc").contains("PROTOCOL=http/protobuf"));
    assert!(hint_for("http://c:4317", "http/protobuf").contains("PROTOCOL=grpc"));
    assert!(hint_for("http://c:4317", "grpc").is_empty());
}

/// Certificates in files, as variables name them.
struct Files(tempfile::TempDir);

impl Files {
    fn path(&self, name: &str, content: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }
}

#[tokio::test]
async fn an_https_collector_is_verified_by_the_configured_roots_and_shown_the_client_certificate() {
    let signed = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (server, other, client) = (signed("localhost"), signed("localhost"), signed("client"));
    let mut clients = rustls::RootCertStore::empty();
    clients.add(client.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(clients), Arc::clone(&provider))
            .build()
            .unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(server.signing_key.serialize_der());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.cert.der().clone()], key.into())
        .unwrap();
    let collector = Collector::start_tls(tls).await;
    let endpoint = format!("https://{}", collector.authority);
    let files = Files(tempfile::tempdir().unwrap());
    let (roots, wrong) = (files.path("a", &server.cert.pem()), files.path("b", &other.cert.pem()));
    let certificate = files.path("c", &client.cert.pem());
    let key = files.path("d", &client.signing_key.serialize_pem());
    for protocol in PROTOCOLS {
        for (roots, with_certificate, expected) in
            [(&roots, true, (3, 0)), (&wrong, true, (0, 3)), (&roots, false, (0, 3))]
        {
            let mut variables = vec![
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", roots),
            ];
            if with_certificate {
                variables.push(("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate));
                variables.push(("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", &key));
            }
            let (exporter, losses) = exporter(destination(Signal::Logs, &variables));
            exporter.export(&request(), 3).await;
            assert_eq!(counts(&losses), expected, "{protocol} {roots} {with_certificate}");
        }
    }
}
