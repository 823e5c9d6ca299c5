//! Targets and hosts in HTTP/2: read and refused as in HTTP/1.

use http::{Method, Request, StatusCode, Uri};
use outrigger_core::reason::Reason;
use tokio::task::spawn_local;

use super::support::{echo, http2_to, run, serving, whole};
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::Body;
use crate::codec::head::RequestHead;
use crate::codec::limits::Limits;
use crate::codec::server::Protocol;

#[test]
fn a_question_about_the_server_crosses_http_2_as_a_star() {
    run(async {
        let served = serving(Protocol::Http2, echo);
        let connection = http2_to(served.client, &Limits::default()).await;
        let head = RequestHead { method: Method::OPTIONS, ..super::support::get("*") };
        let Answer::Final(_, Payload::Body(mut body)) =
            connection.send(&head, Body::empty()).answer().await.unwrap()
        else {
            panic!("no answer")
        };
        assert_eq!(whole(&mut body).await.unwrap().0, "OPTIONS http://cart:80* ");
    });
}

#[test]
fn an_empty_port_is_none_and_a_target_is_ascii() {
    for (target, expected) in [
        ("http://cart:/a", Ok("GET http://cart/a ")),
        ("http://cart/caf\u{e9}", Err(StatusCode::BAD_REQUEST)),
        ("http://cart/?caf\u{e9}", Err(StatusCode::BAD_REQUEST)),
    ] {
        run(async move {
            let served = serving(Protocol::Http2, echo);
            let (mut send, connection) = h2::client::handshake(served.client).await.unwrap();
            spawn_local(connection);
            let mut request = Request::new(());
            *request.uri_mut() = target.parse::<Uri>().unwrap();
            let (response, _) = send.send_request(request, true).unwrap();
            let mut response = response.await.unwrap();
            match expected {
                Ok(text) => assert_eq!(response.body_mut().data().await.unwrap().unwrap(), text),
                Err(status) => {
                    assert_eq!(response.status(), status, "{target}");
                    assert_eq!(served.refusals.take(), [Reason::DownstreamProtocolError]);
                }
            }
        });
    }
}
