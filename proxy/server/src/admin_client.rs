//! `outrigger-proxy drain` and `outrigger-proxy wait`: requests to the admin endpoint of the proxy in the same pod, for the lifecycle hooks
//! of its container. An image of one static program has no other client.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use outrigger_core::duration::parse_duration;

use crate::args::Loopback;
use crate::error::Error;

/// Time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between requests.
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum size of a response.
const MAX_RESPONSE: u64 = 64 * 1024;

/// Flags of `outrigger-proxy drain`.
#[derive(Debug, Clone, clap::Args)]
pub struct DrainArgs {
    /// Address of the admin endpoint
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15000", env = "OUTRIGGER_PROXY_ADMIN", value_parser = Loopback::parse)]
    admin: Loopback,
}

/// Flags of `outrigger-proxy wait`.
#[derive(Debug, Clone, clap::Args)]
pub struct WaitArgs {
    /// Address of the admin endpoint
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15000", env = "OUTRIGGER_PROXY_ADMIN", value_parser = Loopback::parse)]
    admin: Loopback,
    /// Fail after this time
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    timeout: Duration,
}

/// Asks the proxy to drain inbound. Returns when it has begun.
pub fn drain(DrainArgs { admin }: &DrainArgs) -> Result<(), Error> {
    match request(admin, "POST /drain?inboundonly") {
        Ok((202, _)) => Ok(()),
        Ok((_, text)) => Err(Error::Failed(text.trim().to_owned())),
        Err(error) => Err(unreachable(admin, &error)),
    }
}

/// Waits until the proxy is ready. Returns an error, which says what is missing, after the timeout.
pub fn wait(WaitArgs { admin, timeout }: &WaitArgs) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        let problem = match request(admin, "GET /ready") {
            Ok((200, _)) => return Ok(()),
            Ok((_, text)) => Error::Failed(text.trim().to_owned()),
            Err(error) => unreachable(admin, &error),
        };
        if start.elapsed() >= *timeout {
            return Err(problem);
        }
        std::thread::sleep(PAUSE);
    }
}

fn unreachable(admin: &Loopback, error: &io::Error) -> Error {
    Error::Failed(format!("no proxy at {} (--admin): {error}", admin.get()))
}

/// Sends a request without a body. Returns the status and the body.
fn request(admin: &Loopback, request: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&admin.get(), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let head = format!(
        "{request} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        admin.get()
    );
    stream.write_all(head.as_bytes())?;
    let mut response = String::new();
    stream.take(MAX_RESPONSE).read_to_string(&mut response)?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.map(|status| (status, body.to_owned())).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection after the other. Returns the address, and the first lines of the requests.
    fn proxy(responses: &'static [&'static str]) -> (Loopback, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = Loopback::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let served = std::thread::spawn(move || {
            let one = |response: &&str| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let length = stream.read(&mut request).unwrap();
                stream.write_all(format!("HTTP/1.1 {response}").as_bytes()).unwrap();
                String::from_utf8_lossy(&request[..length]).lines().next().unwrap_or_default().to_owned()
            };
            responses.iter().map(one).collect()
        });
        (admin, served)
    }

    #[test]
    fn drain_asks_for_the_inbound_drain_and_reports_a_refusal() {
        let (admin, served) =
            proxy(&["202 Accepted\r\n\r\ndraining inbound\n", "400 Bad Request\r\n\r\nno\n"]);
        let args = DrainArgs { admin };
        drain(&args).unwrap();
        assert_eq!(drain(&args).unwrap_err().to_string(), "no");
        assert_eq!(served.join().unwrap()[0], "POST /drain?inboundonly HTTP/1.1");
        assert!(drain(&args).unwrap_err().to_string().starts_with("no proxy at 127.0.0.1:"));
    }

    #[test]
    fn wait_returns_when_the_proxy_is_ready_and_says_what_is_missing_otherwise() {
        let (admin, served) = proxy(&[
            "503 Service Unavailable\r\n\r\nnot ready: identity\n",
            "200 OK\r\n\r\nready\n",
            "503 Service Unavailable\r\n\r\nnot ready: identity\n",
        ]);
        wait(&WaitArgs { admin, timeout: Duration::from_secs(60) }).unwrap();
        let failed = wait(&WaitArgs { admin, timeout: Duration::ZERO }).unwrap_err();
        assert_eq!(failed.to_string(), "not ready: identity");
        assert_eq!(served.join().unwrap()[0], "GET /ready HTTP/1.1");
    }
}
