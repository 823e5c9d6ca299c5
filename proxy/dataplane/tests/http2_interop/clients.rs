//! The checks: commands of the clients, and what they must print.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::Fronts;
use crate::programs::{LARGE, LARGE_BYTES};

/// Longer than any command takes, in seconds.
const DEADLINE: &str = "60";

/// The outcomes so far.
#[derive(Default)]
pub(crate) struct Checks {
    passed: usize,
    failed: Vec<String>,
}

/// What a command has printed, and whether it has succeeded.
struct Printed {
    out: Vec<u8>,
    text: String,
    errors: String,
    success: bool,
}

fn run(command: &[String]) -> Printed {
    let output = Command::new("timeout").arg(DEADLINE).args(command).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Printed {
        text: text(&output.stdout),
        errors: text(&output.stderr),
        success: output.status.success(),
        out: output.stdout,
    }
}

impl Checks {
    /// Counts a check.
    fn check(&mut self, what: String, error: Option<String>) {
        match error {
            None => self.passed += 1,
            Some(error) => self.failed.push(format!("{what}: {error}")),
        }
    }

    /// Runs a command that makes many checks and prints a line for each, `ok NAME` or `FAILED NAME: WHY`.
    pub(crate) fn lines(&mut self, client: &str, command: &[String]) {
        let printed = run(command);
        let mut lines = 0;
        for line in printed.text.lines() {
            lines += 1;
            let failed = line.strip_prefix("ok ").is_none().then(|| line.to_owned());
            self.check(client.to_owned(), failed);
        }
        if lines == 0 || (!printed.success && !printed.text.contains("FAILED")) {
            self.check(client.to_owned(), Some(format!("it ended after {lines} checks: {}", printed.errors)));
        }
    }

    /// Runs one command, which must succeed, and whose output `fits`.
    fn command(&mut self, what: &str, command: &str, fits: impl Fn(&[u8], &str) -> bool) {
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let printed = run(&command);
        let fine = printed.success && fits(&printed.out, &printed.text);
        let shown: String = printed.text.chars().take(2000).collect();
        let error = (!fine).then(|| format!("{}\n{shown}\n{}", command.join(" "), printed.errors));
        self.check(format!("{} {what}", command[0]), error);
    }

