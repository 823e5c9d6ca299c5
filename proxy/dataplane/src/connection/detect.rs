//! Detects the protocol of a connection from the client's first bytes.
//!
//! Used for destinations that may be HTTP or opaque. A first line that contains ` HTTP/` (in any case) is HTTP/1, well-formed
//! or not: the codec refuses a malformed one, so that it does not reach an application that may be less strict. The whole
//! preface is HTTP/2. Every other line is opaque (Redis's `GET k`, NATS's `CONNECT {}`, `OPTIONS sip:a SIP/2.0`), and so are,
//! at once, bytes that are not text. Without bytes there is no verdict; the caller decides how long to wait, and whether the
//! server may speak first.

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

/// The result of detection after a bounded wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Detection {
    /// The protocol is known.
    Decided(Verdict),
    /// The client sent too little in time.
    TimedOut,
    /// The client closed its side without sending a byte.
    Closed,
}

/// Classifies a connection by its first bytes. Returns None if more are needed.
pub(super) fn classify(first: &[u8]) -> Option<Verdict> {
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

/// Panics if a verdict changes with further bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn assert_verdict_is_stable(bytes: &[u8]) {
    let mut verdict = None;
    for end in 1..=bytes.len() {
        let now = classify(&bytes[..end]);
        assert!(verdict.is_none() || now == verdict, "{:?}", String::from_utf8_lossy(&bytes[..end]));
        verdict = now;
    }
}

/// Reads from `stream` into `first` until it can be judged, `wait` has passed, or the client has closed its side.
/// Cancel-safe: what was read is in `first`.
pub(super) async fn detect<S: AsyncRead + Unpin>(
    stream: &mut S,
    first: &mut BytesMut,
    wait: Duration,
) -> std::io::Result<Detection> {
    let deadline = Instant::now() + wait;
    loop {
        if let Some(verdict) = classify(first).filter(|_| !first.is_empty()) {
            return Ok(Detection::Decided(verdict));
        }
        match tokio::time::timeout_at(deadline, stream.read_buf(first)).await {
            Err(_) => return Ok(Detection::TimedOut),
            Ok(Ok(0)) if first.is_empty() => return Ok(Detection::Closed),
            // An incomplete line is no request; the codec refuses it if it has an HTTP version.
            Ok(Ok(0)) if holds_version(first_line(first)) => return Ok(Detection::Decided(Verdict::Http1)),
            Ok(Ok(0)) => return Ok(Detection::Decided(Verdict::Opaque)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// Continues detection for a client that has sent too little, until `silence` has passed: once it has begun to send,
/// `within` is its time, or a request's if it begins like one. What it has not finished then is judged as it is. Cancel-safe.
pub(super) async fn detect_while_silent<S: AsyncRead + Unpin>(
    stream: &mut S,
    first: &mut BytesMut,
    silence: Duration,
    within: Duration,
) -> std::io::Result<Detection> {
    if first.is_empty() {
        // One read is enough to know that it speaks.
        match tokio::time::timeout(silence, stream.read_buf(first)).await {
            Err(_) => return Ok(Detection::TimedOut),
            Ok(Ok(0)) => return Ok(Detection::Closed),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
    let detection = detect(stream, first, within).await?;
    if detection != Detection::TimedOut {
        return Ok(detection);
    }
    let line = first_line(first);
    if !is_nearly_request(line) && !may_be_method(line) && !PREFACE.starts_with(first) {
        return Ok(Detection::Decided(Verdict::Opaque));
    }
    match detect(stream, first, REQUEST_LINE).await? {
        Detection::TimedOut => {
            let line = first_line(first);
            // The codec refuses what comes too slowly. A pause within a method must not lead past every policy.
            let http = is_nearly_request(line) || is_method_so_far(line) || PREFACE.starts_with(first);
            Ok(Detection::Decided(if http { Verdict::Http1 } else { Verdict::Opaque }))
        }
        detection => Ok(detection),
    }
}

/// Which side of a destination's connections sends first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstSpeaker {
    /// The client.
    Client,
    /// The server: detection does not wait for the client.
    Server,
}

/// Which side sends first, by destination, as one worker has observed it. Bounded; an entry that expires is learned again.
#[derive(Debug, Default)]
pub(crate) struct FirstSpeakers(RefCell<HashMap<Name, (FirstSpeaker, Instant)>>);

impl FirstSpeakers {
    pub(super) fn of(&self, destination: &Name) -> Option<FirstSpeaker> {
        let first_speakers = self.0.borrow();
        let (first_speaker, since) = first_speakers.get(destination)?;
        (since.elapsed() < REMEMBERED).then_some(*first_speaker)
    }

    pub(super) fn learn(&self, destination: &Name, first_speaker: FirstSpeaker) {
        let mut first_speakers = self.0.borrow_mut();
        if first_speakers.len() >= REMEMBERED_DESTINATIONS && !first_speakers.contains_key(destination) {
            first_speakers.retain(|_, (_, since)| since.elapsed() < REMEMBERED);
            if first_speakers.len() >= REMEMBERED_DESTINATIONS {
                return;
            }
        }
        first_speakers.insert(destination.clone(), (first_speaker, Instant::now()));
    }
}

#[cfg(test)]
mod tests;
