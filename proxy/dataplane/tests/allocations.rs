//! How often a request allocates, which is a large part of what it costs: one test, alone in its file, since the allocator counts for the
//! whole process.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests

#[path = "support/counting.rs"]
mod counting;
mod support;

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request, Response};
use outrigger_config::cluster::{Cluster, UpstreamProtocol};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use support::{World, cluster, endpoint, forward};
use tokio::net::TcpStream;

const REQUESTS: u64 = 200;

/// Returns how often the workers allocate for a request, which `send` sends, once connections are open and caches filled.
async fn allocations(mut send: impl AsyncFnMut()) -> u64 {
    for _ in 0..REQUESTS {
        send().await;
    }
    let before = counting::calls();
    for _ in 0..REQUESTS {
        send().await;
    }
    // The last handler has ended.
    tokio::time::sleep(Duration::from_millis(100)).await;
    (counting::calls() - before) / REQUESTS
}

#[tokio::test]
async fn a_request_allocates_little() {
    counting::exclude_this_thread();
    let (get, call) = (get_over_http1().await, grpc_call().await);
    println!("a GET over HTTP/1 allocates {get} times, a gRPC call {call} times");
    assert!(get <= 5 && call <= 14, "{get}, {call}");
}

async fn get_over_http1() -> u64 {
    let application = Application::http(|_| ok("served")).await;
    let world = World::new().unlogged().proxy().cluster("app", &[application.address]);
    let proxy = world.http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    let get = async || assert_eq!(client.get("app", "/").await.body, "served");
    allocations(get).await
}

/// Sends a gRPC call with one message, and reads the whole answer.
async fn call(sender: &SendRequest<Bytes>) {
    let request = Request::post("http://app:80/package.Service/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let mut sender = sender.clone().ready().await.unwrap();
    let (response, mut body) = sender.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(&[b'm'; 100]), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    while let Some(data) = body.data().await {
        let length = data.unwrap().len();
        body.flow_control().release_capacity(length).unwrap();
    }
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
}

async fn grpc_call() -> u64 {
    let application = Application::http2(|request, mut respond| async move {
        let mut body = request.into_body();
        while let Some(data) = body.data().await {
            let length = data.unwrap().len();
            body.flow_control().release_capacity(length).unwrap();
        }
        let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut body = respond.send_response(response, false).unwrap();
        body.send_data(Bytes::from_static(&[b'm'; 100]), false).unwrap();
        let status = ("grpc-status".parse().unwrap(), HeaderValue::from_static("0"));
        body.send_trailers(HeaderMap::from_iter([status])).unwrap();
    });
    let application = application.await;
    let of_http2 =
        Cluster { protocol: UpstreamProtocol::Http2, ..cluster("app", [endpoint(application.address)]) };
    let proxy = World::new().unlogged().proxy().cluster_of(of_http2).http("app:80", forward("app")).start();
    let stream = TcpStream::connect(proxy.address(0)).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    allocations(async || call(&sender).await).await
}
