//! What a client speaks, judged by its first bytes alone.
//!
//! Asked for connections whose destination may be HTTP or opaque. A first line that holds ` HTTP/` (in any case) is HTTP/1, well-formed or
//! not: what is malformed is refused by the codec, and not passed on to an application that may be less strict. The whole
//! preface is HTTP/2. Every other line is opaque (Redis's `GET k`, NATS's `CONNECT {}`, `OPTIONS sip:a SIP/2.0`), and so are,
//! at once, bytes that no text begins with. Silence is no verdict; how long it is endured, and that the server may speak
//! first, is the caller's business.

use std::cell::RefCell;
use std::time::Duration;

use bytes::BytesMut;
use foldhash::HashMap;
use outrigger_core::Name;
use outrigger_core::tchar::is_tchar;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use crate::codec::limits::METHOD_BYTES;
use crate::codec::server::PREFACE;

/// Only this much of a first line is judged, however it is read. A request line that is longer counts as HTTP, so that its
/// sender reads a refusal; any other line is opaque then.
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
    if first.len() - line.len() > LINE_BYTES {
        // So many empty lines are no protocol's: the codec refuses them.
        return Some(Verdict::Http1);
    }
    let line = &line[..line.len().min(LINE_BYTES)];
    let begins = line.first()?;
    if !is_tchar(*begins) && !matches!(begins, b' ' | b'\t') {
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
    } else if line.len() == LINE_BYTES {
        is_nearly_request(line)
    } else {
        return None;
    };
    Some(if http { Verdict::Http1 } else { Verdict::Opaque })
}

/// What stands before the version of a request line, in any case, which no other protocol has.
const VERSION: &[u8] = b"HTTP/";

fn holds_version(line: &[u8]) -> bool {
    memchr::memchr_iter(b'/', line).filter_map(|slash| line[..=slash].split_last_chunk::<5>()).any(
        |(before, name)| {
            name.eq_ignore_ascii_case(VERSION) && before.last().is_some_and(|byte| is_space(*byte))
        },
    )
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
    let method = line.iter().take_while(|byte| is_tchar(**byte)).count();
    let target = line[method..].strip_prefix(b" ").unwrap_or_default();
    holds_version(line)
        || method == LINE_BYTES
        || method > 0 && [&b"/"[..], b"http://", b"https://"].iter().any(|form| target.starts_with(form))
}

/// Whether an incomplete line begins with an upper-case word, as the methods in use are, that is short enough for one.
/// Line-based protocols send whole lines, so waiting for the rest delays none of them.
fn may_be_method(line: &[u8]) -> bool {
    let word = line.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    (1..=METHOD_BYTES).contains(&word) && line.get(word).is_none_or(|byte| is_space(*byte))
}

/// Whether an incomplete line is a method of RFC 9110 or RFC 5789, or the beginning of one, and no target yet.
fn is_method_so_far(line: &[u8]) -> bool {
    let end = line.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
    let (word, is_whole) = (&line[..end], end < line.len());
    end > 0
        && ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"].iter().any(
            |method| if is_whole { method.as_bytes() == word } else { method.as_bytes().starts_with(word) },
        )
}

/// A verdict does not change with further bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn verdicts_stay(bytes: &[u8]) {
    let mut verdict = None;
    for end in 1..=bytes.len() {
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
    let line = first_line(first);
    if !is_nearly_request(line) && !may_be_method(line) && !PREFACE.starts_with(first) {
        return Ok(Heard::Said(Verdict::Opaque));
    }
    match listen(stream, first, REQUEST_LINE).await? {
        Heard::Silence => {
            let line = first_line(first);
            // The codec refuses what comes too slowly. A pause within a method must not lead past every policy.
            let http = is_nearly_request(line) || is_method_so_far(line) || PREFACE.starts_with(first);
            Ok(Heard::Said(if http { Verdict::Http1 } else { Verdict::Opaque }))
        }
        heard => Ok(heard),
    }
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
mod tests;
