//! A proxy embedded in another program: it reports its addresses, and drains on request.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use clap::Parser;
use outrigger_proxy::{Args, Embedding, run_embedded};
use tokio::sync::{oneshot, watch};

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

/// Returns the response to a GET.
fn ask(address: SocketAddr, path: &str, accept: &str) -> std::io::Result<String> {
    let mut client = TcpStream::connect(address)?;
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
    client.write_all(request.as_bytes())?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn an_embedding_program_receives_the_addresses_and_stops_the_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("roots.pem"), include_str!("root.pem")).unwrap();
    std::fs::write(path("token"), "not a token that anybody knows").unwrap();
    let flags = [
        ("--control-plane", "127.0.0.1:1".to_owned()),
        ("--control-plane-ca", path("roots.pem")),
        ("--token-file", path("token")),
        ("--state-dir", path("state")),
        ("--admin", "127.0.0.1:0".to_owned()),
        ("--metrics-listen", "127.0.0.1:0".to_owned()),
        ("--outbound", "127.0.0.1:0".to_owned()),
        ("--bind", "127.0.0.1:0=stock.shop:9000".to_owned()),
        ("--workers", "2".to_owned()),
        ("--drain-minimum", "0s".to_owned()),
        ("--drain-quiet", "0s".to_owned()),
    ];
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    let command = Command::parse_from(["proxy".to_owned()].into_iter().chain(flags));
    let (bound, addresses) = oneshot::channel();
    let (stop, stopped) = watch::channel(false);
    let embedding = Embedding { bound: Some(bound), stop: Some(stopped), ..Embedding::default() };
    let proxy = std::thread::spawn(move || run_embedded(command.args, embedding));

    let addresses = addresses.blocking_recv().unwrap();
    let names: Vec<_> = addresses.listeners.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names[0], "outbound");
    assert_eq!(names[1], format!("bind|{}", addresses.listeners[1].1));
    let get = |address, path, accept| ask(address, path, accept).unwrap();
    assert!(get(addresses.admin, "/healthz", "*/*").ends_with("ok\n"));
    assert!(get(addresses.admin, "/certs", "*/*").starts_with("HTTP/1.1 200 "));
    let public = addresses.metrics.unwrap();
    assert!(get(public, "/healthz", "*/*").ends_with("ok\n"));
    assert!(get(public, "/ready", "*/*").starts_with("HTTP/1.1 503 "));
    assert!(get(public, "/certs", "*/*").starts_with("HTTP/1.1 404 "));
    let text = get(public, "/metrics", "*/*");
    assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{text}");
    assert!(text.contains("\n# TYPE process_cpu_seconds_total counter\n"), "{text}");
    let text = get(public, "/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert!(text.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert!(text.contains("\n# TYPE process_cpu_seconds counter\n") && text.ends_with("\n# EOF\n"), "{text}");

    stop.send_replace(true);
    proxy.join().unwrap().unwrap();
    assert!(TcpStream::connect(addresses.listeners[0].1).is_err(), "nothing listens any more");
}
