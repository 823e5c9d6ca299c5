//! Authentication by API keys (`envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth`).
//!
//! Only the SHA-256 of each key is kept, and the hash of what a request sends is compared with every one of them in constant time. So the time
//! of an answer says nothing of the keys, and grows with their number. The request's own value of the field with the client's name is
//! replaced. A control plane that keeps hashes itself sends `sha256:` and 64 digits in place of a key, which Envoy does not know.

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::header::{COOKIE, WWW_AUTHENTICATE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use outrigger_core::reason::Reason;
use outrigger_proto::xds::api_key_auth;

use crate::credential::{Place, Prefix, without_cookies, without_parameter};
use crate::field::{Unusable, each, non_empty};
use crate::header_match::Head;
use crate::header_mutation::mutable_name;
use crate::verdict::{FilterRequest, RequestChanges, ResponseChanges, Verdict};

/// The configuration of the filter, in a listener or a route. What a route leaves out is that of the listener.
#[derive(Debug, Clone)]
pub struct ApiKeys {
    credentials: Box<[Credential]>,
    places: Box<[Place]>,
    /// The clients that a route allows; empty allows each.
    allowed: BTreeSet<Box<str>>,
    forwarding: Option<Forwarding>,
}

#[derive(Clone)]
struct Credential {
    /// The SHA-256 of the key.
    hash: [u8; 32],
    client: Box<str>,
    /// The client, as a field has it.
    value: HeaderValue,
}

#[derive(Debug, Clone)]
struct Forwarding {
    /// The field that gets the client.
    field: Option<HeaderName>,
    /// The key is removed from the request.
    hides: bool,
}

impl ApiKeys {
    /// Decodes the filter of a listener.
    pub fn decode(wire: api_key_auth::ApiKeyAuth) -> Result<Self, Unusable> {
        let api_key_auth::ApiKeyAuth { credentials, key_sources, forwarding } = wire;
        Self::of(credentials, key_sources, Vec::new(), forwarding)
    }

    /// Decodes a filter's configuration for a route.
    pub fn decode_for_route(wire: api_key_auth::ApiKeyAuthPerRoute) -> Result<Self, Unusable> {
        let api_key_auth::ApiKeyAuthPerRoute { credentials, key_sources, allowed_clients, forwarding } = wire;
        Self::of(credentials, key_sources, allowed_clients, forwarding)
    }

    fn of(
        credentials: Vec<api_key_auth::Credential>,
        key_sources: Vec<api_key_auth::KeySource>,
        allowed: Vec<String>,
        forwarding: Option<api_key_auth::Forwarding>,
    ) -> Result<Self, Unusable> {
        let mut known = BTreeSet::new();
        let credentials = each("credentials", credentials, |wire| {
            let credential = Credential::decode(wire)?;
            if known.insert(credential.hash) {
                Ok(credential)
            } else {
                Err(Unusable::new("key", "is that of another credential"))
            }
        })?;
        Ok(Self {
            credentials: credentials.into(),
            places: each("key_sources", key_sources, place)?.into(),
            allowed: allowed.into_iter().map(Into::into).collect(),
            forwarding: forwarding.map(Forwarding::decode).transpose()?,
        })
    }

    /// Decides about a request. Adds `WWW-Authenticate` to the response of a request without a valid key.
    pub fn decide(
        &self,
        listener: &Self,
        request: &FilterRequest<'_>,
        response: &mut ResponseChanges,
    ) -> Verdict {
        let places = if self.places.is_empty() { &listener.places } else { &self.places };
        let credentials = if self.credentials.is_empty() { &listener.credentials } else { &self.credentials };
        let Some(credential) = first(places, &request.head).and_then(|key| client(credentials, &key)) else {
            let challenge = HeaderValue::from_static("ApiKey");
            response.set(HeaderMap::from_iter([(WWW_AUTHENTICATE, challenge)]));
            return Verdict::refuse(Reason::Unauthenticated, StatusCode::UNAUTHORIZED);
        };
        if !self.allowed.is_empty() && !self.allowed.contains(&credential.client) {
            return Verdict::refuse(Reason::Unauthenticated, StatusCode::FORBIDDEN);
        }
        let Some(forwarding) = self.forwarding.as_ref().or(listener.forwarding.as_ref()) else {
            return Verdict::Admit;
        };
        let mut changes = RequestChanges::default();
        if forwarding.hides {
            hide(places, &request.head, &mut changes);
        }
        if let Some(field) = &forwarding.field {
            changes.fields.set(field.clone(), credential.value.clone());
        }
        Verdict::AdmitChanged(Box::new(changes))
    }
}

/// Returns the key at the first place that has one: its first value, as in Envoy.
fn first(places: &[Place], head: &Head<'_>) -> Option<String> {
    let mut found = Vec::new();
    places.iter().for_each(|place| place.find(head, &mut found));
    found.into_iter().map(|key| key.into_owned()).find(|key| !key.is_empty())
}

/// Returns the credential with this key. Each is compared, also after one was found.
fn client<'a>(credentials: &'a [Credential], key: &str) -> Option<&'a Credential> {
    let hash = digest(&SHA256, key.as_bytes());
    credentials.iter().fold(None, |found, credential| {
        let same = verify_slices_are_equal(&credential.hash, hash.as_ref()).is_ok();
        if same { Some(credential) } else { found }
    })
}

