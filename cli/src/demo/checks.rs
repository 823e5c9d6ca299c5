//! What the demo checks while traffic runs, in the order of its report.
//!
//! Each check does something to the mesh and says what it saw. Whether requests were lost meanwhile is not its concern:
//! the load is judged by time, over the whole stretch in which a check ran.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use outrigger::admin;

use super::intruder;
use super::load::{Load, Window};
use super::mesh::Mesh;
use super::shop::{self, Canary, replace};

/// How long checks take: the whole form, or the quick one for tests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Long enough for about a thousand requests: how long a share is measured.
    pub(super) measure: Duration,
    /// How long traffic runs after something was broken or mended.
    pub(super) watch: Duration,
    /// How long the control plane stays away.
    pub(super) away: Duration,
    /// The deviation that a measured share may have, in percentage points.
    pub(super) tolerance: f64,
}

/// What a check saw, or why it failed.
pub(super) type Verdict = Result<String, String>;

/// 1. Every hop is mTLS between the expected identities; who does not belong is refused.
pub(super) async fn mutual_tls(mesh: &Mesh, pace: Pace) -> Verdict {
    tokio::time::sleep(pace.watch).await;
    let expected: BTreeSet<_> =
        [("shopper", "web"), ("web", "cart"), ("cart", "catalog"), ("cart", "payments"), ("cart", "stock")]
            .into();
    let mut seen = BTreeSet::new();
    for instance in mesh.instances() {
        let page = admin::text(instance.admin, "/metrics").await?;
        for metric in ["outrigger_requests_total", "outrigger_connections_total"] {
            for (labels, count) in admin::series(&page, metric) {
                let label =
                    |name| labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value);
                if count == 0.0 || label("direction") != "inbound" {
                    continue;
                }
                let caller = mesh.instances().iter().find(|one| one.spiffe_id() == label("source"));
                let Some(caller) = caller else {
                    return Err(format!(
                        "{} served {count} requests of {:?}",
                        instance.name,
                        label("source")
                    ));
                };
                seen.insert((caller.account(), instance.account()));
            }
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
    Ok(format!("{} hops, all mTLS; plaintext refused, foreign certificate refused ({refusal})", seen.len()))
}

/// 2. A canary by weight, by header, then for everybody; by editing one file.
pub(super) async fn canary(mesh: &Mesh, load: &Load, pace: Pace) -> Verdict {
    let mut seen = Vec::new();
    for (canary, on_header, otherwise) in [
        (Canary::Weights { v1: 90, v2: 10 }, 10.0, 10.0),
        (Canary::Header, 100.0, 0.0),
        (Canary::Weights { v1: 0, v2: 100 }, 100.0, 100.0),
    ] {
        shop::route(&mesh.config(), canary)?;
        // The file is noticed, translated and pushed; then the share is measured.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let window = measured(load, pace.measure).await;
        let percent =
            |share: Option<f64>| share.map(|share| share * 100.0).ok_or("nobody answered".to_owned());
        let with = percent(window.share("v2", |sample| sample.canary))?;
        let without = percent(window.share("v2", |sample| !sample.canary))?;
        let all = percent(window.share("v2", |_| true))?;
        let near = |measured: f64, wanted: f64| (measured - wanted).abs() <= pace.tolerance;
        let holds = match canary {
            // The header means nothing here, so everybody is one sample.
            Canary::Weights { .. } => near(all, otherwise),
            Canary::Header => near(with, on_header) && near(without, otherwise),
        };
        let measured = match canary {
            Canary::Weights { v1, v2 } => format!("{v1}/{v2}: {all:.1} % v2"),
            Canary::Header => format!("by header: {with:.1} % v2 with it, {without:.1} % without"),
        };
        if !holds {
            return Err(format!("{measured}, beyond {} points", pace.tolerance));
        }
        seen.push(measured);
    }
    shop::route(&mesh.config(), Canary::Weights { v1: 50, v2: 50 })?;
    Ok(seen.join("; "))
}

/// 3. An instance and its sidecar die without a word.
pub(super) async fn killed_instance(mesh: &mut Mesh, pace: Pace) -> Verdict {
    mesh.kill("catalog-v1-2").await?;
    tokio::time::sleep(pace.watch).await;
    mesh.revive("catalog-v1-2").await?;
    Ok("catalog-v1-2 killed and revived".into())
}

/// 4. A rolling restart.
pub(super) async fn rolling_restart(mesh: &mut Mesh, pace: Pace) -> Verdict {
    for name in ["cart-1", "cart-2"] {
        mesh.restart(name).await?;
        tokio::time::sleep(pace.watch / 2).await;
    }
    Ok("cart-1 and cart-2 drained and restarted in turn".into())
}

/// 5. The control plane is killed, stays away, and comes back; then a change reaches everybody again.
pub(super) async fn control_plane_away(mesh: &mut Mesh, load: &Load, pace: Pace) -> Verdict {
    mesh.kill_control_plane().await?;
    tokio::time::sleep(pace.away).await;
    mesh.start_control_plane().await?;
    shop::route(&mesh.config(), Canary::Weights { v1: 0, v2: 100 })?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while measured(load, pace.watch / 2).await.share("v2", |_| true) != Some(1.0) {
        if Instant::now() > deadline {
            return Err("a change made after its return did not arrive within 10 s".into());
        }
    }
    shop::route(&mesh.config(), Canary::Weights { v1: 50, v2: 50 })?;
    Ok(format!("away for {:.1} s; a change after its return arrived", pace.away.as_secs_f64()))
}

/// 7. A broken file is refused by name, and nothing else changes.
pub(super) async fn broken_file(mesh: &Mesh, pace: Pace) -> Verdict {
    let path = mesh.config().join("broken.yaml");
    replace(&path, shop::BROKEN)?;
    let deadline = Instant::now() + Duration::from_secs(5);
    let refusal = loop {
        let history = admin::text(mesh.control_plane_admin, "/history").await?;
        let history: Vec<serde_json::Value> =
            serde_json::from_str(&history).map_err(|error| format!("/history: {error}"))?;
        // Refused means: the file is named, and so is the field that does not exist.
        let named = |entry: &&serde_json::Value| {
            let says = |key: &str, what: &str| entry[key].as_str().is_some_and(|text| text.contains(what));
            says("source", "broken.yaml") && says("refused", "valeu")
        };
        if let Some(entry) = history.iter().find(named) {
            break format!("{}: {}", entry["source"], entry["refused"]).replace('"', "");
        }
        if Instant::now() > deadline {
            return Err("the broken file was not refused by name within 5 s".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    tokio::time::sleep(pace.watch).await;
    std::fs::remove_file(&path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
    Ok(format!("refused {refusal}"))
}

/// 8. A sidecar restarts while the control plane is away, and serves from what it saved.
pub(super) async fn restart_alone(mesh: &mut Mesh, pace: Pace) -> Verdict {
    mesh.kill_control_plane().await?;
    mesh.restart_sidecar_stop("web-2").await?;
    mesh.revive("web-2").await?;
    tokio::time::sleep(pace.watch).await;
    // Who met it while it was down leaves it out for a while; then it serves, still without a control plane.
    let deadline = Instant::now() + Duration::from_secs(10);
    let served = loop {
        let served = inbound_requests(mesh, "web-2").await?;
        if served > 0.0 || Instant::now() > deadline {
            break served;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    mesh.start_control_plane().await?;
    if served == 0.0 {
        return Err("web-2's sidecar came back without a control plane, and served nothing".into());
    }
    Ok(format!("web-2's sidecar served {served:.0} requests before the control plane was back"))
}

/// The serial number of every sidecar's certificate.
pub(super) async fn serials(mesh: &Mesh) -> Result<BTreeMap<&'static str, String>, String> {
    let mut serials = BTreeMap::new();
    for instance in mesh.instances() {
        let page = admin::text(instance.admin, "/certs").await?;
        let page: serde_json::Value =
            serde_json::from_str(&page).map_err(|error| format!("/certs of {}: {error}", instance.name))?;
        let serial =
            page["serial"].as_str().ok_or_else(|| format!("/certs of {} has no serial", instance.name))?;
        serials.insert(instance.name, serial.to_owned());
    }
    Ok(serials)
}

/// 6. Every certificate is another than at the start.
pub(super) async fn renewed(mesh: &Mesh, before: &BTreeMap<&'static str, String>, ttl: Duration) -> Verdict {
    let now = serials(mesh).await?;
    let same: Vec<_> = now.iter().filter(|(name, serial)| before.get(*name) == Some(serial)).collect();
    if !same.is_empty() {
        return Err(format!("not renewed: {same:?}"));
    }
    Ok(format!("{} certificates of {} s life, all renewed", now.len(), ttl.as_secs()))
}

async fn inbound_requests(mesh: &Mesh, name: &str) -> Result<f64, String> {
    let page = admin::text(mesh.instance(name)?.admin, "/metrics").await?;
    let inbound = |labels: &[(&str, &str)]| labels.contains(&("direction", "inbound"));
    Ok(admin::series(&page, "outrigger_requests_total")
        .filter(|(labels, _)| inbound(labels))
        .map(|(_, count)| count)
        .fold(0.0, std::ops::Add::add))
}

async fn measured(load: &Load, long: Duration) -> Window {
    let from = Instant::now();
    tokio::time::sleep(long).await;
    let to = Instant::now();
    // Those sent last are still under way.
    tokio::time::sleep(Duration::from_millis(200)).await;
    load.window(from, to)
}
