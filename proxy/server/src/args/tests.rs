use clap::{CommandFactory as _, Parser};

use super::*;

#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Command {
    #[command(flatten)]
    args: Args,
}

const NEEDED: [&str; 7] = [
    "outrigger-proxy",
    "--control-plane",
    "localhost:15010",
    "--control-plane-ca",
    "roots.pem",
    "--state-dir",
    "state",
];

fn parse(more: &[&str]) -> Result<Args, String> {
    Command::try_parse_from(NEEDED.iter().chain(more))
        .map(|command| command.args)
        .map_err(|error| error.to_string())
}

#[test]
fn defaults_are_the_documented_ones() {
    let args = parse(&[]).unwrap();
    assert_eq!(args.admin.get().to_string(), "127.0.0.1:15000");
    assert_eq!(args.outbound.unwrap().to_string(), "127.0.0.1:15001");
    assert_eq!(args.mode, Mode::OnDemand);
    assert_eq!(args.workers.get(), 1);
    assert_eq!(args.drain_timeout, Duration::from_secs(30));
    assert_eq!((args.drain_minimum, args.drain_quiet), (Duration::from_secs(5), Duration::from_secs(5)));
    assert_eq!(args.unknown_destination, UnknownDestination::Passthrough);
    assert_eq!(args.access_log, AccessLog::Off);
    assert_eq!(args.trace_sampling, None);
    args.check().unwrap();
}

#[test]
fn every_flag_has_a_heading_and_an_environment_variable_if_it_may_be_given_once() {
    for flag in Command::command().get_arguments() {
        let name = flag.get_long().unwrap();
        assert!(flag.get_help_heading().is_some(), "--{name}");
        let variable = format!("OUTRIGGER_PROXY_{}", name.replace('-', "_").to_uppercase());
        let expected = (!matches!(flag.get_action(), ArgAction::Append)).then_some(variable.as_ref());
        assert_eq!(flag.get_env(), expected, "--{name}");
    }
}

#[test]
fn a_bad_value_is_refused_by_flag_and_value() {
    for (flag, value, problem) in [
        ("--control-plane", "localhost", "HOST:PORT"),
        ("--control-plane", "localhost:0", "port"),
        ("--admin", "0.0.0.0:15000", "loopback"),
        ("--admin", "localhost:15000", "IP:PORT"),
        ("--outbound", "127.0.0.1", "IP:PORT"),
        ("--bind", "127.0.0.1:5000", "IP:PORT=HOST:PORT"),
        ("--bind", "127.0.0.1:5000=stock", "stock"),
        ("--service", "cart:80", "SERVICE[:PORT]=IP:PORT"),
        ("--service", "cart:80=8080", "IP:PORT"),
        ("--service", "cart:80=127.0.0.1:8080,protocol=carrier-pigeon", "http, http2, grpc or tcp"),
        ("--service", "cart:80=127.0.0.1:8080,color=red", "color"),
        ("--service", "Cart!:80=127.0.0.1:8080", "Cart!"),
        ("--label", "version", "KEY=VALUE"),
        ("--label", "a/b/c=v2", "letters"),
        ("--label", "version=v 2", "letters"),
        ("--workers", "0", "between 1 and 256"),
        ("--workers", "many", "not a number"),
        ("--mode", "telepathy", "on-demand"),
        ("--drain-timeout", "soon", "30s"),
        ("--drain-timeout", "-3s", "negative"),
        ("--drain-minimum", "later", "30s"),
        ("--drain-quiet", "-1s", "negative"),
        ("--trace-sampling", "1.5", "between 0 and 1"),
        ("--trace-sampling", "NaN", "between 0 and 1"),
        ("--instance", "a b", "instance name"),
        ("--trust-domain", "UPPER", "UPPER"),
        ("--log", "outrigger=shout", "no level"),
        ("--log", "inof", "no level"),
        ("--log-format", "xml", "json"),
        ("--unknown-destination", "guess", "passthrough"),
        ("--access-log", "", "stdout"),
        ("--app-probes", "{", "EOF"),
        ("--pod-ip", "web", "IP"),
    ] {
        // `=`, so that a value with a dash is not taken for a flag
        let error = parse(&[&format!("{flag}={value}")]).expect_err(&format!("{flag} {value}"));
        assert!(error.contains(flag), "{flag} {value}: {error}");
        assert!(error.contains(value), "{flag} {value}: {error}");
        assert!(error.contains(problem), "{flag} {value}: wanted `{problem}` in: {error}");
    }
}

