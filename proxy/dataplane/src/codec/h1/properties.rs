//! What holds for all bytes: nothing panics, and what is understood is passed on with one meaning only.
//!
//! Called with bytes that are nearly messages by the tests, and by the fuzz targets (`fuzz/`) with what a fuzzer finds.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method};

use super::fields::Search;
use super::framing::{Decoded, Decoder, Framing};
use super::parse::{self, RequestFacts};
use super::write::{self, Outgoing};
use crate::codec::head::Scheme;
use crate::codec::limits::Limits;

/// A request that is understood is passed on as the same request.
pub(crate) fn request(bytes: &[u8]) {
    let Some((request, _)) = read(bytes, &Limits::default()) else { return };
    if request.head.authority.is_none() {
        // Of HTTP/1.0; it does not get past routing without a host.
        return;
    }
    let passed_on = written(&request);
    let shown = String::from_utf8_lossy(&passed_on);
    // What stood at a limit is passed on with a length of its own.
    let own = Limits::default().with_slack();
    let again = read(&passed_on, &own);
    assert!(again.is_some(), "what is passed on is none: {shown:?}");
    let Some((again, rest)) = again else { return };
    assert!(rest.is_empty(), "a second message: {rest:?}");
    assert_eq!(again.head.method, request.head.method, "{shown:?}");
    assert_eq!(again.head.path, request.head.path, "{shown:?}");
    assert_eq!(again.head.authority, request.head.authority, "{shown:?}");
    assert_eq!(again.head.upgrade, request.head.upgrade, "{shown:?}");
    assert_eq!(again.framing, request.framing, "{shown:?}");
    assert_eq!(written(&again), passed_on, "{shown:?}");
}

/// A response is read or refused, and no 101 comes that was not asked for.
pub(crate) fn response(bytes: &[u8]) {
    for upgrade in [None, Some(HeaderValue::from_static("websocket"))] {
        for method in [Method::GET, Method::HEAD, Method::CONNECT] {
            let request = RequestFacts { method, upgrade: upgrade.clone() };
            let mut bytes = BytesMut::from(bytes);
            let read = parse::response(&mut bytes, &mut Search::default(), &request, &Limits::default());
            if let Ok(Some(response)) = read {
                assert!(response.head.status != 101 || request.upgrade.is_some());
            }
        }
    }
}

/// Chunks decode alike, however their bytes are split: at `cut` here.
pub(crate) fn chunks(bytes: &[u8], cut: usize) {
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    assert_eq!(decoded(&[first, second]), decoded(&[bytes]));
}

/// The data of a chunked body, its trailers, and whether it has ended; or that it was refused.
fn decoded(pieces: &[&[u8]]) -> Option<(Vec<u8>, Option<http::HeaderMap>, bool)> {
    let (mut decoder, mut bytes) = (Decoder::new(Framing::Chunked), BytesMut::new());
    let (mut all, mut trailers) = (Vec::new(), None);
    for piece in pieces {
        bytes.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut bytes, &Limits::default()).ok()? {
                Decoded::Data(data) => {
                    assert!(data != Bytes::new(), "an empty frame would be taken for work");
                    all.extend_from_slice(&data);
                }
                Decoded::Trailers(found) => trailers = Some(found),
                Decoded::End | Decoded::More => break,
            }
        }
    }
    Some((all, trailers, decoder.is_ended()))
}

fn read(bytes: &[u8], limits: &Limits) -> Option<(parse::Request, BytesMut)> {
    let mut bytes = BytesMut::from(bytes);
    let read = parse::request(&mut bytes, &mut Search::default(), Scheme::Http, limits);
    Some((read.ok()??, bytes))
}

fn written(request: &parse::Request) -> Vec<u8> {
    let mut out = Outgoing::default();
    write::request(&mut out, &request.head, request.framing.known());
    out.bytes()
}
