//! A query of a client, and the responses that are made here (RFC 1035, EDNS of RFC 6891). No I/O.
//!
//! No bytes make this panic. What is not a query is ignored, so that two answerers never talk to each other.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query as Question, ResponseCode,
};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// The size that every client accepts over UDP (RFC 1035 section 4.2.1).
const MIN_UDP_SIZE: usize = 512;
/// The largest response over UDP that is made here, and the size that responses state: it is not fragmented.
const MAX_UDP_SIZE: u16 = 1232;
/// The largest response over UDP that is accepted of a name server, whatever the client states, so that buffers are small.
const MAX_FORWARDED_SIZE: usize = 4096;
/// The largest number of addresses in a response: with the longest names of the mesh, they fit into a message over TCP.
const MAX_ADDRESSES: usize = 250;
/// The size of a header, in bytes.
pub(super) const HEADER_SIZE: usize = 12;

/// How a query arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A well-formed query with one question.
#[derive(Debug, Clone)]
pub(super) struct Query {
    /// As it arrived.
    pub(super) bytes: Vec<u8>,
    pub(super) question: Question,
    /// The end of the question in `bytes`.
    pub(super) question_end: usize,
    pub(super) transport: Transport,
    header: Metadata,
}

/// Why there is no query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotQuery {
    /// No response is due.
    Ignored,
    /// This response is due.
    Refused(Vec<u8>),
}

impl Query {
    /// Reads a query.
    pub(super) fn read(bytes: &[u8], transport: Transport) -> Result<Self, NotQuery> {
        let mut decoder = BinDecoder::new(bytes);
        let Header { metadata: header, counts } =
            Header::read(&mut decoder).map_err(|_| NotQuery::Ignored)?;
        if header.message_type != MessageType::Query {
            return Err(NotQuery::Ignored);
        }
        let refused = |code| NotQuery::Refused(failure(&header, None, code));
        if header.op_code != OpCode::Query {
            return Err(refused(ResponseCode::NotImp));
        }
        if counts.queries != 1 {
            return Err(refused(ResponseCode::FormErr));
        }
        let question = Question::read(&mut decoder).map_err(|_| refused(ResponseCode::FormErr))?;
        // A transfer has many messages.
        if matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return Err(NotQuery::Refused(failure(&header, Some(&question), ResponseCode::Refused)));
        }
        let question_end = decoder.index();
        Ok(Self { bytes: bytes.to_vec(), question, question_end, transport, header })
    }

    /// Returns true if it is about the Internet.
    pub(super) fn is_internet(&self) -> bool {
        matches!(self.question.query_class(), DNSClass::IN | DNSClass::ANY)
    }

    /// Returns the largest response of a name server that is passed on, in bytes.
    pub(super) fn limit(&self) -> usize {
        let stated = Message::from_vec(&self.bytes).ok().and_then(|message| message.edns);
        match self.transport {
            Transport::Udp => udp_limit(stated.as_ref()).min(MAX_FORWARDED_SIZE),
            Transport::Tcp => usize::from(u16::MAX),
        }
    }

    /// Returns the response for a host of the mesh: its addresses of the requested family, or none for another type of record.
    ///
    /// A response without addresses (NODATA) has no SOA record, so that caches do not keep it (RFC 2308 section 5), and is therefore
    /// not authoritative (section 3).
    pub(super) fn answer(&self, addresses: &[IpAddr], ttl: Duration) -> Vec<u8> {
        let Ok(message) = Message::from_vec(&self.bytes) else { return self.failure(ResponseCode::FormErr) };
        let edns = message.edns;
        if edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return encode(self.response(ResponseCode::BADVERS, edns.as_ref()));
        }
        let wanted = |ip: &&IpAddr| match self.question.query_type() {
            RecordType::A => ip.is_ipv4(),
            RecordType::AAAA => ip.is_ipv6(),
            RecordType::ANY => true,
            _ => false,
        };
        let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        let record = |ip: &IpAddr| Record::from_rdata(self.question.name().clone(), ttl, RData::from(*ip));
        let mut response = self.response(ResponseCode::NoError, edns.as_ref());
        let empty = encode(response.clone()).len();
        response.answers = addresses.iter().filter(wanted).map(record).collect();
        response.metadata.authoritative = !response.answers.is_empty();
        // Clients that take the first address share the load.
        fastrand::shuffle(&mut response.answers);
        response.answers.truncate(MAX_ADDRESSES);
        let limit = match self.transport {
            Transport::Udp => udp_limit(edns.as_ref()).min(usize::from(MAX_UDP_SIZE)),
            Transport::Tcp => usize::from(u16::MAX),
        };
        let full = encode(response.clone());
        if full.len() <= limit {
            return full;
        }
        // A record of an IPv6 address, with the name compressed, has 28 bytes; one of an IPv4 address is smaller.
        const RECORD_SIZE: usize = 28;
        response.answers.truncate(limit.saturating_sub(empty) / RECORD_SIZE);
        response.metadata.truncation = true;
        encode(response)
    }

    /// Returns a response without answers.
    pub(super) fn failure(&self, code: ResponseCode) -> Vec<u8> {
        let edns = Message::from_vec(&self.bytes).ok().and_then(|message| message.edns);
        let mut response = self.response(code, edns.as_ref());
        response.metadata.authoritative = false;
        encode(response)
    }

    /// Returns a response of a name server that the client accepts: with its ID, and truncated if it is too large for it.
    pub(super) fn passed_on(&self, mut response: Vec<u8>) -> Vec<u8> {
        if response.len() > self.limit() {
            let mut truncated = Message::new(self.header.id, MessageType::Response, OpCode::Query);
            if let Ok(Header { metadata, .. }) = Header::read(&mut BinDecoder::new(&response)) {
                truncated.metadata = metadata;
            }
            truncated.metadata.truncation = true;
            truncated.add_query(self.question.clone());
            response = encode(truncated);
        }
        if let Some(id) = response.get_mut(..2) {
            id.copy_from_slice(&self.header.id.to_be_bytes());
        }
        response
    }

    fn response(&self, code: ResponseCode, edns: Option<&Edns>) -> Message {
        let mut response = Message::response(self.header.id, OpCode::Query);
        response.metadata = Metadata::response_from_request(&self.header);
        response.metadata.authoritative = true;
        response.metadata.recursion_available = true;
        response.metadata.response_code = code;
        response.add_query(self.question.clone());
        response.edns = edns.map(|requested| {
            let mut own = Edns::new();
            own.set_max_payload(MAX_UDP_SIZE).set_dnssec_ok(requested.flags().dnssec_ok);
            own.set_rcode_high(code.high());
            own
        });
        response
    }
}

fn udp_limit(edns: Option<&Edns>) -> usize {
    edns.map_or(MIN_UDP_SIZE, |edns| usize::from(edns.max_payload()).max(MIN_UDP_SIZE))
}

fn failure(header: &Metadata, question: Option<&Question>, code: ResponseCode) -> Vec<u8> {
    let mut response = Message::response(header.id, header.op_code);
    response.metadata = Metadata::response_from_request(header);
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.queries.extend(question.cloned());
    encode(response)
}

/// Encodes a response. One that cannot be encoded is empty, and is not sent.
fn encode(response: Message) -> Vec<u8> {
    response.to_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests;
