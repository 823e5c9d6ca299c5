//! A name server of a test, which sends what the test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// A name server, over UDP and TCP.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What a name server sends for a query: messages, and whether each comes from another port than it should.
pub(crate) type Sent = Vec<(Vec<u8>, bool)>;

impl NameServer {
    /// Starts a name server. `respond` gets the query and whether it came over TCP.
    pub(crate) async fn start(respond: impl Fn(Message, bool) -> Sent + Send + Sync + 'static) -> Self {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let (address, respond) = (tcp.local_addr().unwrap(), Arc::new(respond));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (over_tcp, log) = (Arc::clone(&respond), Arc::clone(&asked));
        tokio::spawn(async move {
            let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let mut buffer = vec![0; 65536];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                log.lock().unwrap().push(query.queries[0].name().to_ascii());
                for (message, elsewhere) in respond(query, false) {
                    let socket = if elsewhere { &other } else { &udp };
                    socket.send_to(&message, from).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let respond = Arc::clone(&over_tcp);
                tokio::spawn(async move {
                    let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                    stream.read_exact(&mut query).await.unwrap();
                    for (message, _) in respond(Message::from_vec(&query).unwrap(), true) {
                        stream.write_u16(u16::try_from(message.len()).unwrap()).await.unwrap();
                        stream.write_all(&message).await.unwrap();
                    }
                });
            }
        });
        Self { address, asked }
    }

    /// Starts a name server that has the address 192.0.2.1 for every name of two labels or more, and none for others.
    pub(crate) async fn ordinary() -> Self {
        Self::start(|query, _| match query.queries[0].name().num_labels() {
            0 | 1 => error(&query, ResponseCode::NXDomain),
            _ => respond(&query, &["192.0.2.1"]),
        })
        .await
    }

    /// Returns whether it was asked for this name over UDP.
    pub(crate) fn was_asked(&self, name: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked == name)
    }
}

/// Returns the response with these addresses.
pub(crate) fn response(query: &Message, addresses: &[&str]) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.queries = query.queries.clone();
    let record = |ip: &&str| {
        let data = RData::from(ip.parse::<std::net::IpAddr>().unwrap());
        Record::from_rdata(query.queries[0].name().clone(), 60, data)
    };
    response.answers = addresses.iter().map(record).collect();
    assert!(response.answers.iter().all(|record| record.record_type() != RecordType::OPT));
    response
}

/// Sends the response with these addresses.
pub(crate) fn respond(query: &Message, addresses: &[&str]) -> Sent {
    vec![(response(query, addresses).to_vec().unwrap(), false)]
}

/// Sends an error.
pub(crate) fn error(query: &Message, code: ResponseCode) -> Sent {
    let mut response = response(query, &[]);
    response.metadata.response_code = code;
    vec![(response.to_vec().unwrap(), false)]
}
