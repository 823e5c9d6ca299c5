//! The commands of the README's quickstart, with other ports and directories, and what a person reads of the mesh that they
//! start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use outrigger::ports;

/// A shell that runs the commands and ends their processes when it is dropped.
struct Quickstart {
    shell: Child,
    environment: Vec<(&'static str, String)>,
    outbound: String,
    directory: tempfile::TempDir,
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        // The shell waits for the end of its input.
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

impl Quickstart {
    fn start() -> Self {
        let [listen, admin, proxy_admin, outbound, application, inbound] =
            ports::free().unwrap().map(|address| address.to_string());
        let directory = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
        let block = readme.split("```sh\n").find(|block| block.contains("outrigger token create")).unwrap();
        let block = block.split("```").next().unwrap().replace("\\\n", " ");
        let mut script = String::from("set -e\npids=\ntrap 'kill $pids' EXIT\n");
        for line in block.lines().filter(|line| !line.starts_with("curl")) {
            let line = match line.starts_with("python3") {
                true => "outrigger sample catalog --listen 127.0.0.1:8080 &",
                false => line,
            };
            script.push_str(&line.replace(" &", " 2>> /tmp/outrigger/log &"));
            script.push_str(if line.ends_with('&') { "\npids=\"$pids $!\"\n" } else { "\n" });
        }
        script.push_str("echo started\nread end\n");
        let directory_text = directory.path().to_str().unwrap();
        let replaced = [
            ("/tmp/outrigger", directory_text),
            ("127.0.0.1:15010", &listen),
            ("127.0.0.1:15001", &outbound),
            ("127.0.0.1:18080", &inbound),
            ("127.0.0.1:8080", &application),
        ];
        let script = replaced.iter().fold(script, |script, (from, to)| script.replace(from, to));
        let path = Path::new(env!("CARGO_BIN_EXE_outrigger")).parent().unwrap();
        let environment = vec![
            ("PATH", format!("{}:/usr/bin:/bin", path.display())),
            ("OUTRIGGER_LISTEN", listen),
            ("OUTRIGGER_ADMIN", admin),
            ("OUTRIGGER_PROXY_ADMIN", proxy_admin),
            ("OUTRIGGER_PROXY_OUTBOUND", outbound.clone()),
        ];
        let mut shell = Command::new("sh")
            .args(["-c", &script])
            .current_dir(root)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started = Self { shell, environment, outbound, directory };
        let log = || std::fs::read_to_string(started.directory.path().join("log")).unwrap_or_default();
        assert_eq!(line, "started\n", "{}", log());
        started
    }

    fn command(&self, args: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .args(args.split(' '))
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap()
    }

    /// Runs `outrigger <args>` and returns what it prints.
    fn outrigger(&self, args: &str) -> String {
        let output = self.command(args);
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `outrigger <args>`, which fails, and returns the error.
    fn refused(&self, args: &str) -> String {
        let output = self.command(args);
        assert_eq!(output.status.code(), Some(1), "{args}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Returns the value of a variable of the mesh.
    fn variable(&self, name: &str) -> &str {
        &self.environment.iter().find(|(other, _)| *other == name).unwrap().1
    }

    /// Sends a request as the last command does. Repeats it until there is a 200, as `curl --retry` does.
    fn call(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut stream = TcpStream::connect(&self.outbound).unwrap();
            let request = "GET http://hello/items HTTP/1.1\r\nhost: hello\r\nconnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            match answer.starts_with("HTTP/1.1 200") {
                true => return,
                false => assert!(Instant::now() < deadline, "{answer}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn the_quickstart_of_the_readme_starts_a_mesh_that_every_command_can_read() {
    let mesh = Quickstart::start();
    mesh.call();

    let status = mesh.outrigger("status");
    let row =
        status.lines().find(|line| line.contains("spiffe://cluster.local/ns/default/sa/hello")).unwrap();
    let version = concat!("outrigger ", env!("CARGO_PKG_VERSION"));
    assert!(row.contains(version) && row.contains("SYNCED") && row.contains(" in 2"), "{status}");
    let hidden = mesh.outrigger("status -n elsewhere");
    assert!(!hidden.contains("sa/hello"), "{hidden}");
    let json: serde_json::Value = serde_json::from_str(&mesh.outrigger("status -o json")).unwrap();
    assert_eq!(json["registrations"][0]["serves"].as_array().unwrap().len(), 1);
    let history = mesh.outrigger("history -o yaml");
    assert!(history.contains("Service default/hello added"), "{history}");
    let versions = mesh.outrigger("version");
    assert!(versions.contains("proxies") && versions.matches(version).count() == 3, "{versions}");

    let service = "hello.default.svc.cluster.local:80";
    for (what, filters, shown) in [
        ("listeners", "--name hello", "hello:80"),
        ("listeners", "--name inbound", "inbound|"),
        ("routes", "-n default --port 80", "  default\n"),
        ("clusters", "-n default -o wide", "1/1"),
        ("endpoints", "--name hello -o wide", "spiffe://cluster.local/ns/default/sa/hello"),
    ] {
        let text = mesh.outrigger(&format!("proxy-config {what} {filters}"));
        assert!(text.contains(shown), "{what} {filters}: {text}");
        assert!(text.contains(service), "{what} {filters}: {text}");
        let none = mesh.outrigger(&format!("proxy-config {what} --name no-such-name"));
        assert_eq!(none, "", "{what}");
    }
    let certificates = mesh.outrigger("proxy-config certificates");
    assert!(certificates.contains("sa/hello") && certificates.contains("root"), "{certificates}");

    let (control_plane, proxy) = (mesh.variable("OUTRIGGER_ADMIN"), mesh.variable("OUTRIGGER_PROXY_ADMIN"));
    let swapped = mesh.refused(&format!("status --admin {proxy}"));
    assert!(
        swapped.contains(&format!("http://{proxy} is not the admin address of a control plane")),
        "{swapped}"
    );
    let swapped = mesh.refused(&format!("proxy-config routes --admin {control_plane}"));
    assert!(
        swapped.contains(&format!("http://{control_plane} is not the admin address of a proxy")),
        "{swapped}"
    );
}
