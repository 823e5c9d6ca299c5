use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, duplex};

use super::*;

#[test]
fn http_is_known_by_its_whole_first_line() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "\r\nPOST /x HTTP/1.0\r\n",
        "\r\n\r\n\nGET / HTTP/1.1\r\n",
        "M-SEARCH * HTTP/1.1\n",
        "PRI / HTTP/1.1\r\n",
        "CONNECT a:80 HTTP/1.1\r\n",
    ] {
        for cut in 1..line.len() {
            assert_eq!(classify(&line.as_bytes()[..cut]), None, "{:?}", &line[..cut]);
        }
        assert_eq!(classify(line.as_bytes()), Some(Verdict::Http1), "{line:?}");
    }
    assert_eq!(classify(PREFACE), Some(Verdict::Http2));
    assert_eq!(classify(&PREFACE[..23]), None);
}

#[test]
fn what_is_nearly_http_is_http_so_that_it_is_refused() {
    for line in [
        &b"GET / HTTP/9.9\r\n"[..],
        b"GET /\x01 HTTP/1.1\r\n",
        b"GET /\x00 HTTP/1.1\r\n",
        b"GET /\xff HTTP/1.1\r\n",
        b" GET / HTTP/1.1\r\n",
        b"\tGET / HTTP/1.1\r\n",
        b"GET  / HTTP/1.1\r\n",
        b"GET\t/\tHTTP/1.1\r\n",
        b"GET /\x0bHTTP/1.1\r\n",
        b"G@T / HTTP/1.1\r\n",
        b"GET / HTTP/1.1 \r\n",
        b"GET / HTTP/\r\n",
        b"GET / http/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX",
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1\r\n",
    ] {
        assert_eq!(classify(line), Some(Verdict::Http1), "{:?}", String::from_utf8_lossy(line));
    }
    let long = [b"GET /".as_slice(), &[b'a'; LINE_BYTES]].concat();
    assert_eq!(classify(&long), Some(Verdict::Http1));
}

