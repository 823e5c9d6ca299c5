//! Changes the endpoints of a running proxy, or the services beside it, in the way that its users do: files for Outrigger's control plane, a file of
//! endpoints (EDS) for Envoy, commands to HAProxy's socket. Called by the scenario of changing endpoints.
//!
//! All endpoints are addresses of one application, so that a request to one that was removed a moment ago is answered as well.
//! Each change adds the endpoint that is absent and removes the next one.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outrigger::admin;

use super::Setup;
use crate::mesh::{self, Mesh, USED};

/// How long HAProxy may take for a command.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Ports that the endpoint of another service gets in turn.
const REVISIONS: usize = 1_000;

/// Removes endpoint number `.0` and adds number `.1`.
type Change = dyn Fn(usize, usize) -> Result<(), String> + Send + Sync;

/// The endpoints of one running proxy.
#[derive(Clone)]
pub(in crate::compare) struct Members {
    count: usize,
    /// The number of changes until now.
    made: Arc<AtomicUsize>,
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
    fn new(count: usize, change: Arc<Change>, applied: Option<Counter>) -> Self {
        Self { count, made: Arc::default(), change, applied }
    }

    /// Makes the next change. Blocks. Returns an error if the proxy or the file system refuses it.
    pub(in crate::compare) fn change(&self) -> Result<(), String> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        (self.change)(number % self.count, (number + self.count - 1) % self.count)
    }

    /// Returns how many updates the proxy has had since its start. Returns None if every change is one.
    pub(in crate::compare) async fn applied(&self) -> Result<Option<f64>, String> {
        let Some(counter) = self.applied else { return Ok(None) };
        let page = admin::get(counter.admin, counter.page).await?;
        let page = String::from_utf8_lossy(page.body());
        value(&page, counter.name).map(Some).ok_or_else(|| format!("{}: no {}", counter.page, counter.name))
    }

    /// Slices of `of_slice` endpoints: for a number and the endpoints that are left in it, `slice` returns the name of the file and its text.
    pub(super) fn outrigger(
        mesh: &Mesh<'_>,
        setup: &Setup,
        of_slice: usize,
        slice: impl Fn(usize, &[SocketAddr]) -> (String, String) + Send + Sync + 'static,
    ) -> Self {
        let counter = Counter {
            admin: mesh.client_admin(),
            page: "/metrics",
            name: "outrigger_xds_acks_total{type=\"eds\"} ",
        };
        let (folder, addresses) = (mesh.directory.join("config"), setup.addresses());
        let change = move |absent: usize, back: usize| {
            for number in BTreeSet::from([absent / of_slice, back / of_slice]) {
                let all = addresses.iter().enumerate().skip(number * of_slice).take(of_slice);
                let left: Vec<_> = all.filter(|(at, _)| *at != absent).map(|(_, address)| *address).collect();
                let (name, text) = slice(number, &left);
                replace(&folder.join(format!("{name}.yaml")), &text)?;
            }
            Ok(())
        };
        Self::new(setup.endpoints, Arc::new(change), Some(counter))
    }

    /// Services of a mesh that nobody calls: each change gives the endpoint of one another port.
    pub(super) fn other_services(mesh: &Mesh<'_>, count: usize) -> Self {
        let folder = mesh.directory.join("config");
        let revision = AtomicUsize::new(0);
        let change = move |number: usize, _: usize| {
            let (service, revision) =
                (USED + number, 1 + revision.fetch_add(1, Ordering::Relaxed) % REVISIONS);
            replace(&folder.join(format!("s{service}.yaml")), &mesh::service(service, revision))
        };
        Self::new(count, Arc::new(change), None)
    }

    /// The first version of `file` must be there.
    pub(super) fn envoy(
        file: PathBuf,
        setup: &Setup,
        admin: SocketAddr,
        resource: impl Fn(&[SocketAddr]) -> String + Send + Sync + 'static,
    ) -> Self {
        let (page, name) = ("/stats?filter=cluster.app.update_success", "cluster.app.update_success: ");
        let addresses = setup.addresses();
        let change = move |absent: usize, _: usize| {
            let mut left = addresses.clone();
            left.remove(absent);
            replace(&file, &resource(&left))
        };
        Self::new(setup.endpoints, Arc::new(change), Some(Counter { admin, page, name }))
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
        Self::new(count, Arc::new(change), None)
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

    fn text(addresses: &[SocketAddr]) -> String {
        addresses.iter().map(|at| format!("{at} ")).collect()
    }

    #[test]
    fn each_change_removes_another_endpoint_and_brings_the_last_one_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("app.yaml");
        let setup = Setup { endpoints: 3, ..setup() };
        let members = Members::envoy(file.clone(), &setup, setup.backend, text);
        let hosts = || {
            members.change().unwrap();
            std::fs::read_to_string(&file).unwrap()
        };
        let absent_1 = "127.1.0.2:80 127.1.0.3:80 ";
        assert_eq!(hosts(), absent_1);
        assert_eq!(hosts(), "127.1.0.1:80 127.1.0.3:80 ");
        assert_eq!(hosts(), "127.1.0.1:80 127.1.0.2:80 ");
        assert_eq!(hosts(), absent_1);
        assert_eq!(commands(0, 2), "set server app/s2 state ready; set server app/s0 state maint\n");
    }

    #[test]
    fn a_change_writes_the_slices_of_both_endpoints() {
        let directory = tempfile::tempdir().unwrap();
        let mesh = Mesh::new(Path::new("unused"), directory.path()).unwrap();
        let setup = Setup { endpoints: 3, ..setup() };
        let members = Members::outrigger(&mesh, &setup, 2, |number, left| (number.to_string(), text(left)));
        let slice = |name| std::fs::read_to_string(directory.path().join("config").join(name)).unwrap();
        (0..3).for_each(|_| members.change().unwrap());
        assert_eq!((slice("0.yaml").as_str(), slice("1.yaml").as_str()), ("127.1.0.1:80 127.1.0.2:80 ", ""));
        members.change().unwrap();
        assert_eq!((slice("0.yaml").as_str(), slice("1.yaml").as_str()), ("127.1.0.2:80 ", "127.1.0.3:80 "));
    }

    #[test]
    fn another_service_changes_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let mesh = Mesh::new(Path::new("unused"), directory.path()).unwrap();
        let members = Members::other_services(&mesh, 1);
        let read = || {
            members.change().unwrap();
            std::fs::read_to_string(directory.path().join("config/s5.yaml")).unwrap()
        };
        assert!(read() != read());
    }

    #[test]
    fn counters_are_read_from_pages() {
        let page = "# HELP x\nx{type=\"cds\"} 1\nx{type=\"eds\"} 27\n";
        assert_eq!(value(page, "x{type=\"eds\"} "), Some(27.0));
        assert_eq!(value("cluster.app.update_success: 9\n", "cluster.app.update_success: "), Some(9.0));
        assert_eq!(value(page, "y "), None);
    }
}
