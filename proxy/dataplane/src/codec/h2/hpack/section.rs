//! A field section as it was decoded: the pseudo-fields by their types, and the other fields in a map.

use std::cell::RefCell;

use http::header::TE;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::super::frame::Priority;
use super::field::{Field, Name, Role, Value};
use crate::codec::head::Scheme;
use crate::codec::limits::FieldSize;
use crate::codec::{hop, maps};

/// Sections whose memory a worker keeps for the next ones.
const KEPT: usize = 64;

thread_local! {
    #[allow(clippy::vec_box, reason = "it is lent as a box")]
    static FREE: RefCell<Vec<Box<Section>>> = const { RefCell::new(Vec::new()) };
}

/// What a field section belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Kind {
    /// The head of a request.
    Request,
    /// The head of a response, interim or final.
    Response,
    /// Trailers of either.
    Trailers,
}

/// A decoded field section. If it is malformed or too large, its fields are incomplete and must not be passed on.
#[derive(Debug)]
pub(in super::super) struct Section {
    /// `:method`. Present in a request that is not malformed.
    pub(in super::super) method: Option<Method>,
    /// `:scheme`; `Some(None)` if it is neither `http` nor `https`.
    pub(in super::super) scheme: Option<Option<Scheme>>,
    /// `:authority` in its normal form (`codec::authority`).
    pub(in super::super) authority: Option<Authority>,
    /// `:path` in its normal form (`codec::path`), or `*`.
    pub(in super::super) path: Option<PathAndQuery>,
    /// `:protocol` of an extended CONNECT (RFC 8441 section 4).
    pub(in super::super) protocol: Option<HeaderValue>,
    /// `:status`. Present in a response that is not malformed.
    pub(in super::super) status: Option<StatusCode>,
    /// `host` of a request, which is not among `fields`.
    pub(in super::super) host: Option<HeaderValue>,
    /// The other fields. `te` is present only as `trailers` and only in requests. Trailers contain none of the fields that must not be
    /// there (RFC 9110 section 6.5.1).
    pub(in super::super) fields: HeaderMap,
    /// The value of `content-length`, which is also among `fields`.
    pub(in super::super) content_length: Option<u64>,
    /// Whether the sender waits for a 100 (RFC 9110 section 10.1.1).
    pub(in super::super) expects_continue: bool,
    /// The value of `priority` (RFC 9218 section 5), which is also among `fields`.
    pub(in super::super) priority: Option<Priority>,
    /// The number of `cookie` fields (RFC 9113 section 8.2.3).
    pub(in super::super) cookies: u32,
    /// The size of the fields with `host`, and with `:authority` counted as `host`; without the other pseudo-fields.
    pub(in super::super) size: FieldSize,
    /// The size of all fields by RFC 9113 section 6.5.2.
    pub(in super::super) list_bytes: usize,
    /// The rule that the section violates, if it is malformed (RFC 9113 section 8.1.1): a stream error PROTOCOL_ERROR.
    pub(in super::super) malformed: Option<&'static str>,
    /// Why this proxy refuses `:path` or `:authority`, which are well-formed. They are absent then.
    pub(in super::super) refused: Option<&'static str>,
    /// Whether it is larger than the limit of the decoder.
    pub(in super::super) too_large: bool,
    kind: Kind,
    limit: usize,
    most_fields: usize,
    /// Whether a regular field was added, behind which no pseudo-field may be.
    has_regular: bool,
}

impl Section {
    /// Returns an empty section, which may have `limit` bytes by RFC 9113 section 6.5.2 and `most_fields` fields as `size` counts them. It
    /// has capacity for `fields` names. Boxed, because it is passed on several times.
    pub(super) fn take(kind: Kind, limit: usize, most_fields: usize, fields: usize) -> Box<Self> {
        let section = Self::new(kind, limit, most_fields, fields);
        match FREE.try_with(|free| free.borrow_mut().pop()).ok().flatten() {
            Some(mut memory) => {
                *memory = section;
                memory
            }
            None => Box::new(section),
        }
    }

    /// Takes back the memory of a section whose content was taken out of it.
    pub(in super::super) fn give(mut self: Box<Self>) {
        maps::give(std::mem::take(&mut self.fields));
        // Fails at the end of the thread, where it is freed.
        let _ = FREE.try_with(|free| {
            let free = &mut *free.borrow_mut();
            if free.len() < KEPT {
                free.push(self);
            }
        });
    }

    fn new(kind: Kind, limit: usize, most_fields: usize, fields: usize) -> Self {
        Self {
            method: None,
            scheme: None,
            authority: None,
            path: None,
            protocol: None,
            status: None,
            host: None,
            fields: maps::take(fields),
            content_length: None,
            expects_continue: false,
            priority: None,
            cookies: 0,
            size: FieldSize::default(),
            list_bytes: 0,
            malformed: None,
            refused: None,
            too_large: false,
            kind,
            limit,
            most_fields,
            has_regular: false,
        }
    }

    /// Adds the next field.
    pub(super) fn add(&mut self, field: Field) {
        if !self.count(&field) {
            return;
        }
        match (field.name, field.value) {
            (Name::Regular(name, role), Value::Text(value)) => {
                self.size.add(field.name_bytes, field.value_bytes);
                self.add_regular(name, role, value);
            }
            (_, value) => self.add_other(value, field.value_bytes),
        }
    }

