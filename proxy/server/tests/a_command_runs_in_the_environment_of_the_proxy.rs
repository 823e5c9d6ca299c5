//! A lifecycle hook runs a command in the container of the proxy, where the flags of the proxy are environment variables.

use std::process::Command;

#[test]
fn flags_of_the_proxy_in_the_environment_do_not_disturb_a_command() {
    let probes = r#"{"/p": {"tcpSocket": {"port": 80}, "timeoutSeconds": 1}}"#;
    for (command, arguments) in [("drain", &[][..]), ("wait", &["--timeout=0s"])] {
        let output = Command::new(env!("CARGO_BIN_EXE_outrigger-proxy"))
            .arg(command)
            .args(arguments)
            .envs([("OUTRIGGER_PROXY_ADMIN", "127.0.0.1:1"), ("OUTRIGGER_PROXY_INSTANCE", "web-1")])
            .envs([("OUTRIGGER_PROXY_POD_IP", "10.0.0.7"), ("OUTRIGGER_PROXY_APP_PROBES", probes)])
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("outrigger-proxy: no proxy at 127.0.0.1:1 "), "{command}: {error}");
        assert_eq!(output.status.code(), Some(1));
    }
}
