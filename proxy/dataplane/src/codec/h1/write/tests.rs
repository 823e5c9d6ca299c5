use super::*;

fn text(out: &mut Outgoing) -> String {
    String::from_utf8(out.bytes()).unwrap()
}

fn answering() -> Answering {
    Answering { method: Method::GET, http10: false, accepts_trailers: true, keep_alive: true }
}

#[test]
fn what_a_policy_sets_cannot_change_the_framing() {
    let mut head = ResponseHead::new(StatusCode::OK);
    for name in ["content-length", "transfer-encoding", "connection", "upgrade", "host", "keep-alive"] {
        head.headers.insert(HeaderName::from_static(name), HeaderValue::from_static("9"));
    }
    let mut out = Outgoing::default();
    response(&mut out, &head, Some(2), &answering());
    let text = text(&mut out);
    assert_eq!(text.matches(": 9\r\n").count(), 0, "{text}");
    assert!(text.contains("\r\ncontent-length: 2\r\n"), "{text}");
}

#[test]
fn an_old_client_gets_no_chunks() {
    let mut out = Outgoing::default();
    let answering = Answering { http10: true, ..answering() };
    let (encoder, keep) = response(&mut out, &ResponseHead::new(StatusCode::OK), None, &answering);
    assert_eq!((encoder, keep), (Encoder::UntilClose, false));
    assert!(text(&mut out).contains("connection: close\r\n"));
}

#[test]
fn a_head_request_learns_the_length_and_gets_no_body() {
    let mut head = ResponseHead::new(StatusCode::OK);
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("12"));
    let answering = Answering { method: Method::HEAD, ..answering() };
    let mut out = Outgoing::default();
    assert_eq!(response(&mut out, &head, Some(0), &answering).0, Encoder::None);
    assert!(text(&mut out).contains("content-length: 12\r\n"));
}

#[test]
fn a_body_that_is_not_as_long_as_it_says_is_an_error() {
    let mut out = Outgoing::default();
    assert!(Encoder::Length(1).data(&mut out, Bytes::from_static(b"ab")).is_err());
    assert!(Encoder::Length(1).end(&mut out, None).is_err());
}

#[test]
fn chunks_are_written_with_their_size() {
    let mut out = Outgoing::default();
    let mut encoder = Encoder::Chunked { trailers: true };
    encoder.data(&mut out, Bytes::from(vec![b'x'; 26])).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    trailers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("7"));
    encoder.end(&mut out, Some(&trailers)).unwrap();
    assert_eq!(text(&mut out), format!("1a\r\n{}\r\n0\r\nx-sum: 7\r\n\r\n", "x".repeat(26)));
}
