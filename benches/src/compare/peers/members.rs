//! Changes the endpoints of a running proxy in the way that its users do: files for Outrigger's control plane, a file of
//! endpoints (EDS) for Envoy, commands to HAProxy's socket. Called by the scenario of changing endpoints.
//!
//! All endpoints are addresses of one application, so that a request to one that was removed a moment ago is answered as well.
//! Each change adds the endpoint that is absent and removes the next one.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outrigger::admin;

use super::Setup;
use crate::mesh::Mesh;

/// How long HAProxy may take for a command.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Removes endpoint number `.0` and adds number `.1`.
type Change = dyn Fn(usize, usize) -> Result<(), String> + Send + Sync;

/// The endpoints of one running proxy.
#[derive(Clone)]
pub(in crate::compare) struct Members {
    count: usize,
    change: Arc<Change>,
    applied: Option<Counter>,
}

/// Where a proxy reports how often its endpoints were updated.
#[derive(Debug, Clone, Copy)]
struct Counter {
    admin: SocketAddr,
    page: &'static str,
    /// The counter's name, and what is between it and its value.
    name: &'static str,
}

impl Members {
    /// Makes change number `number` (from 0). Blocks. Returns an error if the proxy or the file system refuses it.
    pub(in crate::compare) fn change(&self, number: usize) -> Result<(), String> {
        (self.change)(number % self.count, (number + self.count - 1) % self.count)
    }

    /// Returns how many updates the proxy has had since its start. Returns None if every change is one.
    pub(in crate::compare) async fn applied(&self) -> Result<Option<f64>, String> {
        let Some(counter) = self.applied else { return Ok(None) };
        let page = admin::get(counter.admin, counter.page).await?;
        let page = String::from_utf8_lossy(page.body());
        value(&page, counter.name).map(Some).ok_or_else(|| format!("{}: no {}", counter.page, counter.name))
    }

    pub(super) fn outrigger(
        mesh: &Mesh<'_>,
        setup: &Setup,
        yaml: impl Fn(&[SocketAddr]) -> String + Send + Sync + 'static,
    ) -> Self {
        let counter = Counter {
            admin: mesh.client_admin(),
            page: "/metrics",
            name: "outrigger_xds_acks_total{type=\"eds\"} ",
        };
        Self::files(mesh.directory.join("config/app.yaml"), setup, Some(counter), yaml)
    }

    /// The first version of `file` must be there.
    pub(super) fn envoy(
        file: PathBuf,
        setup: &Setup,
        admin: SocketAddr,
        resource: impl Fn(&[SocketAddr]) -> String + Send + Sync + 'static,
    ) -> Self {
        let (page, name) = ("/stats?filter=cluster.app.update_success", "cluster.app.update_success: ");
        Self::files(file, setup, Some(Counter { admin, page, name }), resource)
    }

    fn files(
        file: PathBuf,
        setup: &Setup,
        applied: Option<Counter>,
        text: impl Fn(&[SocketAddr]) -> String + Send + Sync + 'static,
    ) -> Self {
        let addresses = setup.addresses();
        let change = move |absent: usize, _: usize| {
            let mut left = addresses.clone();
            left.remove(absent);
            replace(&file, &text(&left))
        };
        Self { count: setup.endpoints, change: Arc::new(change), applied }
    }

    /// Servers `s0` and so on of the backend `app`.
    pub(super) fn haproxy(socket: PathBuf, count: usize) -> Self {
        let change = move |absent: usize, back: usize| {
            let text = |error: std::io::Error| format!("{}: {error}", socket.display());
            let mut stream = UnixStream::connect(&socket).map_err(text)?;
            stream.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
            stream.write_all(commands(absent, back).as_bytes()).map_err(text)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map_err(text)?;
            match answer.trim() {
                "" => Ok(()),
                refusal => Err(format!("HAProxy refuses a change: {refusal}")),
            }
        };
        Self { count, change: Arc::new(change), applied: None }
    }
}

fn commands(absent: usize, back: usize) -> String {
    format!("set server app/s{back} state ready; set server app/s{absent} state maint\n")
}

/// The value of a counter in lines of text.
fn value(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)).and_then(|value| value.trim().parse().ok())
}

/// Replaces a file atomically, so that it is never read half written.
fn replace(file: &Path, text: &str) -> Result<(), String> {
    let beside = file.with_extension("new");
    let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, file));
    written.map_err(|error| format!("cannot write {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::setup;
    use super::*;

    #[test]
    fn each_change_removes_another_endpoint_and_brings_the_last_one_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("app.yaml");
        let setup = Setup { endpoints: 3, ..setup() };
        let members = Members::files(file.clone(), &setup, None, |left| {
            left.iter().map(|at| format!("{at} ")).collect()
        });
        let hosts = |number| {
            members.change(number).unwrap();
            std::fs::read_to_string(&file).unwrap()
        };
        assert_eq!(hosts(0), "127.1.0.2:80 127.1.0.3:80 ");
        assert_eq!(hosts(1), "127.1.0.1:80 127.1.0.3:80 ");
        assert_eq!(hosts(5), "127.1.0.1:80 127.1.0.2:80 ");
        assert_eq!(commands(0, 2), "set server app/s2 state ready; set server app/s0 state maint\n");
    }

    #[test]
    fn counters_are_read_from_pages() {
        let page = "# HELP x\nx{type=\"cds\"} 1\nx{type=\"eds\"} 27\n";
        assert_eq!(value(page, "x{type=\"eds\"} "), Some(27.0));
        assert_eq!(value("cluster.app.update_success: 9\n", "cluster.app.update_success: "), Some(9.0));
        assert_eq!(value(page, "y "), None);
    }
}
