//! GOAWAY while requests are in flight (RFC 9113 section 6.8): what the server has not processed is sent again on another
//! connection, whatever its method; what it has goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use outrigger_config::route::{Forward, RouteAction};
use outrigger_test_support::application::{Application, Connection};
use outrigger_test_support::client::Client;
use outrigger_test_support::wait::eventually;
use tokio::sync::{Notify, watch};

use crate::row::{LOST, ask};
use crate::support::frames::*;
use crate::support::{Proxy, World, retries, to};

/// A request with a body that does not fit into the initial window of a stream.
const LENGTH: usize = 100_000;
const GET: &str = "GET / HTTP/1.1\r\nConnection: close\r\n";

/// An application whose first connection is played by `play`, after it has read as many requests as `requests`. Its other
/// connections answer with the method and the length of the body.
async fn application<P, R>(requests: usize, play: P) -> Application
where
    P: Fn(Connection) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let play = Arc::new(play);
    Application::raw(move |mut connection| {
        let play = Arc::clone(&play);
        async move {
            if connection.number > 0 {
                return answers(connection).await;
            }
            preface(&mut connection).await;
            connection.send(frame(SETTINGS, 0, 0, &[])).await.unwrap();
            for _ in 0..requests {
                next_request(&mut connection).await.unwrap();
                connection.count_request();
            }
            play(connection).await;
        }
    })
    .await
}

/// Serves a connection by the `h2` crate.
async fn answers(connection: Connection) {
    async fn answer(request: http::Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) {
        let method = request.method().to_string();
        let (mut body, mut length) = (request.into_body(), 0);
        while let Some(Ok(data)) = body.data().await {
            length += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
        stream.send_data(format!("{method} {length}").into(), true).unwrap();
    }
    let mut connection = h2::server::handshake(connection.stream).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond));
    }
}

/// A worker in front of `application`, on a route that retries what is safe, or on one without retries.
fn before(application: &Application, retried: bool) -> Proxy {
    let retry = retried.then(|| retries(2));
    let action = RouteAction::Forward(Box::new(Forward { retry, ..to("app") }));
    World::new().proxy().cluster_of(http2("app", application.address)).http("app:80", action).start()
}

async fn until_requests(application: &Application, count: usize) {
    eventually("requests", async || (application.requests() >= count).then_some(())).await;
}

/// A client that has sent a POST of [`LENGTH`] bytes.
async fn posting(proxy: &Proxy) -> Client {
    let mut client = Client::connect(proxy.address(0)).await;
    client.send(format!("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
    client.send(vec![b'x'; LENGTH]).await;
    client
}

#[tokio::test]
async fn requests_above_the_last_stream_are_sent_elsewhere_and_those_below_go_on() {
    for retried in [true, false] {
        let (answered, wait) = watch::channel(false);
        let application = application(3, move |mut connection| {
            let mut wait = wait.clone();
            async move {
                connection.send(goaway(1, 0)).await.unwrap();
                wait.wait_for(|answered| *answered).await.unwrap();
                let rest = [frame(HEADERS, END_HEADERS, 1, OK), frame(DATA, END_STREAM, 1, b"first")];
                connection.send(rest.concat()).await.unwrap();
                // The proxy closes the connection when its last stream has ended.
                while next_frame(&mut connection).await.is_some() {}
            }
        })
        .await;
        let proxy = before(&application, retried);
        let mut first = Client::connect(proxy.address(0)).await;
        first.send("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\n\r\n").await;
        until_requests(&application, 1).await;
        let mut get = Client::connect(proxy.address(0)).await;
        get.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
        until_requests(&application, 2).await;
        let mut post = posting(&proxy).await;
        assert_eq!(get.response().await.body, "GET 0", "retries: {retried}");
        assert_eq!(post.response().await.body, format!("POST {LENGTH}"), "retries: {retried}");
        answered.send(true).unwrap();
        assert_eq!(first.response().await.body, "first", "retries: {retried}");
        assert_eq!((application.requests(), application.connections()), (3, 2));
    }
}

#[tokio::test]
async fn a_goaway_with_an_error_loses_what_may_have_been_processed_and_nothing_else() {
    let application = application(2, |mut connection| async move {
        // INTERNAL_ERROR; the connection is closed.
        connection.send(goaway(1, 2)).await.unwrap();
    })
    .await;
    let proxy = before(&application, true);
    let mut below = Client::connect(proxy.address(0)).await;
    below.send("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\n\r\n").await;
    until_requests(&application, 1).await;
    let mut above = posting(&proxy).await;
    assert_eq!(above.response().await.body, format!("POST {LENGTH}"));
    let lost = below.response().await;
    assert_eq!(lost.status, 503);
    assert!(lost.head.contains("upstream_connection_termination"), "{}", lost.head);
}

#[tokio::test]
async fn a_goaway_in_two_steps_loses_nothing() {
    let (announced, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (announcing, finishing) = (Arc::clone(&announced), Arc::clone(&finish));
    let application = application(2, move |mut connection| {
        let (announced, finish) = (Arc::clone(&announcing), Arc::clone(&finishing));
        async move {
            connection.send(goaway(0x7fff_ffff, 0)).await.unwrap();
            announced.notify_one();
            finish.notified().await;
            let response =
                |stream| [frame(HEADERS, END_HEADERS, stream, OK), frame(DATA, END_STREAM, stream, b"old")];
            let ends = [response(1).concat(), goaway(3, 0), response(3).concat()];
            connection.send(ends.concat()).await.unwrap();
            while next_frame(&mut connection).await.is_some() {}
        }
    })
    .await;
    let proxy = before(&application, true);
    let mut clients = Vec::new();
    for count in 1..=2 {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
        until_requests(&application, count).await;
        clients.push(client);
    }
    announced.notified().await;
    // What comes after the announcement is served on a new connection, as soon as the announcement has arrived.
    eventually("a new connection", async || {
        let answer = tokio::time::timeout(Duration::from_millis(100), ask(proxy.address(0), GET)).await;
        (answer.as_deref() == Ok("200 whole")).then_some(())
    })
    .await;
    finish.notify_one();
    for client in &mut clients {
        assert_eq!(client.response().await.body, "old");
    }
}

#[tokio::test]
async fn a_server_that_processes_nothing_ever_is_given_up() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let application = Application::raw(move |mut connection| {
        let connections = Arc::clone(&counted);
        async move {
            connections.fetch_add(1, Ordering::SeqCst);
            preface(&mut connection).await;
            connection.send(frame(SETTINGS, 0, 0, &[])).await.unwrap();
            while next_request(&mut connection).await.is_some() {
                if connection.send(goaway(0, 0)).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let proxy = before(&application, true);
    assert_eq!(ask(proxy.address(0), GET).await, LOST);
    assert_eq!(connections.load(Ordering::SeqCst), 3, "the first attempt and two retries");
}
