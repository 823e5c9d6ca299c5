//! The processes of a test: a control plane, sidecars, and other programs. Their files are in one directory; a test that fails prints the
//! ends of their logs.

use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

pub(crate) const OUTRIGGER: &str = env!("CARGO_BIN_EXE_outrigger");

/// A control plane and what was started beside it. Dropping it kills all of them.
pub(crate) struct Mesh {
    directory: tempfile::TempDir,
    control_plane: String,
    processes: Vec<(String, Child)>,
}

impl Mesh {
    /// Starts a control plane with a configuration, and waits until it is ready. `within` are the first words of the command line, such
    /// as those of `nsenter`.
    pub(crate) fn start(within: &[&str], listen: SocketAddr, admin: SocketAddr, configuration: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Sidecars that are not root have their files in it.
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let mut mesh = Self { directory, control_plane: listen.to_string(), processes: Vec::new() };
        std::fs::create_dir(mesh.path("config")).unwrap();
        mesh.configure(configuration);
        let [config, state] = ["config", "control-plane"].map(|name| mesh.path(name));
        let command = [
            &["control-plane", "--config", &config, "--state-dir", &state][..],
            &["--listen", &listen.to_string(), "--admin", &admin.to_string()],
        ];
        mesh.outrigger("control-plane", within, &command.concat());
        run(&[OUTRIGGER, "wait", "control-plane", "--state-dir", &state]);
        // The copy has other permissions.
        let roots = std::fs::read(mesh.path("control-plane/roots.pem")).unwrap();
        std::fs::write(mesh.path("roots.pem"), roots).unwrap();
        mesh
    }

    /// Replaces the configuration.
    pub(crate) fn configure(&self, configuration: &str) {
        std::fs::write(self.path("new.yaml"), configuration).unwrap();
        std::fs::rename(self.path("new.yaml"), self.path("config/mesh.yaml")).unwrap();
    }

    /// Starts a sidecar of a service account of the namespace `default`, and waits until it is ready. Its state is in the directory of
    /// that name.
    pub(crate) fn sidecar(&mut self, within: &[&str], account: &str, admin: SocketAddr, flags: &[&str]) {
        let [control_plane_state, state, roots, token] =
            ["control-plane", account, "roots.pem", &format!("{account}.token")].map(|name| self.path(name));
        let create = ["token", "create", "--state-dir", &control_plane_state, "--namespace", "default"];
        let created = run(&[&[OUTRIGGER], &create[..], &["--service-account", account]].concat());
        std::fs::write(&token, created).unwrap();
        let (control_plane, admin) = (self.control_plane.clone(), admin.to_string());
        let command = [
            &["proxy", "--control-plane", &control_plane, "--control-plane-ca", &roots][..],
            &["--token-file", &token, "--state-dir", &state, "--instance", account, "--admin", &admin],
            flags,
        ];
        self.outrigger(account, within, &command.concat());
        run(&[within, &[OUTRIGGER, "wait", "proxy", "--admin", &admin]].concat());
    }

    /// Starts `outrigger`, which ends with this process.
    pub(crate) fn outrigger(&mut self, name: &str, within: &[&str], args: &[&str]) {
        self.spawn(name, &[within, &[OUTRIGGER, "--exit-with-parent"], args].concat());
    }

    /// Starts a program, whose output goes to a log of that name.
    pub(crate) fn spawn(&mut self, name: &str, command: &[&str]) {
        let log = File::options().create(true).append(true).open(self.path(&format!("{name}.log"))).unwrap();
        let child = Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.processes.push((name.to_owned(), child));
    }

    /// Returns the path of a file in the directory.
    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for (name, process) in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
            if std::thread::panicking() {
                let log = self.directory.path().join(format!("{name}.log"));
                let log = std::fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                eprintln!("== {name}\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
            }
        }
    }
}

/// Runs a command to its end and returns its output. Panics if it fails.
fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
