//! Encodes field sections (RFC 7541 section 3).
//!
//! A field that the table holds is one byte, found by one hash. What enters the table: a value at its second sight, so that values that
//! occur once do not evict others; and a field whose name is in neither table, since its name is then cheap for both sides.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{ENTRY_OVERHEAD, TABLE_BYTES, integer, statics};

/// The number of recent values that are remembered to recognize the second sight. A power of two.
const SEEN: usize = 64;
/// The largest field that enters the table: one quarter of it.
const LARGEST: usize = TABLE_BYTES / 4;
/// Cookies below this length could be guessed by their effect on the table (RFC 7541 section 7.1.3).
const SHORT_COOKIE: usize = 20;

/// The pseudo-fields of a section (RFC 9113 section 8.3).
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Pseudo<'a> {
    /// A request. `scheme` and `path` are absent for CONNECT without a protocol.
    Request {
        method: &'a Method,
        scheme: Option<&'a str>,
        authority: Option<&'a str>,
        path: Option<&'a str>,
        protocol: Option<&'a str>,
    },
    /// A response.
    Response(StatusCode),
    /// Trailers, which have none.
    None,
}

/// Encodes the field sections of one connection. What it returns must be sent in the order of the calls.
#[derive(Debug)]
pub(in super::super) struct Encoder {
    /// The newest entry first.
    entries: VecDeque<Entry>,
    /// The hashes of the entries, of name and value and of the name alone, in the same order.
    fields: VecDeque<u32>,
    names: VecDeque<u32>,
    bytes: usize,
    limit: usize,
    /// Set when the peer has changed the limit, until it is acknowledged: the lowest limit since the last block.
    lowest: Option<usize>,
    /// Hashes of values that were not in the table.
    seen: [u32; SEEN],
}

#[derive(Debug)]
struct Entry {
    /// The name and the value.
    text: Box<[u8]>,
    name_bytes: usize,
}

/// How a literal is represented (RFC 7541 section 6.2): its first bits, and how many further bits are the index of its name.
#[derive(Clone, Copy)]
enum Literal {
    Indexed,
    NotIndexed,
    NeverIndexed,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            fields: VecDeque::new(),
            names: VecDeque::new(),
            bytes: 0,
            limit: TABLE_BYTES,
            lowest: None,
            seen: [0; SEEN],
        }
    }
}

impl Encoder {
    /// Applies the peer's SETTINGS_HEADER_TABLE_SIZE. The table has at most [`TABLE_BYTES`] whatever the peer allows.
    pub(in super::super) fn set_table_size(&mut self, bytes: u32) {
        let limit = TABLE_BYTES.min(bytes as usize);
        if limit == self.limit {
            return;
        }
        self.lowest = Some(self.lowest.unwrap_or(self.limit).min(limit));
        self.limit = limit;
        self.evict(limit);
    }

    /// Appends the field block of a section to `out`. Sensitive values (`HeaderValue::is_sensitive`) are never indexed. Fields that HTTP/2
    /// does not have are not written: those specific to a connection (RFC 9113 section 8.2.2), and `host`, which is `:authority`.
    pub(in super::super) fn encode(&mut self, pseudo: Pseudo<'_>, fields: &HeaderMap, out: &mut Vec<u8>) {
        self.size_update(out);
        match pseudo {
            Pseudo::Request { method, scheme, authority, path, protocol } => {
                match *method {
                    Method::GET => out.push(0x82),
                    Method::POST => out.push(0x83),
                    _ => self.field(":method", method.as_str().as_bytes(), Some(2), out),
                }
                match scheme {
                    Some("http") => out.push(0x86),
                    Some("https") => out.push(0x87),
                    Some(scheme) => self.field(":scheme", scheme.as_bytes(), Some(6), out),
                    None => {}
                }
                match path {
                    Some("/") => out.push(0x84),
                    Some(path) => self.field(":path", path.as_bytes(), Some(4), out),
                    None => {}
                }
                if let Some(authority) = authority {
                    self.field(":authority", authority.as_bytes(), Some(1), out);
                }
                if let Some(protocol) = protocol {
                    self.field(":protocol", protocol.as_bytes(), None, out);
                }
            }
            Pseudo::Response(status) => match status.as_u16() {
                200 => out.push(0x88),
                204 => out.push(0x89),
                206 => out.push(0x8a),
                304 => out.push(0x8b),
                400 => out.push(0x8c),
                404 => out.push(0x8d),
                500 => out.push(0x8e),
                _ => self.field(":status", status.as_str().as_bytes(), Some(8), out),
            },
            Pseudo::None => {}
        }
        for (name, value) in fields {
            let text = name.as_str();
            if is_sensitive(name, value) {
                if !is_of_another_version(text) {
                    let index = statics::index(text).or_else(|| self.find_name(text));
                    literal(Literal::NeverIndexed, index, text, value.as_bytes(), out);
                }
                continue;
            }
            let hashes = Hashes::of(text, value.as_bytes());
            match self.find(hashes, text, value.as_bytes()) {
                Some(index) => integer::encode(index, 7, 0x80, out),
                // Those are never in the table, so that it is enough to look for them here.
                None if is_of_another_version(text) => {}
                None => self.add(hashes, text, value.as_bytes(), statics::index(text), out),
            }
        }
    }

