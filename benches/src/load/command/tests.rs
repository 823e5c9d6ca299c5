use clap::Parser;

use super::*;
use crate::backend::{self, Service};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: LoadArgs,
}

/// Runs the command with `line`. Returns its results as JSON, and the page.
async fn run_with(line: &str) -> (serde_json::Value, String) {
    let directory = tempfile::tempdir().unwrap();
    let [json, html, svg] = ["json", "html", "svg"].map(|name| directory.path().join(name));
    let files = [("--json", &json), ("--html", &html), ("--svg", &svg)];
    let files = files.iter().flat_map(|(flag, file)| [(*flag).to_owned(), file.display().to_string()]);
    let words = ["load", "--plain"].into_iter().chain(line.split_whitespace()).map(str::to_owned);
    run(Cli::try_parse_from(words.chain(files)).unwrap().args).await.unwrap();
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
    let json = std::fs::read_to_string(json).unwrap();
    (serde_json::from_str(&json).unwrap(), std::fs::read_to_string(html).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_protocol_is_counted_exactly_by_the_command() {
    for (service, line) in [
        (Service::Http1 { size: 300 }, "http://ADDRESS/ --expect-size 300"),
        (Service::Http1 { size: 300 }, "http://ADDRESS/ -b 100KiB -X PUT -H a:b --expect-size 300"),
        (Service::Http2 { size: 300, trailers: true }, "http://ADDRESS/ --http2 -s 3 --expect-trailers"),
        (Service::Grpc, "grpc://ADDRESS/shop.Cart/Get -s 3 -b 64 --expect-size 64"),
        (Service::Grpc, "grpc://ADDRESS/shop.Cart/Watch -s 3 -b 64 --expect-size 64 --grpc-stream 7"),
        (Service::Grpc, "grpc://ADDRESS/shop.Cart/Watch --grpc-stream 0 -b 2MiB --expect-size 2MiB"),
        (Service::WebSocket, "ws://ADDRESS/chat -b 50 --expect-size 50"),
        (Service::TcpEcho, "tcp://ADDRESS -b 3MiB"),
        (Service::TcpSink, "tcp://ADDRESS -b 1KiB --expect-size 0"),
    ] {
        let address = backend::start(service).unwrap().to_string();
        let line = format!("{} -n 60 -c 3 -t 2 --warm-up 0s", line.replace("ADDRESS", &address));
        let (json, page) = run_with(&line).await;
        assert_eq!((&json["answered"], &json["failed"]), (&60.into(), &0.into()), "{line}: {json:#}");
        assert!(page.contains("answered           60"), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_answers_are_reported_by_kind() {
    let address = backend::start(Service::Http1 { size: 300 }).unwrap();
    let (json, _) = run_with(&format!("http://{address}/ -n 20 -c 2 --expect-size 299 --warm-up 0s")).await;
    assert_eq!(json["failures"]["300 bytes instead of 299"], 20);
    let (json, _) = run_with(&format!("http://{address}/ -n 20 -c 2 --expect-status 404 --warm-up 0s")).await;
    assert_eq!(json["failures"]["status 200"], 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_an_error() {
    let args = ["load", "--plain", "http://127.0.0.1:1/"];
    let error = run(Cli::try_parse_from(args).unwrap().args).await.unwrap_err();
    assert_eq!(error, "127.0.0.1:1: cannot connect: connection refused");
}