#[test]
fn a_service_needs_an_inbound_address() {
    let args = parse(&["--service", "cart=127.0.0.1:8080"]).unwrap();
    let error = args.check().unwrap_err().to_string();
    assert!(error.starts_with("--service cart:80=127.0.0.1:8080: needs"), "{error}");
    let transparent = ["--service", "cart=127.0.0.1:8080", "--transparent-inbound", "0.0.0.0:15006"];
    parse(&transparent).unwrap().check().unwrap();
}

#[test]
fn an_address_named_twice_is_refused() {
    let twice = ["--bind", "127.0.0.1:15001=stock.shop:9000"];
    let error = parse(&twice).unwrap().check().unwrap_err().to_string();
    assert_eq!(error, "--bind 127.0.0.1:15001: another flag names the same address");
}

#[test]
fn redirected_connections_may_have_the_default_address() {
    let redirected = ["--transparent-outbound", "127.0.0.1:15001"];
    let args = parse(&redirected).unwrap();
    args.check().unwrap();
    assert_eq!(args.outbound, None);
    let both = parse(&[&redirected[..], &["--outbound", "127.0.0.1:15002"]].concat()).unwrap();
    assert_eq!(both.outbound.unwrap().to_string(), "127.0.0.1:15002");
}

#[test]
fn labels_are_pairs_each_key_once() {
    let args = parse(&["--label", "version=v2", "--label", "topology.kubernetes.io/zone=eu-1a"]).unwrap();
    assert_eq!(args.label[0], ("version".to_owned(), "v2".to_owned()));
    args.check().unwrap();
    let error = parse(&["--label", "a=1", "--label", "a=2"]).unwrap().check().unwrap_err();
    assert_eq!(error.to_string(), "--label a=2: another flag sets the same label");
}

#[test]
fn services_share_an_inbound_address_only_for_one_application() {
    let first = "cart:80=127.0.0.1:8080,listen=127.0.0.1:9080";
    let same = "basket:80=127.0.0.1:8080,listen=127.0.0.1:9080";
    let other = "basket:80=127.0.0.1:8081,listen=127.0.0.1:9080";
    parse(&["--service", first, "--service", same]).unwrap().check().unwrap();
    let error = parse(&["--service", first, "--service", other]).unwrap().check().unwrap_err();
    assert!(error.to_string().contains("another application"), "{error}");
    assert!(parse(&["--service", first, "--service", first]).unwrap().check().is_err());
}

#[test]
fn an_instance_without_a_name_gets_one_of_host_and_process() {
    let name = parse(&[]).unwrap().instance_name();
    assert!(name.ends_with(&std::process::id().to_string()) && parse_instance(&name).is_ok(), "{name}");
}

#[test]
fn probes_of_the_application_need_an_address_and_a_port() {
    let probes = ["--app-probes", r#"{"/p": {"tcpSocket": {"port": 80}, "timeoutSeconds": 1}}"#];
    let error = parse(&probes).unwrap_err();
    assert!(error.contains("--pod-ip") && error.contains("--metrics-listen"), "{error}");
    let with = [&probes[..], &["--pod-ip", "10.0.0.7", "--metrics-listen", "0.0.0.0:15020"]].concat();
    assert!(parse(&with).unwrap().app_probes.is_some());
}