    /// Appends a pseudo-field whose name is in the static table at `static_name`.
    fn field(&mut self, name: &str, value: &[u8], static_name: Option<usize>, out: &mut Vec<u8>) {
        let hashes = Hashes::of(name, value);
        match self.find(hashes, name, value) {
            Some(index) => integer::encode(index, 7, 0x80, out),
            None => self.add(hashes, name, value, static_name, out),
        }
    }

    /// Appends a field that is not in the table, and adds it there if that is worth it.
    fn add(
        &mut self,
        hashes: Hashes,
        name: &str,
        value: &[u8],
        static_name: Option<usize>,
        out: &mut Vec<u8>,
    ) {
        let index = static_name.or_else(|| self.name_at(hashes.name, name));
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        let place = &mut self.seen[hashes.field as usize % SEEN];
        let is_known = std::mem::replace(place, hashes.field) == hashes.field;
        if size > LARGEST.min(self.limit) || !(is_known || index.is_none()) {
            return literal(Literal::NotIndexed, index, name, value, out);
        }
        literal(Literal::Indexed, index, name, value, out);
        self.evict(self.limit - size);
        self.bytes += size;
        self.entries.push_front(Entry {
            text: [name.as_bytes(), value].concat().into_boxed_slice(),
            name_bytes: name.len(),
        });
        self.fields.push_front(hashes.field);
        self.names.push_front(hashes.name);
    }

    /// Returns the index of a field in the dynamic table.
    fn find(&self, hashes: Hashes, name: &str, value: &[u8]) -> Option<usize> {
        let is_it = |entry: &Entry| {
            let (of_entry, rest) = entry.text.split_at(entry.name_bytes);
            rest == value && of_entry == name.as_bytes()
        };
        self.search(&self.fields, hashes.field, is_it)
    }

    fn find_name(&self, name: &str) -> Option<usize> {
        self.name_at(Hashes::of(name, &[]).name, name)
    }

    /// Returns the index of a field with that name in the dynamic table.
    fn name_at(&self, hash: u32, name: &str) -> Option<usize> {
        self.search(&self.names, hash, |entry| &entry.text[..entry.name_bytes] == name.as_bytes())
    }

    fn search(&self, hashes: &VecDeque<u32>, hash: u32, is_it: impl Fn(&Entry) -> bool) -> Option<usize> {
        let (first, second) = hashes.as_slices();
        for (slice, before) in [(first, 0), (second, first.len())] {
            for (at, _) in slice.iter().enumerate().filter(|(_, one)| **one == hash) {
                if self.entries.get(before + at).is_some_and(&is_it) {
                    return Some(statics::LAST + 1 + before + at);
                }
            }
        }
        None
    }

    /// Acknowledges changes of the limit at the start of a block (RFC 7541 section 4.2).
    fn size_update(&mut self, out: &mut Vec<u8>) {
        let Some(lowest) = self.lowest.take() else { return };
        if lowest < self.limit {
            integer::encode(lowest, 5, 0x20, out);
        }
        integer::encode(self.limit, 5, 0x20, out);
    }

    #[cfg(test)]
    pub(super) fn table_bytes(&self) -> usize {
        self.bytes
    }

    fn evict(&mut self, most: usize) {
        while self.bytes > most
            && let Some(entry) = self.entries.pop_back()
        {
            self.bytes -= entry.text.len() + ENTRY_OVERHEAD;
            self.fields.pop_back();
            self.names.pop_back();
        }
    }
}

/// The hashes of a field. They need not withstand chosen values: a collision only costs a comparison.
#[derive(Clone, Copy)]
struct Hashes {
    field: u32,
    name: u32,
}

impl Hashes {
    fn of(name: &str, value: &[u8]) -> Self {
        let mut hasher = FixedState::default().build_hasher();
        hasher.write(name.as_bytes());
        let name = hasher.finish();
        hasher.write(value);
        let field = hasher.finish();
        // The upper halves are as good as the lower ones.
        Self { field: (field >> 32) as u32, name: (name >> 32) as u32 }
    }
}

/// Returns whether a value must not enter a table (RFC 7541 section 7.1.3).
fn is_sensitive(name: &HeaderName, value: &HeaderValue) -> bool {
    value.is_sensitive()
        || *name == header::AUTHORIZATION
        || *name == header::PROXY_AUTHORIZATION
        || *name == header::SET_COOKIE
        || (*name == header::COOKIE && value.len() < SHORT_COOKIE)
}

/// Returns whether HTTP/2 does not have a field of that name.
fn is_of_another_version(name: &str) -> bool {
    matches!(
        name,
        "connection" | "host" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
    )
}

/// Appends a literal whose name is in a table at `index`, or is written.
fn literal(form: Literal, index: Option<usize>, name: &str, value: &[u8], out: &mut Vec<u8>) {
    let (prefix, first) = match form {
        Literal::Indexed => (6, 0x40),
        Literal::NotIndexed => (4, 0),
        Literal::NeverIndexed => (4, 0x10),
    };
    match index {
        Some(index) => integer::encode(index, prefix, first, out),
        None => {
            out.push(first);
            string(name.as_bytes(), out);
        }
    }
    string(value, out);
}

/// Appends a string, without Huffman's code.
fn string(text: &[u8], out: &mut Vec<u8>) {
    integer::encode(text.len(), 7, 0, out);
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests;
