//! Which workloads may join, register and discover, and which are refused.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use outrigger_control_plane::ca::certificate::LeafCertificate;
use outrigger_control_plane::history;
use outrigger_control_plane::run::control_plane::ControlPlane;
use outrigger_control_plane::run::settings::Settings;
use outrigger_core::descriptors;
use outrigger_proto::istio_auth::IstioCertificateRequest;
use outrigger_proto::istio_auth::istio_certificate_service_client::IstioCertificateServiceClient;
use outrigger_proto::registration::register_response::Outcome;
use outrigger_proto::registration::registration_client::RegistrationClient;
use outrigger_proto::registration::{RegisterRequest, RegisterResponse};
use rcgen::KeyPair;
use tokio::net::TcpStream;
use tonic::{Code, Request};

use super::harness::{CART, Mesh, Registered, serving, subscribe};

#[tokio::test]
async fn a_workload_joins_with_a_token_and_renews_with_its_certificate() {
    let mesh = Mesh::start().await;
    let joined = mesh.join().await;
    assert_eq!(LeafCertificate::read(&joined.chain[0]).unwrap().identity.as_str(), CART);
    let mesh = mesh.restart().await;
    let new_key = KeyPair::generate().unwrap();
    let renewed = mesh.certificate(Some(&joined), None, &new_key).await.unwrap();
    assert_eq!(LeafCertificate::read(&renewed[0]).unwrap().identity.as_str(), CART);
    assert_eq!(renewed.last(), joined.chain.last(), "the root survived the restart");
    assert_eq!(mesh.status().await.certificates_issued, 1);
}

