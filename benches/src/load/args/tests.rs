use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: LoadArgs,
}

fn parsed(line: &str) -> Result<Spec, String> {
    let words = std::iter::once("load").chain(line.split_whitespace());
    Cli::try_parse_from(words).map_err(|error| error.to_string())?.args.spec()
}

fn refused(line: &str, why: &str) {
    let error = parsed(line).unwrap_err();
    assert!(error.contains(why), "{line}: {error}");
}

#[test]
fn the_arguments_of_a_simple_test_are_few() {
    let spec = parsed("http://127.0.0.1:8080/items?all").unwrap();
    assert_eq!((spec.address.to_string(), spec.connections, spec.streams), ("127.0.0.1:8080".into(), 32, 1));
    assert_eq!((spec.until, spec.warm_up), (Until::Elapsed(Duration::from_secs(10)), Duration::from_secs(1)));
    let Protocol::Http1(request) = spec.protocol else { panic!("{:?}", spec.protocol) };
    assert_eq!((request.method, request.path.as_str()), (Method::GET, "/items?all"));
    assert!(matches!(spec.pace, Pace::ClosedLoop) && spec.tls.is_none());
}

#[test]
fn every_scheme_has_its_protocol() {
    let of = |line: &str| parsed(line).unwrap().protocol;
    assert!(matches!(of("http://127.0.0.1 --http2 -b 16KiB"), Protocol::Http2(request)
        if request.method == Method::POST && request.body.len() == 16 << 10));
    assert!(matches!(of("grpc://127.0.0.1/a.B/C --grpc-stream 0"), Protocol::Grpc(call)
        if call.messages_per_stream == Some(0) && call.path == "/a.B/C"));
    assert!(
        matches!(of("ws://127.0.0.1/chat -b 9"), Protocol::WebSocket(message) if message.message.len() == 9)
    );
    assert!(matches!(of("tcp://127.0.0.1:9 -b 7"), Protocol::Tcp(transfer) if transfer.receive == 7));
    assert!(
        matches!(of("tcp://127.0.0.1:9 -b 7 --expect-size 0"), Protocol::Tcp(transfer) if transfer.receive == 0)
    );
    let spec = parsed("https://127.0.0.1 --insecure --http2").unwrap();
    assert_eq!(
        (spec.address.port(), &spec.tls.unwrap().config.alpn_protocols[..]),
        (443, &[b"h2".to_vec()][..])
    );
}

#[test]
fn rates_and_ramps_become_schedules() {
    let schedule = |line: &str| match parsed(&format!("http://127.0.0.1 {line}")).unwrap().pace {
        Pace::Rate(schedule) => schedule.stages().to_vec(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(parsed("http://127.0.0.1 --idle").unwrap().pace, Pace::OnceThenIdle));
    assert_eq!(schedule("--rate 50 -d 2s")[0].requests(), 100.0);
    assert_eq!(schedule("--rate 50 --ramp-to 150 -d 2s")[0].requests(), 200.0);
    assert_eq!(schedule("--rate 50 --ramp-to 150 --steps 3 -d 3s").len(), 3);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    refused("ftp://127.0.0.1", "unknown scheme ftp");
    refused("127.0.0.1:80", "begins with http://");
    refused("tcp://127.0.0.1 -b 5", "needs a port");
    refused("tcp://127.0.0.1:5", "needs --body-size");
    refused("http://127.0.0.1 -b 5X", "5X");
    refused("http://127.0.0.1 -d 5", "5");
    refused("http://127.0.0.1 --rate 0", "greater than 0");
    refused("http://127.0.0.1 --steps 4", "--ramp-to");
    refused("http://127.0.0.1 --streams 2", "only HTTP/2");
    refused("http://127.0.0.1 --expect-trailers", "needs --http2");
    refused("http://127.0.0.1 --insecure", "has no TLS");
    refused("http://127.0.0.1 -H a", "name: value");
    refused("http://127.0.0.1 -H connection:close", "set by the load test");
    refused("http://127.0.0.1 --grpc-stream 5", "for grpc://");
    refused("ws://127.0.0.1 -X PUT", "for http://");
    refused("grpc://127.0.0.1/method", "/package.Service/Method");
    refused("http://127.0.0.1 --body-file /does/not/exist", "/does/not/exist");
    refused("http://127.0.0.1 -n 0", "duration or a number");
    refused("http://no-such-host.invalid", "no-such-host.invalid");
    refused("https://127.0.0.1 --ca-cert /does/not/exist", "/does/not/exist");
}

#[test]
fn a_message_has_the_size_that_was_asked_for() {
    for size in (2..400).chain([16_383, 16_384, 16_386, 16_387, 70_000]) {
        let message = message(size).unwrap();
        assert_eq!((message.len(), message[0]), (size, 0x0a));
        let (mut length, mut at) = (0, 1);
        loop {
            length |= usize::from(message[at] & 0x7f) << (7 * (at - 1));
            at += 1;
            if message[at - 1] & 0x80 == 0 {
                break;
            }
        }
        assert_eq!(at + length, size);
    }
    assert!(message(0).unwrap().is_empty() && message(1).is_err());
}

/// Every example of the page is parsed; hosts are not looked up.
#[test]
fn the_examples_of_the_page_are_accepted() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/load-testing.md");
    let page = std::fs::read_to_string(page).unwrap();
    let examples: Vec<_> = page.lines().filter_map(|line| line.split_once(" -- load ")).collect();
    assert!(examples.len() >= 8, "{examples:?}");
    for (_, line) in examples {
        let parsed = Cli::try_parse_from(std::iter::once("load").chain(line.split_whitespace())).unwrap();
        let scheme = parsed.args.url.scheme_str().unwrap();
        parsed.args.protocol(scheme).unwrap();
        parsed.args.pace().unwrap();
    }
}
