//! Fields that a proxy adds to a request on its way: `x-forwarded-for`, `x-forwarded-proto`, `x-request-id`.
//!
//! `Via` is not added: no other sidecar does, and loops are cut by timeouts; this is the one field that RFC 9110 section
//! 7.6.3 asks a proxy for and that meshes leave out.

use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::client::ClientFacts;
use crate::codec::field_value;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The sender of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender {
    /// Its address.
    pub(super) address: SocketAddr,
    /// Whether it is in the same network namespace.
    pub(super) local: bool,
    /// Whether its identity is verified.
    pub(super) authenticated: bool,
    /// Whether it used TLS.
    pub(super) encrypted: bool,
}

impl From<&ClientFacts> for Sender {
    fn from(client: &ClientFacts) -> Self {
        Self {
            address: client.address,
            local: client.local,
            authenticated: client.peer.is_some(),
            encrypted: client.tls.is_some(),
        }
    }
}

/// Adds the fields.
pub(super) fn add(headers: &mut HeaderMap, sender: Sender) {
    // Our own application is not a client: the sidecar at the other end adds its address. A loopback address has no meaning
    // there, and would stand where a server looks for the address of the first client.
    if sender.authenticated || !sender.local {
        append_address(headers, sender.address);
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static(
        if sender.encrypted && !sender.authenticated {
            "https"
        } else {
            // Between sidecars TLS is the mesh's own; the application spoke http.
            "http"
        },
    ));
    if !headers.contains_key(REQUEST_ID)
        && let Some(id) =
            field_value::copied(random_uuid().encode_lower(&mut Uuid::encode_buffer()).as_bytes())
    {
        headers.insert(REQUEST_ID, id);
    }
}

/// One field with one list, also when it came as several (RFC 9110 section 5.3).
fn append_address(headers: &mut HeaderMap, address: SocketAddr) {
    use std::io::Write;
    let mut list = BytesMut::new();
    for value in headers.get_all(FORWARDED_FOR) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    // Writing to memory does not fail.
    let _ = write!((&mut list).writer(), "{}", address.ip());
    if let Ok(value) = HeaderValue::from_maybe_shared(list.freeze()) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// Returns a version 4 UUID. The generator is not a secure one: the identifier is no secret.
fn random_uuid() -> Hyphenated {
    uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid().hyphenated()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(address: &str, authenticated: bool) -> Sender {
        let address: SocketAddr = address.parse().unwrap();
        Sender { address, local: address.ip().is_loopback(), authenticated, encrypted: authenticated }
    }

    #[test]
    fn the_client_is_appended_to_those_before_it() {
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED_FOR, HeaderValue::from_static("1.1.1.1"));
        headers.append(FORWARDED_FOR, HeaderValue::from_static("2.2.2.2"));
        add(&mut headers, sender("[fd00::1]:99", true));
        assert_eq!(headers[FORWARDED_FOR], "1.1.1.1, 2.2.2.2, fd00::1");
        assert_eq!(headers[FORWARDED_PROTO], "http");
    }

    #[test]
    fn a_request_without_an_identifier_gets_a_random_uuid() {
        let mut headers = HeaderMap::new();
        add(&mut headers, sender("127.0.0.1:99", false));
        let id = Uuid::try_parse(headers[REQUEST_ID].to_str().unwrap()).unwrap();
        assert_eq!(id.get_version_num(), 4);
        add(&mut headers, sender("127.0.0.1:99", false));
        assert_eq!(headers[REQUEST_ID], *id.hyphenated().to_string(), "one that is there stays");
    }

    #[test]
    fn our_own_application_is_not_a_client_address() {
        let mut headers = HeaderMap::new();
        add(&mut headers, sender("127.0.0.1:99", false));
        assert!(!headers.contains_key(FORWARDED_FOR));
        add(&mut headers, sender("127.0.0.1:99", true));
        assert_eq!(headers[FORWARDED_FOR], "127.0.0.1");
        let mut in_pod = HeaderMap::new();
        add(&mut in_pod, Sender { local: true, ..sender("10.1.0.7:99", false) });
        assert!(!in_pod.contains_key(FORWARDED_FOR));
    }

    #[test]
    fn a_request_id_is_kept_or_made() {
        let mut headers = HeaderMap::new();
        add(&mut headers, sender("10.0.0.1:1", false));
        let id = headers[REQUEST_ID].to_str().unwrap().to_owned();
        assert_eq!((id.len(), &id[14..15], &id[8..9]), (36, "4", "-"));
        assert!("89ab".contains(&id[19..20]));
        add(&mut headers, sender("10.0.0.1:1", false));
        assert_eq!(headers[REQUEST_ID], id.as_str());
    }
}
