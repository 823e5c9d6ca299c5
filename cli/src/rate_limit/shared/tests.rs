//! Against a server that knows as much of RESP2 as a transaction needs.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use outrigger_test_support::application::closed_port;
use outrigger_test_support::wait::eventually;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;

const NOW: Duration = Duration::from_secs(130);
/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(300);

fn hit(key: &str) -> Hits {
    Hits { key: key.into(), count: 2, length: Duration::from_secs(60) }
}

/// What a server was told, and how it behaves.
#[derive(Debug, Default)]
struct Stored {
    /// The value and the seconds of expiry of each key.
    keys: HashMap<String, (u64, u64)>,
    transactions: usize,
    connections: usize,
    /// Whether it leaves transactions without an answer.
    hangs: bool,
}

/// A server of transactions, which answers other commands with OK.
async fn server(at: &str) -> (SocketAddr, Arc<Mutex<Stored>>) {
    let listener = TcpListener::bind(at).await.unwrap();
    let (address, stored) = (listener.local_addr().unwrap(), Arc::<Mutex<Stored>>::default());
    let shared = Arc::clone(&stored);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            shared.lock().unwrap().connections += 1;
            tokio::spawn(serve(stream, Arc::clone(&shared)));
        }
    });
    (address, stored)
}

async fn serve(stream: TcpStream, stored: Arc<Mutex<Stored>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut queued: Option<Vec<Vec<String>>> = None;
    loop {
        let command = command(&mut stream).await?;
        let answer = match (command[0].as_str(), &mut queued) {
            ("MULTI", _) => {
                queued = Some(Vec::new());
                "+OK\r\n".to_owned()
            }
            ("EXEC", _) if stored.lock().unwrap().hangs => continue,
            ("EXEC", queued) => execute(&queued.take().unwrap(), &mut stored.lock().unwrap()),
            (_, Some(queued)) => {
                queued.push(command);
                "+QUEUED\r\n".to_owned()
            }
            (_, None) => "+OK\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

fn execute(commands: &[Vec<String>], stored: &mut Stored) -> String {
    stored.transactions += 1;
    let mut answers = format!("*{}\r\n", commands.len());
    for command in commands {
        let entry = stored.keys.entry(command[1].clone()).or_default();
        let number: u64 = command[2].parse().unwrap();
        let answer = match command[0].as_str() {
            "INCRBY" => {
                entry.0 += number;
                entry.0
            }
            "EXPIRE" => {
                entry.1 = number;
                1
            }
            other => panic!("{other}"),
        };
        answers.push_str(&format!(":{answer}\r\n"));
    }
    answers
}

/// Reads an array of bulk strings.
async fn command(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let count = length(stream, '*').await?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut word = vec![0; length(stream, '$').await? + 2];
        stream.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        words.push(String::from_utf8(word).unwrap());
    }
    Some(words)
}

async fn length(stream: &mut BufReader<TcpStream>, kind: char) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.strip_prefix(kind)?.trim_end().parse().ok()
}

fn windows(counted: &[Window]) -> Vec<(u64, u64)> {
    counted.iter().map(|window| (window.count, window.left.as_secs())).collect()
}

async fn store(address: SocketAddr, timeout: Duration) -> Shared {
    Shared::connect(&address.to_string(), timeout).await.unwrap()
}

#[tokio::test]
async fn instances_share_the_counters_and_count_in_one_transaction() {
    let (address, stored) = server("127.0.0.1:0").await;
    let (one, two) = (store(address, LONG).await, store(address, LONG).await);
    let first = one.count(&[hit("a"), hit("b")], NOW).await.unwrap();
    assert_eq!(windows(&first), [(2, 50), (2, 50)]);
    assert_eq!(windows(&two.count(&[hit("a")], NOW).await.unwrap()), [(4, 50)]);
    assert_eq!(windows(&two.count(&[], NOW).await.unwrap()), []);
    let next = two.count(&[hit("a")], Duration::from_secs(180)).await.unwrap();
    assert_eq!(windows(&next), [(2, 60)], "the next window has a key of its own");
    let stored = stored.lock().unwrap();
    assert_eq!((stored.keys["outrigger:180:a"], stored.keys["outrigger:240:a"]), ((4, 120), (2, 120)));
    assert_eq!((stored.transactions, stored.connections), (3, 2));
}

#[tokio::test]
async fn a_store_that_is_away_is_an_error_at_once() {
    let away = store(closed_port().await, LONG).await;
    let error = away.count(&[hit("a")], NOW).await.unwrap_err();
    assert!(error.contains("refused") && !away.is_connected(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_accepts_and_is_silent_is_an_error_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = store(silent.local_addr().unwrap(), LONG).await;
    let began = Instant::now();
    store.count(&[hit("a")], NOW).await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_store_that_hangs_costs_its_timeout_a_few_times_and_is_connected_again() {
    let (address, stored) = server("127.0.0.1:0").await;
    let store = store(address, Duration::from_millis(50)).await;
    stored.lock().unwrap().hangs = true;
    let mut errors = Vec::new();
    eventually("another connection", async || {
        errors.extend(store.count(&[hit("a")], NOW).await.err());
        (stored.lock().unwrap().connections > 1).then_some(())
    })
    .await;
    assert!(errors.len() >= 3 && errors[0].contains("no answer within 50ms"), "{errors:?}");
    stored.lock().unwrap().hangs = false;
    let counted = eventually("an answer", async || store.count(&[hit("a")], NOW).await.ok()).await;
    assert!(counted[0].count >= 2 && store.is_connected(), "{counted:?}");
}

#[tokio::test]
async fn a_store_that_comes_back_is_used() {
    let address = closed_port().await;
    let store = store(address, LONG).await;
    store.count(&[hit("a")], NOW).await.unwrap_err();
    let (_, stored) = server(&address.to_string()).await;
    let counted = eventually("an answer", async || store.count(&[hit("a")], NOW).await.ok()).await;
    assert_eq!((counted[0].count, stored.lock().unwrap().transactions), (2, 1));
}

#[tokio::test]
async fn an_address_that_is_not_understood_is_refused_without_its_password() {
    for address in ["http://:secret@a", "redis://", "redis://:secret@a:70000", "redis://:secret@a/b", "a:b"] {
        let error = Shared::connect(address, LONG).await.unwrap_err();
        assert!(error.starts_with("--redis: ") && error.contains("HOST:PORT"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
