//! Forwards a query to the machine's name servers, byte for byte except for its ID, and returns the first valid response.
//!
//! Each query has a socket of its own, connected to the name server, so that the kernel drops packets from elsewhere, and a
//! random ID and source port (RFC 5452). Responses to another ID or question are ignored.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::{Header, Message, MessageType, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::name_servers::{NameServers, ResolvConf};
use super::query::{HEADER_SIZE, Query, Transport};

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

    /// Returns the response of a name server, or else an error: that of one of them, or SERVFAIL if none responds in time.
    ///
    /// The next name server is asked when one takes too long or fails. A late response counts as long as others are waited for.
    pub(super) async fn forward(&self, query: &Query) -> Result<Vec<u8>, Vec<u8>> {
        let ResolvConf { servers, timeout: limit } = self.servers.get();
        let (mut asked, mut failure) = (JoinSet::new(), None);
        for server in servers.iter().cycle().take(servers.len().max(MIN_ATTEMPTS)) {
            asked.spawn(exchange(*server, query.clone()));
            match timeout(limit, first(&mut asked, &mut failure)).await {
                Ok(Some(response)) => return Ok(query.passed_on(response)),
                Ok(None) => {}
                Err(_) => tracing::debug!(%server, "a name server does not respond"),
            }
        }
        Err(failure
            .map_or_else(|| query.failure(ResponseCode::ServFail), |response| query.passed_on(response)))
    }
}

type Response = (ResponseCode, Vec<u8>);

/// Waits for the first response that is no failure of the name server. Returns None if all have failed.
async fn first(asked: &mut JoinSet<Option<Response>>, failure: &mut Option<Vec<u8>>) -> Option<Vec<u8>> {
    while let Some(response) = asked.join_next().await {
        match response {
            // Another server may know more.
            Ok(Some((ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp, response))) => {
                *failure = Some(response);
            }
            Ok(Some((_, response))) => return Some(response),
            Ok(None) | Err(_) => {}
        }
    }
    None
}

/// Sends the query to a name server over the client's transport. Returns its response, or None if it cannot be reached.
async fn exchange(server: SocketAddr, query: Query) -> Option<Response> {
    let mut sent = query.bytes.clone();
    // The library's generator is cryptographically secure.
    let id = Message::query().metadata.id;
    sent.get_mut(..2)?.copy_from_slice(&id.to_be_bytes());
    let response = match query.transport {
        Transport::Udp => over_udp(server, &query, &sent).await,
        Transport::Tcp => over_tcp(server, &query, &sent).await,
    };
    response.inspect_err(|error| tracing::debug!(%server, %error, "a name server cannot be reached")).ok()
}

async fn over_udp(server: SocketAddr, query: &Query, sent: &[u8]) -> io::Result<Response> {
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

async fn over_tcp(server: SocketAddr, query: &Query, sent: &[u8]) -> io::Result<Response> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_late_response_counts_while_the_next_attempt_waits() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        std::fs::write(&file, "options timeout:1\n").unwrap();
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let forwarder = Forwarder::new(NameServers::new(vec![server.local_addr().unwrap()], vec![], file));
        let serve = async {
            let mut bytes = [0; 512];
            let (length, first) = server.recv_from(&mut bytes).await.unwrap();
            let (_, second) = server.recv_from(&mut [0; 512]).await.unwrap();
            assert_ne!(first, second, "each attempt has its own port");
            let mut response = Message::from_vec(&bytes[..length]).unwrap();
            response.metadata.message_type = MessageType::Response;
            server.send_to(&response.to_vec().unwrap(), first).await.unwrap();
        };
        let mut message = Message::query();
        message.add_query(hickory_proto::op::Query::default());
        let query = Query::read(&message.to_vec().unwrap(), Transport::Udp).unwrap();
        let (response, ()) = tokio::join!(forwarder.forward(&query), serve);
        assert_eq!(Message::from_vec(&response.unwrap()).unwrap().metadata.id, message.metadata.id);
    }
}
