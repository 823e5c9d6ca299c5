use super::super::decoder::Decoder;
use super::super::section::Kind;
use super::*;

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

fn encoded(encoder: &mut Encoder, fields: &[(&'static str, &'static str)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.encode(Pseudo::None, &map(fields), &mut out);
    out
}

#[test]
fn a_request_and_a_response_are_decoded_as_they_were() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(1 << 16));
    for _ in 0..3 {
        let mut out = Vec::new();
        let pseudo = Pseudo::Request {
            method: &Method::CONNECT,
            scheme: Some("https"),
            authority: Some("a:1"),
            path: Some("/chat"),
            protocol: Some("websocket"),
        };
        encoder.encode(pseudo, &map(&[("x-a", "1")]), &mut out);
        let section = decoder.decode(&out, Kind::Request).unwrap();
        assert_eq!((section.malformed, section.method.unwrap()), (None, Method::CONNECT));
        assert_eq!(
            (section.authority.unwrap(), section.path.unwrap()),
            ("a:1".parse().unwrap(), "/chat".parse().unwrap())
        );
        assert_eq!(
            (section.protocol.unwrap(), section.fields),
            ("websocket".parse().unwrap(), map(&[("x-a", "1")]))
        );
    }
    for status in [100, 200, 204, 206, 304, 400, 404, 500, 503, 999] {
        let status = StatusCode::from_u16(status).unwrap();
        let mut out = Vec::new();
        encoder.encode(Pseudo::Response(status), &HeaderMap::new(), &mut out);
        assert_eq!(decoder.decode(&out, Kind::Response).unwrap().status, Some(status));
    }
}

#[test]
fn a_value_enters_the_table_at_its_second_sight_and_a_name_at_once() {
    let mut encoder = Encoder::default();
    // The name is in the static table.
    assert_eq!(encoded(&mut encoder, &[("etag", "1")]), [0x0f, 0x13, 1, b'1']);
    assert_eq!(encoded(&mut encoder, &[("etag", "1")]), [0x62, 1, b'1']);
    assert_eq!(encoded(&mut encoder, &[("etag", "1")]), [0xbe]);
    // A name of its own.
    assert_eq!(encoded(&mut encoder, &[("x", "1")]), [0x40, 1, b'x', 1, b'1']);
    assert_eq!(encoded(&mut encoder, &[("x", "2")]), [0x0f, 0x2f, 1, b'2']);
    assert_eq!(encoded(&mut encoder, &[("x", "2")]), [0x7e, 1, b'2']);
    assert_eq!(encoded(&mut encoder, &[("x", "1"), ("x", "2"), ("etag", "1")]), [0xbf, 0xbe, 0xc0]);
}

#[test]
fn sensitive_values_are_never_indexed() {
    let mut encoder = Encoder::default();
    for _ in 0..3 {
        for (name, value) in
            [("authorization", "a"), ("set-cookie", "a=b"), ("cookie", "a=b"), ("proxy-authorization", "b")]
        {
            let out = encoded(&mut encoder, &[(name, value)]);
            assert_eq!(out[0] & 0xf0, 0x10, "{name}");
        }
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        let fields = HeaderMap::from_iter([(HeaderName::from_static("x"), secret)]);
        let mut out = Vec::new();
        encoder.encode(Pseudo::None, &fields, &mut out);
        assert_eq!(out[0], 0x10);
    }
    assert_eq!(encoder.entries.len(), 0);
    let long = [("cookie", "session=0123456789abcdef0123456789abcdef")];
    encoded(&mut encoder, &long);
    encoded(&mut encoder, &long);
    assert_eq!(encoded(&mut encoder, &long), [0xbe], "a long one cannot be guessed");
}

/// RFC 7541 section 4.2.
#[test]
fn a_change_of_the_size_is_acknowledged_with_the_next_block() {
    let mut encoder = Encoder::default();
    encoder.set_table_size(65_536);
    assert_eq!(encoded(&mut encoder, &[]), [0; 0], "the table keeps its size");
    encoded(&mut encoder, &[("x", "1")]);
    encoder.set_table_size(100);
    encoder.set_table_size(0);
    encoder.set_table_size(200);
    assert_eq!(encoded(&mut encoder, &[]), [0x20, 0x3f, 0xa9, 0x01], "the lowest, then the last");
    assert_eq!(encoder.entries.len(), 0);
    assert_eq!(encoded(&mut encoder, &[]), [0; 0]);
    encoder.set_table_size(0);
    assert_eq!(encoded(&mut encoder, &[("x", "1")]), [0x20, 0, 1, b'x', 1, b'1'], "nothing enters it");
}

#[test]
fn the_table_stays_within_its_size() {
    let mut encoder = Encoder::default();
    for at in 0..1000 {
        let mut fields = HeaderMap::new();
        fields.insert(HeaderName::try_from(format!("x-{at}")).unwrap(), HeaderValue::from(at));
        encoder.encode(Pseudo::None, &fields, &mut Vec::new());
        let bytes: usize = encoder.entries.iter().map(|entry| entry.text.len() + ENTRY_OVERHEAD).sum();
        assert!(bytes == encoder.bytes && bytes <= TABLE_BYTES);
        assert!(
            encoder.fields.len() == encoder.entries.len() && encoder.names.len() == encoder.entries.len()
        );
    }
    assert!(encoder.entries.len() > 90);
}

/// RFC 9113 section 8.2.2.
#[test]
fn fields_that_http2_does_not_have_are_not_written() {
    let mut encoder = Encoder::default();
    for name in ["connection", "host", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        for _ in 0..3 {
            assert_eq!(encoded(&mut encoder, &[(name, "a")]), [0; 0], "{name}");
        }
    }
}
