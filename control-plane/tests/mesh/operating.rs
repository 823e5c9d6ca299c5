//! Operator actions: a file is removed, the store or the roots are lost, a CA is supplied.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use outrigger_control_plane::ca::issuer::CertificateIssuer;
use outrigger_control_plane::run::control_plane::ControlPlane;
use outrigger_control_plane::run::settings::IssuerFiles;
use outrigger_core::identity::TrustDomain;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::harness::{Mesh, settings, subscribe};

/// Stops a control plane, changes its state directory, starts it again, and returns the result.
async fn start_after(
    mesh: Mesh,
    change: impl FnOnce(&Path),
) -> (tempfile::TempDir, Result<ControlPlane, String>) {
    let state = mesh.state();
    let Mesh { directory, control_plane } = mesh;
    control_plane.shut_down().await;
    change(&state);
    let started = ControlPlane::start(settings(directory.path())).await;
    (directory, started.map_err(|error| error.to_string()))
}

fn remove(file: &'static str) -> impl FnOnce(&Path) {
    move |state| std::fs::remove_file(state.join(file)).unwrap()
}

#[tokio::test]
async fn a_root_that_workloads_trust_is_not_replaced_by_accident() {
    let other = Mesh::start().await;
    let foreign = other.state();
    other.control_plane.shut_down().await;
    type Change = Box<dyn FnOnce(&Path)>;
    let stores: [(&str, Change, &str); 4] = [
        ("gone", Box::new(remove("state.redb")), "has no key of theirs"),
        ("empty", Box::new(|state| std::fs::write(state.join("state.redb"), "").unwrap()), "state.redb"),
        (
            "damaged",
            Box::new(|state| std::fs::write(state.join("state.redb"), [7; 10_000]).unwrap()),
            "state.redb",
        ),
        (
            "of another control plane",
            Box::new(move |state| {
                std::fs::copy(foreign.join("state.redb"), state.join("state.redb")).map(drop).unwrap();
            }),
            "names another root",
        ),
    ];
    for (store, change, says) in stores {
        let (directory, started) = start_after(Mesh::start().await, change).await;
        let refused = started.map(drop).unwrap_err();
        assert!(refused.contains(says) && !refused.contains('\n'), "{store}: {refused}");
        // The second attempt fails in the same way: the first left no new store behind.
        let again = ControlPlane::start(settings(directory.path())).await.unwrap_err().to_string();
        assert_eq!(again, refused, "{store}");
    }
}

#[tokio::test]
async fn without_state_a_new_ca_is_made_and_missing_roots_alone_are_restored() {
    let root = |state: &Path| std::fs::read(state.join("roots.pem")).unwrap();
    let mesh = Mesh::start().await;
    let first = root(&mesh.state());
    let (directory, started) = start_after(mesh, remove("roots.pem")).await;
    let state = directory.path().join("state");
    assert_eq!(root(&state), first);
    let mesh = Mesh { directory, control_plane: started.unwrap() };
    let afresh = |state: &Path| ["state.redb", "roots.pem"].into_iter().for_each(|file| remove(file)(state));
    let (_directory, started) = start_after(mesh, afresh).await;
    started.unwrap();
    assert_ne!(root(&state), first);
}

#[tokio::test]
async fn the_resources_of_a_removed_file_are_removed() {
    let mesh = Mesh::start().await;
    let joined = mesh.join().await;
    let mut answers = subscribe(mesh.connect(Some(&joined)).await.unwrap(), &["cart:80"]).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().resources[0].name, "cart:80");
    std::fs::remove_file(mesh.directory.path().join("config/shop.yaml")).unwrap();
    // The response is not acknowledged, and a removal waits for the ACK of the response before it.
    let removed = async {
        while mesh.status().await.services > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), removed).await.expect("the Service stays");
    let mut answers = subscribe(mesh.connect(Some(&joined)).await.unwrap(), &["cart:80"]).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().removed_resources, ["cart:80"]);
    assert!(mesh.status().await.refusals.is_empty());
}

/// Starts a control plane that signs with the files of a CA, the key with this mode.
async fn start_with_key_of_mode(directory: &Path, mode: u32) -> Result<ControlPlane, String> {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let root = CertificateIssuer::make_root(&domain, SystemTime::now()).unwrap();
    let files = IssuerFiles { chain: directory.join("ca.pem"), key: directory.join("ca.key") };
    std::fs::create_dir_all(directory.join("config")).unwrap();
    std::fs::write(&files.chain, root.chain).unwrap();
    std::fs::write(&files.key, root.key).unwrap();
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(mode)).unwrap();
    let started = ControlPlane::start(settings(directory).with_issuer(files).unwrap()).await;
    started.map_err(|error| error.to_string())
}

#[tokio::test]
async fn an_operators_key_that_others_may_read_is_refused_by_its_file() {
    let directory = tempfile::tempdir().unwrap();
    for mode in [0o644, 0o640, 0o604] {
        let refused = start_with_key_of_mode(directory.path(), mode).await.unwrap_err();
        assert!(refused.contains("ca.key") && refused.contains("chmod 600"), "{refused}");
    }
    start_with_key_of_mode(directory.path(), 0o600).await.unwrap();
}

#[tokio::test]
async fn what_holds_the_key_of_an_own_root_is_its_owners_alone() {
    let mesh = Mesh::start().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&mesh.state()), 0o700);
    for file in std::fs::read_dir(mesh.state()).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let state = mesh.state();
    let Mesh { directory, control_plane } = mesh;
    control_plane.shut_down().await;
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o750)).unwrap();
    let refused = ControlPlane::start(settings(directory.path())).await.unwrap_err().to_string();
    assert!(refused.contains("open to others (mode 0750)"), "{refused}");
}

#[tokio::test]
async fn a_client_with_many_connections_keeps_no_probe_out() {
    let mesh = Mesh::start().await;
    let address = mesh.control_plane.admin();
    let mut probe = TcpStream::connect(address).await.unwrap();
    let mut flood = Vec::new();
    for _ in 0..200 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        flood.push(socket.connect(address).await.unwrap());
    }
    // The first of them was closed for a later one.
    assert_eq!(flood[0].read(&mut [0]).await.unwrap_or(0), 0);
    let request = format!("GET /ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    probe.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