#[test]
fn other_protocols_are_opaque_by_their_first_line_or_their_first_byte() {
    let long = [b"CONNECT {\"jwt\":\"".as_slice(), &[b'a'; LINE_BYTES]].concat();
    for (protocol, bytes) in [
        ("Redis, inline", &b"GET k\r\n"[..]),
        ("Redis, inline", b"SET k v\r\n"),
        ("Redis, inline", b"PING\r\n"),
        ("Redis", b"*1\r\n$4\r\nPING\r\n"),
        ("NATS", b"CONNECT {\"verbose\":false}\r\nPING\r\n"),
        ("NATS, with a long token", &long),
        ("RTSP", b"OPTIONS rtsp://camera/stream RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
        ("SIP", b"OPTIONS sip:carol@chicago.com SIP/2.0\r\n"),
        ("SIP", b"INVITE sip:bob@biloxi.com SIP/2.0\r\n"),
        ("SMTP", b"EHLO mail.example\r\n"),
        ("SMTP", b"HELO mail\r\n"),
        ("IRC", b"NICK guest\r\nUSER guest 0 * :Guest\r\n"),
        ("FTP", b"USER anonymous\r\n"),
        ("POP3", b"STAT\r\n"),
        ("IMAP", b"a1 LOGIN user pass\r\n"),
        ("memcached", b"get key\r\n"),
        ("memcached, meta", b"mg key v\r\n"),
        ("memcached, binary", b"\x80\x00\x00\x03"),
        ("PROXY protocol 1", b"PROXY TCP4 10.0.0.1 10.0.0.2 56324 443\r\nGET / HTTP/1.1\r\n"),
        ("PROXY protocol 2", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11"),
        ("MQTT", b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04id"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01"),
        ("Postgres", b"\x00\x00\x00\x08\x04\xd2\x16\x2f"),
        ("Kafka", b"\x00\x00\x00\x23\x00\x12\x00\x03"),
        ("MySQL, client", b"\x20\x00\x00\x01\x85\xa6"),
        ("MongoDB", b"\x3f\x00\x00\x00\x01\x00"),
        ("MongoDB, a length in ASCII", b"A\x00\x00\x00\x01\x00"),
        ("AMQP", b"AMQP\x00\x00\x09\x01"),
        ("Cassandra", b"\x04\x00\x00\x00\x05"),
        ("SSH", b"SSH-2.0-OpenSSH_9.9\r\n"),
        ("ZooKeeper", b"ruok\n"),
        ("Beanstalkd", b"stats\r\n"),
        ("JSON lines", b"{\"method\":\"GET\"}\n"),
        ("XMPP", b"<?xml version='1.0'?>"),
        ("HTTP/0.9", b"GET /c\r\n"),
        ("gopher", b"/about\r\n"),
        ("Graphite", b"local.random.diceroll 4 1700000000\n"),
    ] {
        assert_eq!(classify(bytes), Some(Verdict::Opaque), "{protocol}");
    }
}

#[test]
fn a_long_first_line_is_judged_alike_however_it_is_read() {
    let method = [&[b'A'; 20_000], &b" /a HTTP/1.1\r\n"[..]].concat();
    let token = [b"CONNECT {".as_slice(), &[b'a'; 20_000], b" HTTP/1.1\r\n"].concat();
    let empty = [&[b'\n'; 20_000], &b"GET / HTTP/1.1\r\n"[..]].concat();
    for (line, verdict) in [(method, Verdict::Http1), (token, Verdict::Opaque), (empty, Verdict::Http1)] {
        for end in (LINE_BYTES + 1..=line.len()).rev().step_by(97) {
            assert_eq!(classify(&line[..end]), Some(verdict), "{end}");
        }
        assert_eq!(classify(&line[..LINE_BYTES - 1]), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_pauses_within_its_method_is_http() {
    for (begin, rest) in
        [("G", "ET /a HTTP/9.9\r\n"), ("GET", " /a HTTP/1.1\r\n"), ("GET ", "/a http/1.1\r\n")]
    {
        let (mut client, mut server) = duplex(64);
        let mut first = BytesMut::new();
        client.write_all(begin.as_bytes()).await.unwrap();
        let second = Duration::from_secs(1);
        let listening = detect_while_silent(&mut server, &mut first, second, second / 2);
        let speaking = async {
            tokio::time::sleep(second * 6).await;
            client.write_all(rest.as_bytes()).await.unwrap();
        };
        let (heard, ()) = tokio::join!(listening, speaking);
        assert_eq!(heard.unwrap(), Detection::Decided(Verdict::Http1), "{begin}");
    }
}

proptest! {
    #[test]
    fn a_verdict_does_not_change_with_further_bytes(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
        assert_verdict_is_stable(&bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_after_the_wait() {
    let (mut client, mut server) = duplex(64);
    let mut first = BytesMut::new();
    let wait = Duration::from_millis(100);
    assert_eq!(detect(&mut server, &mut first, wait).await.unwrap(), Detection::TimedOut);
    client.write_all(b"GET / HT").await.unwrap();
    assert_eq!(detect(&mut server, &mut first, wait).await.unwrap(), Detection::TimedOut);
    client.write_all(b"TP/1.1\r\n").await.unwrap();
    assert_eq!(detect(&mut server, &mut first, wait).await.unwrap(), Detection::Decided(Verdict::Http1));
    assert_eq!(&first[..], b"GET / HTTP/1.1\r\n");
    drop(client);
    assert_eq!(detect(&mut server, &mut BytesMut::new(), wait).await.unwrap(), Detection::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_does_not_finish_is_judged_in_its_time() {
    let (silence, within) = (Duration::from_secs(3600), Duration::from_millis(500));
    let word = "A".repeat(METHOD_BYTES + 1);
    for (said, millis, verdict) in [
        ("ruok", 500, Verdict::Opaque),
        ("JDWP-Handshake", 500, Verdict::Opaque),
        ("GET key", 10_500, Verdict::Opaque),
        ("G", 10_500, Verdict::Http1),
        ("GET", 10_500, Verdict::Http1),
        ("GET ", 10_500, Verdict::Http1),
        ("GE ", 10_500, Verdict::Opaque),
        ("RENDEZVOUS", 10_500, Verdict::Opaque),
        (&word, 500, Verdict::Opaque),
        ("GET /slow", 10_500, Verdict::Http1),
        ("GET\t/slow HTTP/1.1", 10_500, Verdict::Http1),
    ] {
        let (mut client, mut server) = duplex(128);
        let mut first = BytesMut::new();
        client.write_all(said.as_bytes()).await.unwrap();
        let began = Instant::now();
        let heard = detect_while_silent(&mut server, &mut first, silence, within).await.unwrap();
        assert_eq!((heard, began.elapsed().as_millis()), (Detection::Decided(verdict), millis), "{said}");
    }
    let (client, mut server) = duplex(64);
    let mut first = BytesMut::new();
    assert_eq!(
        detect_while_silent(&mut server, &mut first, silence, within).await.unwrap(),
        Detection::TimedOut
    );
    drop(client);
    assert_eq!(
        detect_while_silent(&mut server, &mut first, silence, within).await.unwrap(),
        Detection::Closed
    );
}

#[tokio::test(start_paused = true)]
async fn habits_are_forgotten_after_a_while() {
    let (first_speakers, name) = (FirstSpeakers::default(), Name::from("db:5432"));
    first_speakers.learn(&name, FirstSpeaker::Server);
    assert_eq!(first_speakers.of(&name), Some(FirstSpeaker::Server));
    tokio::time::advance(REMEMBERED).await;
    assert_eq!(first_speakers.of(&name), None);
}
