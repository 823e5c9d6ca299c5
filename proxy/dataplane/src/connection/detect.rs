//! What a client speaks, judged by its first bytes alone.
//!
//! Asked for connections whose destination may be HTTP or opaque. The judgement is exact: a whole request line makes
//! HTTP/1, the whole preface HTTP/2, and everything else is opaque as soon as it cannot become one of them. Silence
//! is no verdict; how long it is endured, and that the server may speak first, is the caller's business.

use std::cell::RefCell;
use std::time::Duration;

use bytes::BytesMut;
use foldhash::HashMap;
use outrigger_core::Name;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

/// What a client begins HTTP/2 with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A method that is longer is none.
const METHOD_BYTES: usize = 32;

/// A request line that is longer counts as HTTP, so that its sender reads a 414.
const LINE_BYTES: usize = 8 * 1024;

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
    /// It closed the connection without a word.
    Gone,
}

/// Judges the first bytes of a connection; `None`: more are needed.
pub(super) fn judge(first: &[u8]) -> Option<Verdict> {
    if first.starts_with(PREFACE) {
        return Some(Verdict::Http2);
    }
    if PREFACE.starts_with(first) {
        return None;
    }
    // RFC 9112 section 2.2: a server ignores at least one empty line before the request line.
    let line = first.strip_prefix(b"\r\n").unwrap_or(first);
    if line.is_empty() || line == b"\r" {
        return None;
    }
    let method = line.iter().take_while(|byte| is_token(**byte)).count();
    match line.get(method) {
        None if method <= METHOD_BYTES => return None,
        Some(b' ') if (1..=METHOD_BYTES).contains(&method) => {}
        _ => return Some(Verdict::Opaque),
    }
    match line.iter().position(|byte| *byte == b'\n' || *byte < b' ' && *byte != b'\r') {
        Some(end) if line[end] == b'\n' => {
            let text = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
            let version = text.len().checked_sub(9).map(|at| &text[at..]);
            let http = version.is_some_and(|version| version.starts_with(b" HTTP/1."));
            Some(if http { Verdict::Http1 } else { Verdict::Opaque })
        }
        Some(_) => Some(Verdict::Opaque),
        None if line.len() > LINE_BYTES => Some(Verdict::Http1),
        None => None,
    }
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

/// Reads from `stream` into `first` until it can be judged, `wait` has passed, or the client is gone. Cancel-safe: what was
/// read is in `first`.
pub(super) async fn listen<S: AsyncRead + Unpin>(
    stream: &mut S,
    first: &mut BytesMut,
    wait: Duration,
) -> std::io::Result<Heard> {
    let deadline = Instant::now() + wait;
    loop {
        if !first.is_empty()
            && let Some(verdict) = judge(first)
        {
            return Ok(Heard::Said(verdict));
        }
        match tokio::time::timeout_at(deadline, stream.read_buf(first)).await {
            Err(_) => return Ok(Heard::Silence),
            // What stays unfinished is nobody's request.
            Ok(Ok(0)) if first.is_empty() => return Ok(Heard::Gone),
            Ok(Ok(0)) => return Ok(Heard::Said(Verdict::Opaque)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
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
        for line in
            ["GET / HTTP/1.1\r\n", "\r\nPOST /x HTTP/1.0\r\n", "M-SEARCH * HTTP/1.1\n", "PRI / HTTP/1.1\r\n"]
        {
            for cut in 1..line.len() {
                assert_eq!(judge(&line.as_bytes()[..cut]), None, "{:?}", &line[..cut]);
            }
            assert_eq!(judge(line.as_bytes()), Some(Verdict::Http1), "{line:?}");
        }
        assert_eq!(judge(PREFACE), Some(Verdict::Http2));
        assert_eq!(judge(&PREFACE[..23]), None);
    }

    #[test]
    fn what_cannot_become_http_is_opaque() {
        for bytes in [
            &b"GET key\r\n"[..],
            b"*1\r\n$4\r\nPING\r\n",
            b"\x16\x03\x01\x02\x00",
            b"EHLO mail\r\n",
            b"\x00",
            b" GET / HTTP/1.1\r\n",
            b"GET /\x00 HTTP/1.1\r\n",
        ] {
            assert_eq!(judge(bytes), Some(Verdict::Opaque), "{bytes:?}");
        }
        assert_eq!(judge(&[b'A'; METHOD_BYTES + 1]), Some(Verdict::Opaque));
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
        assert_eq!(listen(&mut server, &mut BytesMut::new(), wait).await.unwrap(), Heard::Gone);
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
