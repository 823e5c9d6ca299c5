//! What the demo checks while traffic runs, in the order of its report.
//!
//! Each check does something to the mesh and returns what it observed. Whether requests were lost meanwhile is not its
//! concern: requests are assigned to the check during which they were sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use outrigger::admin;

use super::intruder;
use super::load::{Load, Window};
use super::mesh::Mesh;
use super::shop::{self, Canary, replace};

/// How long the checks take, in the full run and in the quick one for tests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// How many requests a split by weight is measured with. Each is a random draw: with 2200 of them, one run in
    /// 300,000 misses 10 % by more than 3 points; with 320, one in 140,000 by more than 8 (binomial distribution).
    pub(super) draws: usize,
    /// The deviation that a measured share may have, in percentage points.
    pub(super) tolerance: f64,
    /// How long a split that is not random (by header, or all to one version) is measured.
    pub(super) measure: Duration,
    /// How long traffic runs after a fault was injected or removed.
    pub(super) watch: Duration,
    /// How long the control plane is down.
    pub(super) away: Duration,
}

/// No certificate can be renewed while the control plane is down, so it is killed when all of them are valid for at least this long.
const VALIDITY: Duration = Duration::from_secs(12);
/// The same for a control plane that is started again after [`Pace::away`].
const VALIDITY_AWAY: Duration = Duration::from_secs(7);

/// How long an edited file may take to reach the sidecars that use it.
const PROPAGATION: Duration = Duration::from_secs(10);

/// What a check observed, or why it failed.
pub(super) type Verdict = Result<String, String>;

/// 1. Every hop is mTLS between the expected identities; clients without a certificate of the mesh are refused.
pub(super) async fn mutual_tls(mesh: &Mesh, pace: Pace) -> Verdict {
    tokio::time::sleep(pace.watch).await;
    let expected: BTreeSet<_> =
        [("shopper", "web"), ("web", "cart"), ("cart", "catalog"), ("cart", "payments"), ("cart", "stock")]
            .into();
    let mut seen = BTreeSet::new();
    for instance in mesh.instances() {
        let page = admin::text(instance.admin, "/metrics").await?;
        for (labels, count) in admin::series(&page, "outrigger_requests_total") {
            let label = |name| labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value);
            if count == 0.0 || label("direction") != "inbound" {
                continue;
            }
            let caller = mesh.instances().iter().find(|one| one.spiffe_id() == label("source"));
            let Some(caller) = caller.filter(|_| label("mtls") == "true") else {
                return Err(format!("{} served {count} requests of {labels:?}", instance.name));
            };
            seen.insert((caller.account, instance.account));
        }
    }
    if seen != expected {
        return Err(format!("the hops are {seen:?}, not {expected:?}"));
    }
    let cart = mesh.instance("cart-1")?;
    intruder::plaintext(cart.inbound).await.map_err(|why| format!("a plaintext client was {why}"))?;
    let refusal = intruder::foreign_certificate(cart.inbound, &mesh.instance("web-1")?.spiffe_id())
        .await
        .map_err(|why| format!("a foreign certificate was {why}"))?;
    Ok(format!(
        "{} hops, each mTLS between the expected identities; plaintext refused; another CA's certificate refused ({refusal})",
        seen.len()
    ))
}

/// 2. A canary by weight, by header, then for all requests; by editing one file.
pub(super) async fn canary(mesh: &Mesh, load: &Load, pace: Pace) -> Verdict {
    let mut seen = Vec::new();
    for (canary, on_header, otherwise) in [
        (Canary::Weights { v1: 90, v2: 10 }, 10.0, 10.0),
        (Canary::Header, 100.0, 0.0),
        (Canary::Weights { v1: 0, v2: 100 }, 100.0, 100.0),
    ] {
        edit_route(mesh, canary).await?;
        let window = match canary {
            Canary::Weights { v1: 1.., v2: 1.. } => drawn(load, pace.draws).await?,
            Canary::Weights { .. } | Canary::Header => measured(load, pace.measure).await,
        };
        let percent =
            |share: Option<f64>| share.map(|share| share * 100.0).ok_or("no request was answered".to_owned());
        let with = percent(window.share("v2", |sample| sample.canary))?;
        let without = percent(window.share("v2", |sample| !sample.canary))?;
        let all = percent(window.share("v2", |_| true))?;
        let near = |measured: f64, wanted: f64| (measured - wanted).abs() <= pace.tolerance;
        let holds = match canary {
            // The header has no effect here, so that all requests are one sample.
            Canary::Weights { .. } => near(all, otherwise),
            Canary::Header => near(with, on_header) && near(without, otherwise),
        };
        let measured = match canary {
            Canary::Weights { v1, v2 } => format!("{v1}/{v2}: v2 served {all:.1} % of {}", window.sent()),
            Canary::Header => format!("by header: v2 served {with:.1} % with it, {without:.1} % without"),
        };
        if !holds {
            return Err(format!("{measured}, more than {} points off", pace.tolerance));
        }
        seen.push(measured);
    }
    shop::route(&mesh.config(), Canary::Weights { v1: 50, v2: 50 })?;
    Ok(seen.join("; "))
}