fn hide(places: &[Place], head: &Head<'_>, changes: &mut RequestChanges) {
    let mut cookies = Vec::new();
    for place in places {
        match place {
            Place::Header(name, _) => changes.fields.remove(name.clone()),
            Place::Query(name) => {
                let path = changes.path.as_ref().map_or(head.path, PathAndQuery::as_str);
                // What is left of a valid query is valid.
                if let Ok(path) = PathAndQuery::try_from(without_parameter(path, name)) {
                    changes.path = Some(path);
                }
            }
            Place::Cookie(name) => cookies.push(&**name),
        }
    }
    if !cookies.is_empty() && head.headers.contains_key(COOKIE) {
        changes.fields.remove(COOKIE);
        for line in without_cookies(head, &cookies) {
            changes.fields.append(COOKIE, line);
        }
    }
}

impl Credential {
    fn decode(wire: api_key_auth::Credential) -> Result<Self, Unusable> {
        let api_key_auth::Credential { key, client } = wire;
        let key = non_empty("key", key)?;
        let hash = match key.strip_prefix("sha256:") {
            Some(digits) => hash(digits).ok_or_else(|| {
                Unusable::new("key", "is no hash: sha256: comes before 64 hexadecimal digits in lower case")
            })?,
            None => hash_of(&key),
        };
        let client = non_empty("client", client)?;
        let value = HeaderValue::try_from(&client)
            .map_err(|_| Unusable::new("client", "holds a character that no header may have"))?;
        Ok(Self { hash, client: client.into(), value })
    }
}

fn hash_of(key: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    hash
}

/// Reads a hash of 64 hexadecimal digits in lower case.
fn hash(digits: &str) -> Option<[u8; 32]> {
    let legal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if digits.len() != 64 || !digits.bytes().all(legal) {
        return None;
    }
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to see that a key changed, too little to find the key.
        let [first, second, ..] = self.hash;
        write!(f, "{} ({first:02x}{second:02x})", self.client)
    }
}

impl Forwarding {
    fn decode(wire: api_key_auth::Forwarding) -> Result<Self, Unusable> {
        let api_key_auth::Forwarding { header, hide_credentials } = wire;
        let field = Some(header).filter(|name| !name.is_empty());
        let field = field.map(|name| mutable_name("forwarding.header", &name)).transpose()?;
        Ok(Self { field, hides: hide_credentials })
    }
}

