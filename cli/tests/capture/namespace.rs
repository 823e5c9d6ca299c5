//! Network namespaces of the tests: pairs that a veth link connects.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A client's namespace and a server's, each the default route of the other.
pub(crate) struct Pair {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    /// The client's address and the server's.
    pub(crate) addresses: [IpAddr; 2],
}

impl Pair {
    pub(crate) fn new(family: Family, name: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let id = format!("{}{}", std::process::id() % 10_000, NEXT.fetch_add(1, Ordering::Relaxed));
        let client = Namespace::new(format!("otr{name}c{id}"));
        let server = Namespace::new(format!("otr{name}s{id}"));
        let (near, far) = (format!("otrc{id}"), format!("otrs{id}"));
        run(&[
            "ip", "link", "add", &near, "netns", &client.0, "type", "veth", "peer", "name", &far, "netns",
            &server.0,
        ]);
        let (addresses, bits) = match family {
            Family::V4 => (["10.77.0.1", "10.77.0.2"], 24),
            Family::V6 => (["fd77::1", "fd77::2"], 64),
        };
        let [here, there] = addresses;
        for (namespace, link, own, other) in [(&client, &near, here, there), (&server, &far, there, here)] {
            namespace.run(&["ip", "link", "set", "lo", "up"]);
            let own = format!("{own}/{bits}");
            let mut add = vec!["ip", "address", "add", &own, "dev", link];
            if family == Family::V6 {
                add.push("nodad");
            }
            namespace.run(&add);
            namespace.run(&["ip", "link", "set", link, "up"]);
            let flag = if family == Family::V4 { "-4" } else { "-6" };
            namespace.run(&["ip", flag, "route", "add", "default", "via", other]);
        }
        Self { client, server, addresses: addresses.map(|address| address.parse().unwrap()) }
    }
}

/// A network namespace of our own; deleted, with all that is in it, when dropped.
pub(crate) struct Namespace(pub(crate) String);

impl Namespace {
    fn new(name: String) -> Self {
        run(&["ip", "netns", "add", &name]);
        Self(name)
    }

    /// Runs a command in it. Panics if the command fails.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        self.try_run(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Runs a command in it and returns its output, or what it prints on stderr if it fails.
    pub(crate) fn try_run(&self, command: &[&str]) -> Result<String, String> {
        let enter = self.enter();
        try_run(&[&enter.each_ref().map(String::as_str), command].concat())
    }

    /// Returns the first words of a command line that runs in it.
    pub(crate) fn enter(&self) -> [String; 3] {
        ["nsenter".to_owned(), format!("--net={}", self.path()), "--".to_owned()]
    }

    /// Returns the body of a page. Returns None if the request fails.
    pub(crate) fn get(&self, url: &str) -> Option<String> {
        self.try_run(&["curl", "-sf", "-m", "5", url]).ok()
    }

    /// Returns its file, by which it is entered. Panics if that is the namespace of this process: a redirection there would cut
    /// off the machine.
    pub(crate) fn path(&self) -> String {
        let path = format!("/run/netns/{}", self.0);
        let inode = |path: &str| std::fs::metadata(path).unwrap().ino();
        assert_ne!(inode(&path), inode("/proc/self/ns/net"), "{path} is the machine's own namespace");
        path
    }

    /// Runs `work` in a thread in it.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(self.path()).unwrap();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn run(command: &[&str]) {
    try_run(command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
}

fn try_run(command: &[&str]) -> Result<String, String> {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
