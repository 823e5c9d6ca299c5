//! What a client speaks, judged by its first bytes alone.
//!
//! Asked for connections whose destination may be HTTP or opaque. A first line that holds ` HTTP/` is HTTP/1, well-formed or
//! not: what is malformed is refused by the codec, and not passed on to an application that may be less strict. The whole
//! preface is HTTP/2. Every other line is opaque (Redis's `GET k`, NATS's `CONNECT {}`, `OPTIONS sip:a SIP/2.0`), and so are,
//! at once, bytes that no text begins with. Silence is no verdict; how long it is endured, and that the server may speak
//! first, is the caller's business.

use std::cell::RefCell;
use std::time::Duration;

use bytes::BytesMut;
use foldhash::HashMap;
use outrigger_core::Name;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

/// What a client begins HTTP/2 with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A request line that is longer counts as HTTP, so that its sender reads a 414; any other line is opaque then.
const LINE_BYTES: usize = 8 * 1024;

/// How long a client may take over its first line once that begins like a request: as long as over a request's head.
const REQUEST_LINE: Duration = Duration::from_secs(10);

/// How long a verdict is remembered after it was last confirmed.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How many destinations' verdicts a worker remembers.
const REMEMBERED_DESTINATIONS: usize = 1024;

/// What a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else.
    Opaque,
}

/// What is known of a client after a bounded wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It said enough.
    Said(Verdict),
    /// It said nothing, or too little.
    Silence,
    /// It closed its side without a word.
    Ended,
}

/// Judges the first bytes of a connection; `None`: more are needed.
pub(super) fn judge(first: &[u8]) -> Option<Verdict> {
    if first.starts_with(PREFACE) {
        return Some(Verdict::Http2);
    }
    if PREFACE.starts_with(first) {
        return None;
    }
    let line = first_line(first);
    let Some(begins) = line.first() else {
        return if first.len() > LINE_BYTES { Some(Verdict::Opaque) } else { None };
    };
    if !is_token(*begins) && !matches!(begins, b' ' | b'\t') {
        return Some(Verdict::Opaque);
    }
    let (line, ended) = match memchr::memchr(b'\n', line) {
        Some(end) => (&line[..end], true),
        None => (line, false),
    };
    // Protocols that begin with a magic word (AMQP, MongoDB's lengths) wait for an answer and end no line.
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let word = words.next().unwrap_or_default();
    let word = word.strip_suffix(b"\r").unwrap_or(word);
    if word.iter().any(|byte| !byte.is_ascii_graphic()) {
        return Some(Verdict::Opaque);
    }
    let http = if ended {
        holds_version(line)
    } else if line.len() > LINE_BYTES {
        is_nearly_request(line)
    } else {
        return None;
    };
    Some(if http { Verdict::Http1 } else { Verdict::Opaque })
}

/// What stands before the version of a request line, which no other protocol has.
const VERSION: &[u8] = b"HTTP/";

fn holds_version(line: &[u8]) -> bool {
    memchr::memmem::find_iter(line, VERSION).any(|at| at > 0 && is_space(line[at - 1]))
}

/// What a lenient recipient takes for a space between the parts of a request line (RFC 9112 section 3).
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r')
}

/// The first line that is not empty: lenient servers pass over empty ones (RFC 9112 section 2.2).
fn first_line(first: &[u8]) -> &[u8] {
    let empty = first.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    &first[empty..]
}

/// Whether a line that is not whole yet has the method and the beginning of a target, or the version.
fn is_nearly_request(line: &[u8]) -> bool {
    let method = line.iter().take_while(|byte| is_token(**byte)).count();
    let target = line[method..].strip_prefix(b" ").unwrap_or_default();
    holds_version(line)
        || method > 0 && [&b"/"[..], b"http://", b"https://"].iter().any(|form| target.starts_with(form))
}

/// A verdict does not change with further bytes. Beyond the bound on a line anything is HTTP, so that it ends there.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn verdicts_stay(bytes: &[u8]) {
    let mut verdict = None;
    for end in 1..=bytes.len().min(LINE_BYTES) {
        let now = judge(&bytes[..end]);
        assert!(verdict.is_none() || now == verdict, "{:?}", String::from_utf8_lossy(&bytes[..end]));
        verdict = now;
    }
}