    /// Adds the next field, which stays in a table.
    pub(super) fn add_shared(&mut self, field: &Field) {
        if !self.count(field) {
            return;
        }
        match (&field.name, &field.value) {
            (Name::Regular(name, role), Value::Text(value)) => {
                self.size.add(field.name_bytes, field.value_bytes);
                self.add_regular(name.clone(), *role, value.clone());
            }
            (_, value) => self.add_other(value.clone(), field.value_bytes),
        }
    }

    /// Counts a field. Returns whether the section is within its limit.
    fn count(&mut self, field: &Field) -> bool {
        self.list_bytes += field.size();
        self.too_large |= self.list_bytes > self.limit;
        !self.too_large
    }

    fn add_regular(&mut self, name: HeaderName, role: Role, value: HeaderValue) {
        self.has_regular = true;
        if self.size.fields > self.most_fields {
            self.too_large = true;
            return;
        }
        if self.kind == Kind::Trailers {
            if hop::is_forbidden_in_trailers(&name) {
                return;
            }
        } else {
            match role {
                Role::Plain => {}
                Role::ContentLength => match content_length(self.content_length, &value) {
                    Ok(length) => self.content_length = Some(length),
                    Err(rule) => return self.violates(rule),
                },
                Role::Host if self.kind == Kind::Request => {
                    if self.host.replace(value).is_some() {
                        self.violates("more than one host");
                    }
                    return;
                }
                Role::Cookie => self.cookies += 1,
                Role::Expect => {
                    self.expects_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue");
                }
                Role::Priority => self.priority = Some(Priority::parse(value.as_bytes())),
                Role::Te if self.kind == Kind::Response => return,
                Role::Te if self.fields.contains_key(TE) => return,
                Role::Te | Role::Host | Role::ConnectionSpecific => {}
            }
        }
        // Fails for more fields than a map can have.
        if self.fields.try_append(name, value).is_err() {
            self.too_large = true;
        }
    }

    /// Adds a pseudo-field, or a field that is malformed or refused. `bytes` is the length of its value.
    fn add_other(&mut self, value: Value, bytes: usize) {
        match value {
            Value::Malformed(rule) => return self.violates(rule),
            Value::Refused(rule) => {
                self.refused.get_or_insert(rule);
                return;
            }
            _ => {}
        }
        if self.has_regular {
            return self.violates("a pseudo-field is behind other fields");
        }
        let is_new = match (self.kind, value) {
            (Kind::Trailers, _) => return self.violates("a pseudo-field is among trailers"),
            (Kind::Response, Value::Status(status)) => self.status.replace(status).is_none(),
            (Kind::Response, _) => return self.violates("a pseudo-field of requests is in a response"),
            (Kind::Request, Value::Method(method)) => self.method.replace(method).is_none(),
            (Kind::Request, Value::Scheme(scheme)) => self.scheme.replace(scheme).is_none(),
            (Kind::Request, Value::Path(path)) => self.path.replace(path).is_none(),
            (Kind::Request, Value::Text(protocol)) => self.protocol.replace(protocol).is_none(),
            (Kind::Request, Value::Authority(authority)) => {
                self.size.add("host".len(), bytes);
                self.authority.replace(authority).is_none()
            }
            (Kind::Request, _) => return self.violates("a pseudo-field of responses is in a request"),
        };
        if !is_new {
            self.violates("a pseudo-field is there twice");
        }
    }

    /// Checks that the pseudo-fields are complete (RFC 9113 sections 8.3 and 8.5, RFC 8441 section 4).
    pub(super) fn finish(&mut self) {
        if self.too_large || self.malformed.is_some() || self.refused.is_some() {
            return;
        }
        let violated = match self.kind {
            Kind::Trailers => None,
            Kind::Response if self.status.is_none() => Some("there is no :status"),
            Kind::Response => None,
            Kind::Request => self.missing(),
        };
        self.malformed = violated;
    }

    fn missing(&self) -> Option<&'static str> {
        let Some(method) = &self.method else { return Some("there is no :method") };
        match (*method == Method::CONNECT, &self.protocol) {
            (true, None) if self.authority.is_none() => Some("CONNECT has no :authority"),
            (true, None) if self.scheme.is_some() || self.path.is_some() => {
                Some("CONNECT has a :scheme or a :path")
            }
            (true, None) => None,
            (false, Some(_)) => Some(":protocol is not of CONNECT"),
            _ if self.scheme.is_none() => Some("there is no :scheme"),
            _ if self.path.is_none() => Some("there is no :path"),
            _ => None,
        }
    }

    /// Keeps the first rule that is violated.
    fn violates(&mut self, rule: &'static str) {
        self.malformed.get_or_insert(rule);
    }
}

/// Parses `content-length`: digits alone, once (RFC 9110 section 8.6).
fn content_length(before: Option<u64>, value: &HeaderValue) -> Result<u64, &'static str> {
    if before.is_some() {
        return Err("more than one content-length");
    }
    let digits = value.as_bytes();
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return Err("content-length is no number");
    }
    // At most 19 digits: fits.
    Ok(digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}
