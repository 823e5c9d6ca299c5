//! Queries for names outside of the mesh.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use outrigger_tests::mesh::{Mesh, service};
use outrigger_tests::sidecar::Sidecar;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::client::{ask, ask_tcp, exchange, is_ignored, query, read, with_size};
use super::name_server::{NameServer, error, respond, response};

async fn sidecar(mesh: &Mesh, servers: &[SocketAddr]) -> Sidecar {
    let mut web = mesh.sidecar("web").flag("--dns", "127.0.0.1:0");
    for server in servers {
        web = web.flag("--dns-upstream", &server.to_string());
    }
    web.start().await
}

#[tokio::test]
async fn a_large_response_is_truncated_to_what_the_client_accepts_and_complete_over_tcp() {
    let mesh = Mesh::start(&service("cart", 80, "http")).await;
    // 100 addresses have at least 1,600 bytes, which this name server sends over UDP whatever the client accepts.
    let server = NameServer::start(|query, _| {
        let addresses: Vec<_> = (0..100).map(|n| format!("10.0.0.{n}")).collect();
        respond(&query, &addresses.iter().map(String::as_str).collect::<Vec<_>>())
    })
    .await;
    let web = sidecar(&mesh, &[server.address]).await;
    let query = query("www.example.com.", RecordType::A);
    for (query, expected) in
        [(query.clone(), 0), (with_size(query.clone(), 1232), 0), (with_size(query.clone(), 4096), 100)]
    {
        let response = ask(web.dns(), &query).await;
        assert_eq!((response.answers.len(), response.metadata.truncation), (expected, expected == 0));
    }
    let [first, second] = &ask_tcp(web.dns(), &[query.clone(), query]).await[..] else { panic!() };
    assert_eq!((first.answers.len(), second.answers.len()), (100, 100));
}

#[tokio::test]
async fn only_the_name_servers_own_response_to_the_query_is_passed_on() {
    let mesh = Mesh::start(&service("cart", 80, "http")).await;
    let server = NameServer::start(|query, _| {
        let with = |id: u16, name: &str, ip: &str| {
            let mut forged = query.clone();
            forged.metadata.id = id;
            forged.queries = super::client::query(name, RecordType::A).queries;
            response(&forged, &[ip]).to_vec().unwrap()
        };
        let (id, name) = (query.metadata.id, "www.example.com.");
        assert_ne!(id, 4711, "the client's ID is not forwarded");
        vec![
            (with(id ^ 1, name, "192.0.2.66"), false),
            (with(id, "www.example.org.", "192.0.2.67"), false),
            (with(id, name, "192.0.2.68"), true),
            (query.to_vec().unwrap(), false),
            (vec![1, 2, 3], false),
            (with(id, name, "192.0.2.1"), false),
        ]
    })
    .await;
    let web = sidecar(&mesh, &[server.address]).await;
    for _ in 0..20 {
        let response = ask(web.dns(), &query("www.example.com.", RecordType::A)).await;
        assert_eq!(read(&response), (ResponseCode::NoError, vec!["192.0.2.1".to_owned()]));
    }
}

#[tokio::test]
async fn another_name_server_is_asked_if_one_is_silent_or_fails() {
    let mesh = Mesh::start(&service("cart", 80, "http")).await;
    let failing = NameServer::start(|query, _| error(&query, ResponseCode::ServFail)).await;
    let silent = NameServer::start(|_, _| Vec::new()).await;
    let ordinary = NameServer::ordinary().await;
    // Nothing listens at port 1.
    let closed = "127.0.0.1:1".parse().unwrap();
    let query = query("www.example.com.", RecordType::A);
    let web = sidecar(&mesh, &[closed, failing.address, silent.address, ordinary.address]).await;
    assert_eq!(read(&ask(web.dns(), &query).await).1, ["192.0.2.1"]);
    assert_eq!(web.metric("outrigger_dns_queries_total", "forwarded").await, 1.0);

    let other = Mesh::start(&service("cart", 80, "http")).await;
    let web = sidecar(&other, &[failing.address]).await;
    assert_eq!(read(&ask(web.dns(), &query).await).0, ResponseCode::ServFail);
    assert_eq!(web.metric("outrigger_dns_queries_total", "failed").await, 1.0);

    let other = Mesh::start(&service("cart", 80, "http")).await;
    let web = sidecar(&other, &[closed]).await;
    assert_eq!(read(&ask(web.dns(), &query).await).0, ResponseCode::ServFail);
    assert_eq!(read(&ask_tcp(web.dns(), &[query]).await[0]).0, ResponseCode::ServFail);
    assert_eq!(web.metric("outrigger_dns_queries_total", "failed").await, 2.0);
}

#[tokio::test]
async fn queries_and_connections_without_end_do_not_keep_out_others() {
    let mesh = Mesh::start(&service("cart", 80, "http")).await;
    let server = NameServer::start(|query, _| {
        let is_slow = query.queries[0].name().to_ascii().starts_with("slow");
        if is_slow { Vec::new() } else { respond(&query, &["192.0.2.1"]) }
    })
    .await;
    let web = sidecar(&mesh, &[server.address]).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..400 {
        let slow = query(&format!("slow{n}.example.com."), RecordType::A);
        socket.send_to(&slow.to_vec().unwrap(), web.dns()).await.unwrap();
        if n % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut idle = Vec::new();
    for _ in 0..70 {
        idle.push(tokio::net::TcpStream::connect(web.dns()).await.unwrap());
    }
    let query = query("www.example.com.", RecordType::A);
    assert_eq!(read(&ask(web.dns(), &query).await).1, ["192.0.2.1"]);
    assert_eq!(read(&ask_tcp(web.dns(), &[query]).await[0]).1, ["192.0.2.1"]);
    assert!(web.metric("outrigger_dns_queries_total", "dropped").await >= 7.0);
}

#[tokio::test]
async fn errors_and_other_types_are_passed_on_and_malformed_packets_harm_nothing() {
    let mesh = Mesh::start(&service("cart", 80, "http")).await;
    let server = NameServer::start(|query, _| error(&query, ResponseCode::NXDomain)).await;
    let web = sidecar(&mesh, &[server.address]).await;
    for kind in [RecordType::MX, RecordType::TXT, RecordType::PTR] {
        let response = ask(web.dns(), &query("5.0.0.10.in-addr.arpa.", kind)).await;
        assert_eq!(read(&response), (ResponseCode::NXDomain, vec![]));
    }
    let mut packets = TestRunner::deterministic();
    let any_packet = proptest::collection::vec(any::<u8>(), 0..100);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..500 {
        let packet = any_packet.new_tree(&mut packets).unwrap().current();
        socket.send_to(&packet, web.dns()).await.unwrap();
    }
    let response = response(&query("www.example.com.", RecordType::A), &[]);
    assert!(is_ignored(web.dns(), &response.to_vec().unwrap()).await, "no loop of responses");
    assert!(is_ignored(web.dns(), b"short").await);
    let cut = query("cart.", RecordType::A).to_vec().unwrap();
    let refused = Message::from_vec(&exchange(web.dns(), &cut[..cut.len() - 2]).await).unwrap();
    assert_eq!(refused.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(read(&ask(web.dns(), &query("cart.", RecordType::A)).await).1.len(), 1);
}