/// A header before a query parameter before a cookie, if a source names several.
fn place(wire: api_key_auth::KeySource) -> Result<Place, Unusable> {
    let api_key_auth::KeySource { header, query, cookie } = wire;
    if !header.is_empty() {
        return Ok(Place::Header(mutable_name("header", &header)?, Prefix::MaybeBearer));
    }
    if !query.is_empty() {
        return Ok(Place::Query(query.into()));
    }
    Ok(Place::Cookie(non_empty("header", cookie)?.into()))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn credential(key: &str, client: &str) -> api_key_auth::Credential {
        api_key_auth::Credential { key: key.into(), client: client.into() }
    }

    fn sources() -> Vec<api_key_auth::KeySource> {
        let of = |header: &str, query: &str, cookie: &str| api_key_auth::KeySource {
            header: header.into(),
            query: query.into(),
            cookie: cookie.into(),
        };
        vec![of("x-key", "", ""), of("", "key", ""), of("", "", "key"), of("authorization", "", "")]
    }

    fn filter(forwarding: Option<api_key_auth::Forwarding>) -> ApiKeys {
        let credentials = vec![credential("k1", "ann"), credential("k2", "bob")];
        ApiKeys::decode(api_key_auth::ApiKeyAuth { credentials, key_sources: sources(), forwarding }).unwrap()
    }

    fn forwarding(hide_credentials: bool) -> Option<api_key_auth::Forwarding> {
        Some(api_key_auth::Forwarding { header: "x-client".into(), hide_credentials })
    }

    fn fields(of: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        of.iter().map(field).collect()
    }

    /// The status of a refused request, or path and fields of an admitted one.
    fn run(
        of: &ApiKeys,
        listener: &ApiKeys,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(String, HeaderMap), u16> {
        let head = Head { method: &Method::GET, scheme: "http", authority: "a", path, headers };
        let mut response = ResponseChanges::default();
        let changes = match of.decide(listener, &FilterRequest::of(head), &mut response) {
            Verdict::Admit => RequestChanges::default(),
            Verdict::AdmitChanged(changes) => *changes,
            Verdict::Refuse(refusal) => {
                assert_eq!(refusal.reason, Reason::Unauthenticated);
                return Err(refusal.status.as_u16());
            }
            other => panic!("{other:?}"),
        };
        let mut headers = headers.clone();
        changes.fields.apply(&mut headers);
        Ok((changes.path.map_or(path.to_owned(), |path| path.to_string()), headers))
    }

    #[test]
    fn a_key_is_found_at_each_place_and_hidden_where_that_is_configured() {
        let (shows, hides) = (filter(forwarding(false)), filter(forwarding(true)));
        for (path, given, rest) in [
            ("/a", fields(&[("x-key", "k1")]), ("/a", fields(&[]))),
            ("/a?b&key=k1", fields(&[]), ("/a?b", fields(&[]))),
            ("/a", fields(&[("cookie", "b=2; key=k1")]), ("/a", fields(&[("cookie", "b=2")]))),
            ("/a", fields(&[("authorization", "Bearer k1")]), ("/a", fields(&[]))),
            // The other places are cleared too.
            ("/a?key=x", fields(&[("x-key", "k1"), ("cookie", "key=y")]), ("/a", fields(&[]))),
            ("/a", fields(&[("x-key", "k1"), ("x-client", "root")]), ("/a", fields(&[]))),
        ] {
            let client = HeaderValue::from_static("ann");
            let (shown, all) = run(&shows, &shows, path, &given).unwrap();
            let mut expected = given.clone();
            expected.insert("x-client", client.clone());
            assert_eq!((shown.as_str(), all), (path, expected));
            let (shown, all) = run(&hides, &hides, path, &given).unwrap();
            let mut expected = rest.1;
            expected.insert("x-client", client);
            assert_eq!((shown.as_str(), all), (rest.0, expected));
        }
    }

    #[test]
    fn a_request_without_a_valid_key_is_refused() {
        let filter = filter(None);
        for given in
            [fields(&[]), fields(&[("x-key", "k3")]), fields(&[("x-key", "")]), fields(&[("x-key", "K1")])]
        {
            assert_eq!(run(&filter, &filter, "/", &given).unwrap_err(), 401);
        }
        // The first key counts.
        let two = fields(&[("x-key", "k3"), ("cookie", "key=k1")]);
        assert_eq!(run(&filter, &filter, "/?key=k1", &two).unwrap_err(), 401);
        let unconfigured = ApiKeys::decode(api_key_auth::ApiKeyAuth::default()).unwrap();
        let key = fields(&[("x-key", "k1")]);
        assert_eq!(run(&unconfigured, &unconfigured, "/", &key).unwrap_err(), 401);
    }

    #[test]
    fn a_hash_stands_for_its_key_and_is_none_itself() {
        let digits: String = hash_of("k1").iter().map(|byte| format!("{byte:02x}")).collect();
        let of = |key: &str| {
            let credentials = vec![credential(key, "ann")];
            ApiKeys::decode(api_key_auth::ApiKeyAuth {
                credentials,
                key_sources: sources(),
                forwarding: None,
            })
        };
        let filter = of(&format!("sha256:{digits}")).unwrap();
        assert!(run(&filter, &filter, "/", &fields(&[("x-key", "k1")])).is_ok());
        let mut headers = HeaderMap::new();
        headers.insert("x-key", HeaderValue::try_from(format!("sha256:{digits}")).unwrap());
        assert_eq!(run(&filter, &filter, "/", &headers).unwrap_err(), 401);
        for bad in [
            "sha256:",
            "sha256:k1",
            &format!("sha256:{}", digits.to_uppercase()),
            &format!("sha256:{}", &digits[1..]),
        ] {
            assert_eq!(of(bad).unwrap_err().field, "credentials[0].key", "{bad}");
        }
    }

    #[test]
    fn a_route_replaces_what_it_configures_and_limits_clients() {
        let listener = filter(None);
        let of_route = |wire| ApiKeys::decode_for_route(wire).unwrap();
        let only_bob = of_route(api_key_auth::ApiKeyAuthPerRoute {
            allowed_clients: vec!["bob".into()],
            forwarding: forwarding(true),
            ..Default::default()
        });
        let (ann, bob) = (fields(&[("x-key", "k1")]), fields(&[("x-key", "k2")]));
        assert_eq!(run(&only_bob, &listener, "/", &ann).unwrap_err(), 403);
        assert_eq!(run(&only_bob, &listener, "/", &bob).unwrap().1, fields(&[("x-client", "bob")]));
        let own = of_route(api_key_auth::ApiKeyAuthPerRoute {
            credentials: vec![credential("k9", "eve")],
            ..Default::default()
        });
        assert_eq!(run(&own, &listener, "/", &ann).unwrap_err(), 401);
        assert!(run(&own, &listener, "/", &fields(&[("x-key", "k9")])).is_ok());
    }

    #[test]
    fn a_configuration_that_cannot_be_enforced_is_refused_by_field() {
        let decode = |credentials, key_sources, header: &str| {
            let forwarding = Some(api_key_auth::Forwarding { header: header.into(), ..Default::default() });
            ApiKeys::decode(api_key_auth::ApiKeyAuth { credentials, key_sources, forwarding })
                .unwrap_err()
                .field
        };
        let twice = vec![credential("k", "a"), credential("k", "b")];
        assert_eq!(decode(twice, vec![], ""), "credentials[1].key");
        assert_eq!(decode(vec![credential("", "a")], vec![], ""), "credentials[0].key");
        assert_eq!(decode(vec![credential("k", "")], vec![], ""), "credentials[0].client");
        assert_eq!(decode(vec![credential("k", "a\n")], vec![], ""), "credentials[0].client");
        assert_eq!(decode(vec![], vec![Default::default()], ""), "key_sources[0].header");
        assert_eq!(decode(vec![], vec![], ":path"), "forwarding.header");
    }

    #[test]
    fn no_key_is_shown() {
        let shown = format!("{:?}", filter(None));
        assert!(shown.contains("ann") && !shown.contains("k1"), "{shown}");
    }
}