/// Edits the canary's route, and waits until both sidecars of `cart`, which calls `catalog`, have received it.
async fn edit_route(mesh: &Mesh, canary: Canary) -> Result<(), String> {
    let before = catalog_routes(mesh).await?;
    shop::route(&mesh.config(), canary)?;
    let deadline = Instant::now() + PROPAGATION;
    while catalog_routes(mesh).await?.iter().zip(&before).any(|(now, before)| now == before) {
        if Instant::now() > deadline {
            return Err(format!(
                "an edited route did not reach every sidecar of cart within {PROPAGATION:?}"
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Requests that the old route forwarded are answered by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}

/// The version of `catalog`'s route in each sidecar of `cart`.
async fn catalog_routes(mesh: &Mesh) -> Result<Vec<serde_json::Value>, String> {
    let mut versions = Vec::new();
    for instance in mesh.instances().iter().filter(|one| one.account == "cart") {
        let dump = json(instance.admin, "/config_dump").await?;
        let name = format!("catalog.{}.svc.cluster.local:80", shop::NAMESPACE);
        let dumps = dump["configs"].as_array().into_iter().flatten();
        let mut routes = dumps.filter_map(|dump| dump["dynamic_route_configs"].as_array()).flatten();
        let route = routes.find(|route| route["route_config"]["name"] == name);
        let route = route.ok_or_else(|| format!("{} has no route for catalog", instance.name))?;
        versions.push(route["version_info"].clone());
    }
    Ok(versions)
}

/// 3. An instance and its sidecar are killed.
pub(super) async fn killed_instance(mesh: &mut Mesh, pace: Pace) -> Verdict {
    mesh.kill("catalog-v1-2").await?;
    tokio::time::sleep(pace.watch).await;
    mesh.revive("catalog-v1-2").await?;
    Ok("catalog-v1-2 and its sidecar were killed (SIGKILL), then restarted".into())
}

/// 4. A rolling restart.
pub(super) async fn rolling_restart(mesh: &mut Mesh, pace: Pace) -> Verdict {
    for name in ["cart-1", "cart-2"] {
        mesh.restart(name).await?;
        tokio::time::sleep(pace.watch / 2).await;
    }
    Ok("cart-1, then cart-2: the sidecar drained, then sidecar and application were restarted".into())
}

/// 5. The control plane is killed and, after a while, started again; then configuration changes take effect again.
pub(super) async fn control_plane_away(mesh: &mut Mesh, load: &Load, pace: Pace) -> Verdict {
    certificates_last(mesh, VALIDITY_AWAY).await?;
    mesh.kill_control_plane().await?;
    let since = Instant::now();
    tokio::time::sleep(pace.away).await;
    mesh.start_control_plane().await?;
    let away = since.elapsed();
    shop::route(&mesh.config(), Canary::Weights { v1: 0, v2: 100 })?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while measured(load, pace.watch / 2).await.share("v2", |_| true) != Some(1.0) {
        if Instant::now() > deadline {
            return Err("a change made after the restart did not take effect within 10 s".into());
        }
    }
    shop::route(&mesh.config(), Canary::Weights { v1: 50, v2: 50 })?;
    Ok(format!(
        "killed, restarted after {:.1} s; a change made after the restart took effect",
        away.as_secs_f64()
    ))
}

/// 7. A broken file is refused by name, and nothing else changes.
pub(super) async fn broken_file(mesh: &Mesh, pace: Pace) -> Verdict {
    let path = mesh.config().join("broken.yaml");
    replace(&path, shop::BROKEN)?;
    let deadline = Instant::now() + Duration::from_secs(5);
    let refusal = loop {
        let history = json(mesh.control_plane_admin, "/history").await?;
        // The refusal must name the file and the unknown field.
        let named = |entry: &&serde_json::Value| {
            let says = |key: &str, what: &str| entry[key].as_str().is_some_and(|text| text.contains(what));
            says("source", "broken.yaml") && says("refused", "valeu")
        };
        if let Some(entry) = history.as_array().and_then(|entries| entries.iter().find(named)) {
            let text = |key: &str| entry[key].as_str().unwrap_or_default();
            break format!("{}: {}", text("source"), text("refused"));
        }
        if Instant::now() > deadline {
            return Err("the broken file was not refused by name within 5 s".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    tokio::time::sleep(pace.watch).await;
    std::fs::remove_file(&path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
    Ok(format!("refused: {refusal}"))
}

/// 8. A sidecar restarts while the control plane is down, and serves with its saved configuration.
///
/// The control plane is down for no longer than certificates are valid: they cannot be renewed without it.
pub(super) async fn restart_alone(mesh: &mut Mesh, pace: Pace) -> Verdict {
    let bound = certificates_last(mesh, VALIDITY).await?.saturating_sub(Duration::from_secs(1));
    mesh.kill_control_plane().await?;
    let since = Instant::now();
    let served = tokio::time::timeout(bound, served_alone(mesh, pace)).await;
    let away = since.elapsed().as_secs_f64();
    mesh.start_control_plane().await?;
    match served {
        Ok(served) => Ok(format!(
            "web-2's sidecar, restarted without a control plane, had served {:.0} requests after {away:.1} s",
            served?
        )),
        Err(_) => Err(format!(
            "web-2's sidecar, restarted without a control plane, had served no request after {away:.1} s, when certificates were about to expire"
        )),
    }
}

/// Restarts the sidecar of `web-2` and waits until it has served a request.
async fn served_alone(mesh: &mut Mesh, pace: Pace) -> Result<f64, String> {
    mesh.stop_sidecar("web-2").await?;
    mesh.revive("web-2").await?;
    tokio::time::sleep(pace.watch).await;
    loop {
        // Callers that failed to connect while it was down eject it for some seconds.
        let served = inbound_requests(mesh, "web-2").await?;
        if served > 0.0 {
            return Ok(served);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until every certificate is valid for at least `wanted`. Returns how long the first to expire is still valid.
/// All were issued at the same time, so that this holds soon after each renewal.
async fn certificates_last(mesh: &Mesh, wanted: Duration) -> Result<Duration, String> {
    let deadline = Instant::now() + wanted;
    loop {
        let mut least = Duration::MAX;
        for instance in mesh.instances() {
            let left = json(instance.admin, "/certs").await?["remaining_seconds"].as_f64();
            let left = left.ok_or_else(|| format!("{} has no certificate", instance.name))?;
            least = least.min(Duration::from_secs_f64(left.max(0.0)));
        }
        if least >= wanted || Instant::now() > deadline {
            return Ok(least);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Returns the serial number of every sidecar's certificate.
pub(super) async fn serials(mesh: &Mesh) -> Result<BTreeMap<&'static str, String>, String> {
    let mut serials = BTreeMap::new();
    for instance in mesh.instances() {
        let page = json(instance.admin, "/certs").await?;
        let serial =
            page["serial"].as_str().ok_or_else(|| format!("/certs of {} has no serial", instance.name))?;
        serials.insert(instance.name, serial.to_owned());
    }
    Ok(serials)
}

/// 6. One `ttl` after `start`, every certificate differs from the one that it was `before`.
pub(super) async fn renewed(
    mesh: &Mesh,
    before: &BTreeMap<&'static str, String>,
    ttl: Duration,
    start: Instant,
) -> Verdict {
    tokio::time::sleep((ttl + Duration::from_secs(1)).saturating_sub(start.elapsed())).await;
    let now = serials(mesh).await?;
    let same: Vec<_> = now.iter().filter(|(name, serial)| before.get(*name) == Some(serial)).collect();
    if !same.is_empty() {
        return Err(format!("not renewed: {same:?}"));
    }
    Ok(format!("{} certificates with a lifetime of {} s, each renewed under load", now.len(), ttl.as_secs()))
}

/// Fetches a page of JSON.
async fn json(admin: SocketAddr, path: &str) -> Result<serde_json::Value, String> {
    let page = admin::text(admin, path).await?;
    serde_json::from_str(&page).map_err(|error| format!("http://{admin}{path}: {error}"))
}

async fn inbound_requests(mesh: &Mesh, name: &str) -> Result<f64, String> {
    let page = admin::text(mesh.instance(name)?.admin, "/metrics").await?;
    let inbound = |labels: &[(&str, &str)]| labels.contains(&("direction", "inbound"));
    Ok(admin::series(&page, "outrigger_requests_total")
        .filter(|(labels, _)| inbound(labels))
        .map(|(_, count)| count)
        .fold(0.0, std::ops::Add::add))
}

/// Waits for the next `draws` requests. Fails if they are not finished within a minute.
async fn drawn(load: &Load, draws: usize) -> Result<Window, String> {
    let from = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut window = load.window(from, Instant::now());
        if window.0.len() >= draws {
            window.0.truncate(draws);
            return Ok(window);
        }
        if from.elapsed() > Duration::from_secs(60) {
            return Err(format!("{} of {draws} requests were finished within a minute", window.sent()));
        }
    }
}

async fn measured(load: &Load, long: Duration) -> Window {
    let from = Instant::now();
    tokio::time::sleep(long).await;
    let to = Instant::now();
    // Waits for the responses to the last requests.
    tokio::time::sleep(Duration::from_millis(200)).await;
    load.window(from, to)
}