#[tokio::test]
async fn clients_without_valid_credentials_get_nothing() {
    let mesh = Mesh::start().await;
    let key = KeyPair::generate().unwrap();
    let refused = mesh.certificate(None, None, &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let other_mesh = Mesh::start().await;
    let foreign = other_mesh.join().await;
    let refused = mesh.certificate(None, Some(&other_mesh.token().await), &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().starts_with("the join token is unknown"), "{refused}");
    // In TLS 1.3 a client learns only by its first read that its certificate was refused.
    let with_foreign_certificate = async {
        let channel = mesh.connect(Some(&foreign)).await.map_err(|error| error.to_string())?;
        let request = Request::new(IstioCertificateRequest::default());
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await;
        answer.map_err(|status| format!("{:?}", status.code()))
    };
    let refused = with_foreign_certificate.await.unwrap_err();
    assert_ne!(refused, "InvalidArgument", "the request reached the CA");
    let nobody = mesh.connect(None).await.unwrap();
    let refused = RegistrationClient::new(nobody).register(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(mesh.status().await.certificates_issued, 0);
}

#[tokio::test]
async fn discovery_answers_those_with_a_certificate() {
    let mesh = Mesh::start().await;
    let joined = mesh.join().await;
    let refused = subscribe(mesh.connect(None).await.unwrap(), &["cart:80"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut answers = subscribe(mesh.connect(Some(&joined)).await.unwrap(), &["cart:80"]).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.resources[0].name, "cart:80");
    let proxies = mesh.status().await.proxies;
    assert_eq!((proxies[0].node.as_str(), proxies[0].identity.as_str()), ("cart-1", CART));
}

#[tokio::test]
async fn silent_and_malformed_clients_delay_no_other_client() {
    use tokio::io::AsyncWriteExt;
    // More connections than may wait for their handshake, all from the address of the workload that joins.
    let many = (descriptors::raise_limit() / 4).min(8192) + 20;
    let mesh = Mesh::start().await;
    let mut callers = Vec::new();
    for _ in 0..many {
        let silent = TcpStream::connect(mesh.control_plane.listen()).await.unwrap();
        if callers.len() < 20 {
            let mut senseless = TcpStream::connect(mesh.control_plane.listen()).await.unwrap();
            senseless.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        }
        callers.push(silent);
    }
    mesh.join().await;
    let refused = async |reason: &str| {
        let page = mesh.metrics().await;
        let line = format!("connections_refused_total{{reason=\"{reason}\"}} ");
        page.lines().find_map(|text| text.split_once(&line)?.1.parse::<usize>().ok()).unwrap_or(0)
    };
    // The oldest connection was closed for each new one; none of them reached its timeout.
    assert!(refused("crowded").await > 0);
    assert_eq!(refused("timeout").await, 0);
}

#[tokio::test]
async fn an_unknown_grpc_service_is_unimplemented() {
    let mesh = Mesh::start().await;
    let joined = mesh.join().await;
    let mut client = tonic::client::Grpc::new(mesh.connect(Some(&joined)).await.unwrap());
    client.ready().await.unwrap();
    let codec = tonic_codec();
    let path = http::uri::PathAndQuery::from_static("/unknown.v1.Service/Call");
    let refused = client.unary(Request::new(RegisterRequest::default()), path, codec).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

fn tonic_codec() -> tonic_prost::ProstCodec<RegisterRequest, RegisterResponse> {
    tonic_prost::ProstCodec::default()
}

#[tokio::test]
async fn a_registration_outlives_its_stream_and_the_control_plane_and_ends_by_draining() {
    let mesh = Mesh::start().await;
    let joined = mesh.join().await;
    let mut stream = Registered::open(&mesh, &joined).await;
    let Outcome::Refused(refused) = stream.say(serving("nobody")).await else { panic!("not refused") };
    assert_eq!(refused.ports[0].reason, "there is no Service nobody.shop");
    let Outcome::Accepted(accepted) = stream.say(serving("cart")).await else { panic!("not accepted") };
    assert_eq!(accepted.lease.unwrap().seconds, 30);

    let mesh = mesh.restart().await;
    let known = &mesh.status().await.registrations;
    assert_eq!((known.len(), known[0].serves[0].as_str()), (1, "cart.shop:80 at 127.0.0.1:9000"));

    let mut stream = Registered::open(&mesh, &joined).await;
    assert!(matches!(stream.say(serving("cart")).await, Outcome::Accepted(_)));
    let drain = RegisterRequest { drain: true, ..Default::default() };
    assert!(matches!(stream.say(drain).await, Outcome::Drained(_)));
    assert_eq!(mesh.status().await.registrations[0].health, "draining");
    drop(stream);
    let gone = async {
        while !mesh.status().await.registrations.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("drained, and still there");
}

#[tokio::test]
async fn a_workload_that_says_too_much_is_cut_off_and_stays_registered() {
    let mesh = Mesh::start().await;
    let joined = mesh.join().await;
    let mut stream = Registered::open(&mesh, &joined).await;
    assert!(matches!(stream.say(serving("cart")).await, Outcome::Accepted(_)));
    let refused = loop {
        // Fails once the stream is cut off.
        let _ = stream.say.send(RegisterRequest::default()).await;
        match stream.answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a word"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    // It is stored before it is acknowledged, and appears in the status soon after.
    let stays = async {
        while mesh.status().await.registrations.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), stays).await.expect("registered, and not there");
}

#[tokio::test]
async fn a_stream_speaks_for_one_instance() {
    let mesh = Mesh::start().await;
    let joined = mesh.join().await;
    let mut stream = Registered::open(&mesh, &joined).await;
    assert!(matches!(stream.say(serving("cart")).await, Outcome::Accepted(_)));
    let mut other = serving("cart");
    other.workload.as_mut().unwrap().instance = "cart-2".into();
    stream.say.send(other).await.unwrap();
    let refused = stream.answers.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

#[tokio::test]
async fn what_the_configuration_said_is_in_the_history_with_the_control_plane_and_without() {
    let mesh = Mesh::start().await;
    let state = mesh.state();
    let read = async {
        loop {
            let entries = history::read(&state, 10).await.unwrap();
            if !entries.is_empty() {
                return entries;
            }
        }
    };
    let entries = tokio::time::timeout(Duration::from_secs(10), read).await.unwrap();
    assert_eq!(entries[0].what, "Service shop/cart added");
    let Mesh { directory, control_plane } = mesh;
    control_plane.shut_down().await;
    assert_eq!(history::read(&directory.path().join("state"), 10).await.unwrap(), entries);
}

#[tokio::test]
async fn what_is_missing_at_start_is_said_in_one_line() {
    let mesh = Mesh::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let directory = elsewhere.path();
    std::fs::create_dir(directory.join("config")).unwrap();
    std::fs::write(directory.join("file"), "").unwrap();
    let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let taken = mesh.control_plane.listen();
    let with = |config: &str, state: &Path, listen, admin| {
        Settings::new(directory.join(config), state, listen, admin, "cluster.local").unwrap()
    };
    let state = directory.join("state");
    for (settings, says) in [
        (with("config", &state, taken, free), format!("cannot listen on {taken} (--listen)")),
        (with("config", &state, free, taken), format!("cannot listen on {taken} (--admin)")),
        (with("nowhere", &state, free, free), "nowhere".into()),
        (with("config", &directory.join("file"), free, free), "file".into()),
        (with("config", &mesh.state(), free, free), "in use by another process".into()),
    ] {
        let error = ControlPlane::start(settings).await.unwrap_err().to_string();
        assert!(error.contains(&says) && !error.contains('\n'), "{error:?} does not say {says:?}");
    }
}
