//! A client of the DNS answerer.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use outrigger_test_support::wait::in_time;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Returns a query, whose ID is 4711.
pub(crate) fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// Returns a query of a client that accepts responses of this size over UDP.
pub(crate) fn with_size(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.edns = Some(edns);
    message
}

/// Sends a query over UDP, and returns the response.
pub(crate) async fn ask(server: SocketAddr, query: &Message) -> Message {
    let response = exchange(server, &query.to_vec().unwrap()).await;
    check(query, Message::from_vec(&response).unwrap())
}

/// Sends bytes over UDP, and returns those of the response.
pub(crate) async fn exchange(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(bytes).await.unwrap();
    let mut buffer = vec![0; 65536];
    let length = in_time("a response over UDP", socket.recv(&mut buffer)).await.unwrap();
    buffer.truncate(length);
    buffer
}

/// Sends bytes over UDP. Returns false if there is a response within a short time.
pub(crate) async fn is_ignored(server: SocketAddr, bytes: &[u8]) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, server).await.unwrap();
    tokio::time::timeout(Duration::from_millis(200), socket.recv(&mut [0; 512])).await.is_err()
}

/// Sends queries over one TCP connection, and returns the responses.
pub(crate) async fn ask_tcp(server: SocketAddr, queries: &[Message]) -> Vec<Message> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let mut sent = Vec::new();
    for query in queries {
        let bytes = query.to_vec().unwrap();
        sent.extend_from_slice(&u16::try_from(bytes.len()).unwrap().to_be_bytes());
        sent.extend_from_slice(&bytes);
    }
    stream.write_all(&sent).await.unwrap();
    let mut responses = Vec::new();
    for query in queries {
        let response = in_time("a response over TCP", async {
            let mut response = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut response).await.unwrap();
            response
        });
        responses.push(check(query, Message::from_vec(&response.await).unwrap()));
    }
    responses
}

fn check(query: &Message, response: Message) -> Message {
    assert_eq!(response.metadata.message_type, MessageType::Response);
    assert_eq!((response.metadata.id, &response.queries), (query.metadata.id, &query.queries));
    response
}

/// Returns the code of a response and the data of its answers, in order.
pub(crate) fn read(response: &Message) -> (ResponseCode, Vec<String>) {
    let mut answers: Vec<_> = response.answers.iter().map(|record| record.data.to_string()).collect();
    answers.sort();
    (response.metadata.response_code, answers)
}
