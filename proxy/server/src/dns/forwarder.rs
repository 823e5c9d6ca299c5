//! Forwards a query to the machine's name servers, byte for byte except for its ID, and returns the first valid response.
//!
//! Each query has a socket of its own, connected to the name server, so that the kernel drops packets from elsewhere, and a
//! random ID and source port (RFC 5452). Responses to another ID or question are ignored.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Header, Message, MessageType, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::name_servers::NameServers;
use super::query::{HEADER_SIZE, Query, Transport};

/// How long one name server may take. A client repeats its query after 5 seconds (resolv.conf(5)), when two have been asked.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// The minimum number of attempts: a packet may be lost.
const MIN_ATTEMPTS: usize = 2;

/// Forwards queries.
#[derive(Debug)]
pub(crate) struct Forwarder {
    servers: NameServers,
}

impl Forwarder {
    /// Creates a forwarder to these name servers.
    pub(crate) fn new(servers: NameServers) -> Self {
        Self { servers }
    }

    /// Returns the response of a name server, which may be an error that all of them return. Returns None if none responds.
    pub(super) async fn forward(&self, query: &Query) -> Option<Vec<u8>> {
        let servers = self.servers.get();
        let mut failed = None;
        for server in servers.iter().cycle().take(servers.len().max(MIN_ATTEMPTS)) {
            match timeout(SERVER_TIMEOUT, exchange(*server, query)).await {
                // Another server may know more.
                Ok(Ok((ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp, response))) => {
                    failed = Some(response);
                }
                Ok(Ok((_, response))) => return Some(query.passed_on(response)),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server cannot be reached"),
                Err(_) => tracing::debug!(%server, "a name server does not respond"),
            }
        }
        failed.map(|response| query.passed_on(response))
    }
}

/// Sends the query to a name server over the client's transport, and returns its response.
async fn exchange(server: SocketAddr, query: &Query) -> io::Result<(ResponseCode, Vec<u8>)> {
    let mut sent = query.bytes.clone();
    // The library's generator is cryptographically secure.
    let id = Message::query().metadata.id;
    if let Some(bytes) = sent.get_mut(..2) {
        bytes.copy_from_slice(&id.to_be_bytes());
    }
    match query.transport {
        Transport::Udp => over_udp(server, query, &sent).await,
        Transport::Tcp => over_tcp(server, query, &sent).await,
    }
}

async fn over_udp(server: SocketAddr, query: &Query, sent: &[u8]) -> io::Result<(ResponseCode, Vec<u8>)> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(sent).await?;
    // One byte more than the client accepts shows that a response is larger.
    let mut buffer = vec![0; query.limit() + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let response = buffer.get(..length).unwrap_or_default();
        if let Some(code) = responds(response, query, sent) {
            return Ok((code, response.to_vec()));
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &Query, sent: &[u8]) -> io::Result<(ResponseCode, Vec<u8>)> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(sent.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], sent].concat()).await?;
    loop {
        let mut response = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut response).await?;
        if let Some(code) = responds(&response, query, sent) {
            return Ok((code, response));
        }
    }
}

/// Returns the code of a response if it responds to the query: it has its ID, and its question, which an error may lack.
fn responds(response: &[u8], query: &Query, sent: &[u8]) -> Option<ResponseCode> {
    let Header { metadata, counts } = Header::read(&mut BinDecoder::new(response)).ok()?;
    let same_id = response.get(..2)? == sent.get(..2)?;
    let question = sent.get(HEADER_SIZE..query.question_end)?;
    let same_question = match counts.queries {
        0 => {
            metadata.response_code != ResponseCode::NoError
                && metadata.response_code != ResponseCode::NXDomain
        }
        1 => is_same_question(response.get(HEADER_SIZE..query.question_end)?, question),
        _ => false,
    };
    let valid = metadata.message_type == MessageType::Response && same_id && same_question;
    valid.then_some(metadata.response_code)
}

/// Compares two encoded questions: the names without case (RFC 4343), type and class as they are.
fn is_same_question(one: &[u8], other: &[u8]) -> bool {
    let split = |bytes: &[u8]| bytes.len().checked_sub(4);
    match (split(one), split(other)) {
        (Some(at), Some(same)) if at == same => {
            one.get(..at).zip(other.get(..at)).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
                && one.get(at..) == other.get(at..)
        }
        _ => false,
    }
}