    pub(crate) fn nghttp(&mut self, fronts: &Fronts, files: &Path) {
        let large = files.join(LARGE);
        let (large, size) = (large.display(), LARGE_BYTES);
        let (nghttpd, go) = (fronts.nghttpd, fronts.go);
        // With -v, nghttp prints each frame and field.
        let has = |parts: &'static [&'static str]| {
            move |_: &[u8], text: &str| parts.iter().all(|part| text.contains(part))
        };
        for (what, options) in [
            ("GET", ""),
            ("GET with CONTINUATION frames", "--continuation"),
            ("GET with padding", "--padding=200"),
            ("GET with a small table", "--header-table-size=0"),
            ("GET with a changed table", "-c 64 -c 16384"),
            ("GET with the narrowest window", "--window-bits=4"),
            ("GET with a priority", "-H priority:u=0"),
        ] {
            let fits = has(&[":status: 200", "x-end: yes", "END_STREAM"]);
            self.command(what, &format!("nghttp -nv {options} http://{nghttpd}/"), fits);
        }
        self.command(
            "HEAD",
            &format!("nghttp -nv -H :method:HEAD http://{nghttpd}/{LARGE}"),
            move |_, text| text.contains(&format!("content-length: {size}")) && !text.contains("recv DATA"),
        );
        let modified = "-H if-modified-since:Fri,31-Dec-2100";
        self.command(
            "GET of what is there already",
            &format!("nghttp -nv http://{go}/status/304"),
            has(&[":status: 304"]),
        );
        self.command(
            "GET with another field",
            &format!("nghttp -nv {modified} http://{go}/"),
            has(&[":status: 200"]),
        );
        self.command(
            "GET with 103",
            &format!("nghttp -nv http://{go}/early"),
            has(&[":status: 103", ":status: 200"]),
        );
        self.command(
            "100 GETs at a time",
            &format!("nghttp -ns -m 100 http://{nghttpd}/{LARGE}"),
            |_, text| text.lines().filter(|line| line.contains(" 200 ")).count() == 100,
        );
        for (what, options) in [
            ("POST", ""),
            ("POST with padding", "--padding=100"),
            ("POST with 100-continue", "--expect-continue"),
            ("POST with trailers", "--trailer=x-check:sum"),
            ("POST without content-length", "--no-content-length"),
        ] {
            let echoed = std::fs::read(files.join(LARGE)).unwrap();
            let fits = move |out: &[u8], _: &str| out == echoed;
            self.command(what, &format!("nghttp {options} -d {large} http://{nghttpd}/echo"), fits);
        }
        let trailers = has(&["x-echo-x-check: sum", "x-length: 3145728"]);
        self.command(
            "trailers in both directions",
            &format!("nghttp -nv --trailer=x-check:sum -d {large} http://{go}/echo"),
            trailers,
        );
    }

    pub(crate) fn h2load(&mut self, fronts: &Fronts, files: &Path) {
        let large = files.join(LARGE);
        let large = large.display();
        let (nghttpd, go) = (fronts.nghttpd, fronts.go);
        for (what, requests, options) in [
            ("1000 GETs one after another", 1000, format!("-c1 -m1 http://{go}/")),
            ("5000 GETs, 100 at a time", 5000, format!("-c1 -m100 http://{go}/")),
            (
                "5000 GETs, 100 at a time on each of 5 connections",
                5000,
                format!("-c5 -m100 http://{nghttpd}/"),
            ),
            ("100 GETs of a large file", 100, format!("-c2 -m50 http://{nghttpd}/{LARGE}")),
            ("60 POSTs of a large file", 60, format!("-c2 -m30 -d {large} http://{nghttpd}/echo")),
            ("GETs with narrow windows", 50, format!("-c2 -m10 -w10 -W10 http://{nghttpd}/{LARGE}")),
        ] {
            let succeeded = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
            let fits = move |_: &[u8], text: &str| {
                text.contains(&succeeded) && text.contains(&format!("status codes: {requests} 2xx"))
            };
            self.command(what, &format!("h2load -n {requests} {options}"), fits);
        }
    }

    pub(crate) fn curl(&mut self, fronts: &Fronts, files: &Path) {
        let large = files.join(LARGE);
        let echoed = std::fs::read(&large).unwrap();
        let large = large.display();
        let (nghttpd, go) = (fronts.nghttpd, fronts.go);
        let curl = "curl -sS --http2-prior-knowledge";
        let is = |body: &'static str| move |out: &[u8], _: &str| out == body.as_bytes();
        self.command("GET", &format!("{curl} http://{go}/"), is("GET HTTP/2.0"));
        self.command("DELETE", &format!("{curl} -X DELETE http://{go}/"), is("DELETE HTTP/2.0"));
        let (one, two, three) = (echoed.clone(), echoed.clone(), echoed);
        self.command(
            "POST",
            &format!("{curl} --data-binary @{large} http://{nghttpd}/echo"),
            move |out, _| out == one,
        );
        self.command(
            "POST with 100-continue",
            &format!("{curl} -H Expect:100-continue --data-binary @{large} http://{go}/echo"),
            move |out, _| out == two,
        );
        self.command("PUT of unknown length", &format!("{curl} -T - http://{go}/sink"), is("0"));
        self.command("PUT", &format!("{curl} -T {large} http://{nghttpd}/echo"), move |out, _| out == three);
        self.command("HEAD", &format!("{curl} -I http://{go}/length"), |_, text| {
            text.starts_with("HTTP/2 200") && text.contains("content-length: 12345")
        });
        let status = |status| move |_: &[u8], text: &str| text.ends_with(status);
        for (what, path, expected) in [("304", "304", "304"), ("204", "204", "204"), ("404", "404", "404")] {
            let command = format!("{curl} -o /dev/null -w %{{http_code}} http://{go}/status/{path}");
            self.command(what, &command, status(expected));
        }
        self.command("103", &format!("{curl} -i http://{go}/early"), |_, text| {
            text.matches("HTTP/2 103").count() == 3 && text.ends_with("late")
        });
        self.command("trailers", &format!("{curl} -i -d body http://{go}/echo"), |_, text| {
            text.contains("x-length: 4") && text.contains("body")
        });
        self.command("an offer of h2c", &format!("curl -sS --http2 http://{go}/"), is("GET HTTP/2.0"));
        self.command(
            "HTTP/1.1 in front of HTTP/2",
            &format!("curl -sS --http1.1 http://{go}/"),
            is("GET HTTP/2.0"),
        );
    }

    /// Prints the count. Returns what failed.
    pub(crate) fn finish(self) -> Vec<String> {
        println!("{} of {} checks passed", self.passed, self.passed + self.failed.len());
        self.failed
    }
}