/// Reads from `stream` into `first` until it can be judged, `wait` has passed, or the client has closed its side.
/// Cancel-safe: what was read is in `first`.
pub(super) async fn listen<S: AsyncRead + Unpin>(
    stream: &mut S,
    first: &mut BytesMut,
    wait: Duration,
) -> std::io::Result<Heard> {
    let deadline = Instant::now() + wait;
    loop {
        if let Some(verdict) = judge(first).filter(|_| !first.is_empty()) {
            return Ok(Heard::Said(verdict));
        }
        match tokio::time::timeout_at(deadline, stream.read_buf(first)).await {
            Err(_) => return Ok(Heard::Silence),
            Ok(Ok(0)) if first.is_empty() => return Ok(Heard::Ended),
            // What stays unfinished is nobody's request, and is refused where it has the mark of one.
            Ok(Ok(0)) if holds_version(first_line(first)) => return Ok(Heard::Said(Verdict::Http1)),
            Ok(Ok(0)) => return Ok(Heard::Said(Verdict::Opaque)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// Listens to a client that has said nothing yet, or not enough, until `silence` has passed: once it has begun to speak,
/// `within` is its time, or a request's if it begins like one. What it has not finished then is judged as it is. Cancel-safe.
pub(super) async fn listen_on<S: AsyncRead + Unpin>(
    stream: &mut S,
    first: &mut BytesMut,
    silence: Duration,
    within: Duration,
) -> std::io::Result<Heard> {
    if first.is_empty() {
        // One read is enough to know that it speaks.
        match tokio::time::timeout(silence, stream.read_buf(first)).await {
            Err(_) => return Ok(Heard::Silence),
            Ok(Ok(0)) => return Ok(Heard::Ended),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
    let heard = listen(stream, first, within).await?;
    if heard != Heard::Silence {
        return Ok(heard);
    }
    if !is_nearly_request(first_line(first)) && !PREFACE.starts_with(first) {
        return Ok(Heard::Said(Verdict::Opaque));
    }
    match listen(stream, first, REQUEST_LINE).await? {
        // The codec says that it came too slowly.
        Heard::Silence => Ok(Heard::Said(Verdict::Http1)),
        heard => Ok(heard),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Who speaks first at a destination, as one worker remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// Clients speak first.
    ClientFirst,
    /// The server does: there is no point in waiting for the client.
    ServerFirst,
}

/// The habits of destinations. Bounded; what is forgotten is learned again.
#[derive(Debug, Default)]
pub(crate) struct Habits(RefCell<HashMap<Name, (Habit, Instant)>>);

impl Habits {
    pub(super) fn of(&self, destination: &Name) -> Option<Habit> {
        let habits = self.0.borrow();
        let (habit, since) = habits.get(destination)?;
        (since.elapsed() < REMEMBERED).then_some(*habit)
    }

    pub(super) fn learn(&self, destination: &Name, habit: Habit) {
        let mut habits = self.0.borrow_mut();
        if habits.len() >= REMEMBERED_DESTINATIONS && !habits.contains_key(destination) {
            habits.retain(|_, (_, since)| since.elapsed() < REMEMBERED);
            if habits.len() >= REMEMBERED_DESTINATIONS {
                return;
            }
        }
        habits.insert(destination.clone(), (habit, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
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
                assert_eq!(judge(&line.as_bytes()[..cut]), None, "{:?}", &line[..cut]);
            }
            assert_eq!(judge(line.as_bytes()), Some(Verdict::Http1), "{line:?}");
        }
        assert_eq!(judge(PREFACE), Some(Verdict::Http2));
        assert_eq!(judge(&PREFACE[..23]), None);
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
            b"PRI * HTTP/2.0\r\n\r\nXX",
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1\r\n",
        ] {
            assert_eq!(judge(line), Some(Verdict::Http1), "{:?}", String::from_utf8_lossy(line));
        }
        let long = [b"GET /".as_slice(), &[b'a'; LINE_BYTES]].concat();
        assert_eq!(judge(&long), Some(Verdict::Http1));
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
            assert_eq!(judge(bytes), Some(Verdict::Opaque), "{protocol}");
        }
    }

    proptest! {
        #[test]
        fn a_verdict_does_not_change_with_further_bytes(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            verdicts_stay(&bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_the_wait() {
        let (mut client, mut server) = duplex(64);
        let mut first = BytesMut::new();
        let wait = Duration::from_millis(100);
        assert_eq!(listen(&mut server, &mut first, wait).await.unwrap(), Heard::Silence);
        client.write_all(b"GET / HT").await.unwrap();
        assert_eq!(listen(&mut server, &mut first, wait).await.unwrap(), Heard::Silence);
        client.write_all(b"TP/1.1\r\n").await.unwrap();
        assert_eq!(listen(&mut server, &mut first, wait).await.unwrap(), Heard::Said(Verdict::Http1));
        assert_eq!(&first[..], b"GET / HTTP/1.1\r\n");
        drop(client);
        assert_eq!(listen(&mut server, &mut BytesMut::new(), wait).await.unwrap(), Heard::Ended);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_does_not_finish_is_judged_in_its_time() {
        let (silence, within) = (Duration::from_secs(3600), Duration::from_millis(500));
        for (said, millis, verdict) in [
            ("ruok", 500, Verdict::Opaque),
            ("GET key", 500, Verdict::Opaque),
            ("GET /slow", 10_500, Verdict::Http1),
            ("GET\t/slow HTTP/1.1", 10_500, Verdict::Http1),
        ] {
            let (mut client, mut server) = duplex(64);
            let mut first = BytesMut::new();
            client.write_all(said.as_bytes()).await.unwrap();
            let began = Instant::now();
            let heard = listen_on(&mut server, &mut first, silence, within).await.unwrap();
            assert_eq!((heard, began.elapsed().as_millis()), (Heard::Said(verdict), millis), "{said}");
        }
        let (client, mut server) = duplex(64);
        let mut first = BytesMut::new();
        assert_eq!(listen_on(&mut server, &mut first, silence, within).await.unwrap(), Heard::Silence);
        drop(client);
        assert_eq!(listen_on(&mut server, &mut first, silence, within).await.unwrap(), Heard::Ended);
    }

    #[tokio::test(start_paused = true)]
    async fn habits_are_forgotten_after_a_while() {
        let (habits, name) = (Habits::default(), Name::from("db:5432"));
        habits.learn(&name, Habit::ServerFirst);
        assert_eq!(habits.of(&name), Some(Habit::ServerFirst));
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(habits.of(&name), None);
    }
}
