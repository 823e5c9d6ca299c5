//! The CA of a cluster: the Secret `outrigger-ca`, which the leader creates once and every replica reads.
//!
//! An operator may provide the Secret, such as by cert-manager: `tls.key`, `tls.crt` (the issuer first) and `ca.crt` (the roots). What a
//! replica has read stays in use when the Secret is deleted or damaged. A root is never created while workloads trust another one,
//! which the ConfigMap of the trust roots records ([`trust_roots`], [`root_record`]). A CA is replaced in steps ([`rotation`]).

mod rotation;
pub(super) mod trust_roots;
pub(super) mod root_record;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client};
use outrigger_core::identity::TrustDomain;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::Instant;

use self::root_record::{PublishedRoot, published_roots};
use self::rotation::{Rotation, StoredCa};
use self::trust_roots::CONFIG_MAP;
use super::NAMESPACE;
use super::lease::Leadership;
use crate::ca::authority::Authority;
use crate::ca::issuer::CertificateIssuer;
use crate::source::sync::SyncStatus;

/// The name of the Secret.
const SECRET: &str = "outrigger-ca";
/// The name of the CA among what has to be synced.
pub(super) const PART: &str = "the CA";
/// The time after which the API server ends a watch, which then continues: shorter than the client waits for an event.
const WATCH_SECONDS: u32 = 60;
/// How often a replica without a CA looks for the Secret.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Gives `authority` its issuer, which the leader creates if there is none, and then follows changes of the Secret, for as long as it
/// is polled. `sync` has what is missing.
pub(super) async fn maintain(
    client: Client,
    authority: Arc<Authority>,
    mut leadership: Leadership,
    sync: SyncStatus,
) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let (stored, published) = loop {
        let leads = *leadership.borrow_and_update();
        match load_or_create(&secrets, &maps, authority.trust_domain(), leads).await {
            Ok(Some(found)) => break found,
            Ok(None) => drop(sync.set_failure(PART, Some("waiting for the leader to create it".into()))),
            Err(problem) => {
                if sync.set_failure(PART, Some(problem.clone())) {
                    tracing::error!(problem, "there is no CA");
                }
            }
        }
        // A new leader creates the CA at once.
        let _ = tokio::time::timeout(RETRY_INTERVAL, leadership.changed()).await;
    };
    let mut rotation = Rotation::new(stored, published, Instant::now());
    let named =
        |name: &str| Config::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
    let mut secrets = watcher(secrets, named(SECRET)).default_backoff().boxed();
    let mut maps = watcher(maps, named(CONFIG_MAP)).default_backoff().boxed();
    let (mut changed, mut listed, mut damaged) = (true, false, None);
    loop {
        if changed {
            authority.replace(rotation.signer());
        }
        report(&rotation, &authority, damaged.clone(), &sync);
        let due = rotation.due();
        let advance = async move {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        changed = tokio::select! {
            () = advance => rotation.advance(Instant::now()),
            event = secrets.next() => match event.map(|event| stored_ca(event, &mut listed)) {
                None => return,
                Some(None) => false,
                Some(Some(Ok(stored))) => {
                    damaged = None;
                    rotation.observe(stored, Instant::now())
                }
                Some(Some(Err(problem))) => {
                    damaged = Some(problem);
                    false
                }
            },
            event = maps.next() => match event {
                None => return,
                Some(Ok(Event::InitApply(map) | Event::Apply(map))) => {
                    let now = Instant::now();
                    rotation.publish(published_roots(&map, SystemTime::now(), now), now)
                }
                // A deleted copy is written again, and the watch repeats itself.
                Some(_) => false,
            },
        };
    }
}

/// Reports whether the replica signs, and what is wrong with the Secret.
fn report(rotation: &Rotation, authority: &Authority, damaged: Option<String>, sync: &SyncStatus) {
    let signs = authority.not_after().is_some();
    if signs {
        sync.synced(PART);
    }
    let waits = rotation.is_waiting() && !signs;
    let waits = waits.then(|| "it signs as soon as every proxy has its new root".to_owned());
    let is_damaged = damaged.is_some();
    let problem = damaged.or(waits);
    if sync.set_failure(PART, problem.clone())
        && let Some(problem) = problem
    {
        match is_damaged {
            true => tracing::error!(problem, "signing with the CA in memory"),
            false => tracing::warn!(problem, "the CA was replaced shortly before this start"),
        }
    }
}

/// Returns the CA that an event of the watch has, or why it has none. Returns None if the event says nothing about the Secret. `listed`
/// is whether the current list has it.
fn stored_ca(
    event: Result<Event<Secret>, watcher::Error>,
    listed: &mut bool,
) -> Option<Result<StoredCa, String>> {
    match event {
        Ok(Event::Init) => {
            *listed = false;
            None
        }
        Ok(Event::InitApply(secret) | Event::Apply(secret)) => {
            *listed = true;
            let stored = read(&secret, SystemTime::now());
            Some(stored.map_err(|problem| format!("the Secret {SECRET} cannot be used: {problem}")))
        }
        Ok(Event::InitDone) if *listed => None,
        Ok(Event::InitDone | Event::Delete(_)) => {
            let step = "restore it: the control plane loses the CA when it restarts";
            Some(Err(format!("the Secret {SECRET} was deleted; {step}")))
        }
        // The stream repeats itself, with backoff. The API server may be away; then every other watch says so, too.
        Err(error) => {
            tracing::debug!(%error, secret = SECRET, "not watched now");
            None
        }
    }
}

/// Returns the CA in the Secret and the roots that workloads trust. Creates the CA if there is none and `leads`; returns None if
/// another replica has to create it.
async fn load_or_create(
    secrets: &Api<Secret>,
    maps: &Api<ConfigMap>,
    trust_domain: &TrustDomain,
    leads: bool,
) -> Result<Option<(StoredCa, Vec<PublishedRoot>)>, String> {
    let refused = |error: kube::Error| error.to_string();
    let map = maps.get_opt(CONFIG_MAP).await.map_err(refused)?;
    let now = SystemTime::now();
    let trusted = map.as_ref().map(|map| published_roots(map, now, Instant::now())).unwrap_or_default();
    let found = secrets.get_opt(SECRET).await.map_err(refused)?;
    let secret = match found {
        Some(secret) => secret,
        None if map.is_some() => {
            return Err(format!(
                "the Secret {SECRET} is missing, but workloads trust the roots in ConfigMap {CONFIG_MAP}: restore the Secret, or \
                 delete the ConfigMap to start with a new root; workloads cannot connect to each other until all have certificates of it"
            ));
        }
        None if !leads => return Ok(None),
        None => {
            let created = new_secret(trust_domain, now)?;
            // Refused if another replica was faster; then its Secret is read at the next attempt.
            let created = secrets.create(&PostParams::default(), &created).await.map_err(refused)?;
            tracing::info!(secret = SECRET, "created the CA of this cluster");
            created
        }
    };
    let stored =
        read(&secret, now).map_err(|problem| format!("the Secret {SECRET} cannot be used: {problem}"))?;
    Ok(Some((stored, trusted)))
}

/// Returns a Secret with a new root.
fn new_secret(trust_domain: &TrustDomain, now: SystemTime) -> Result<Secret, String> {
    let made = CertificateIssuer::make_root(trust_domain, now).map_err(|error| error.to_string())?;
    let data = [("tls.crt", made.chain.clone()), ("tls.key", made.key), ("ca.crt", made.chain)];
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.into()),
            labels: Some([("app.kubernetes.io/part-of".into(), "outrigger".into())].into()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data.into_iter().map(|(key, pem)| (key.into(), ByteString(pem.into_bytes()))).collect()),
        ..Secret::default()
    })
}

/// Reads a CA from a Secret. Returns what is wrong with it otherwise; the text has no secret.
fn read(secret: &Secret, now: SystemTime) -> Result<StoredCa, String> {
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
    };
    let chain = text("tls.crt").ok_or("it has no tls.crt")?;
    let key = text("tls.key").ok_or("it has no tls.key")?;
    let extra = text("ca.crt").unwrap_or_default();
    let extra: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(extra.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("ca.crt cannot be read: {error}"))?;
    let issuer = CertificateIssuer::from_pem(&chain, &key, &extra, now)?;
    let mut roots: Vec<_> = issuer.chain.last().cloned().into_iter().collect();
    roots.extend(extra.into_iter().filter(|certificate| Some(certificate) != issuer.chain.last()));
    Ok(StoredCa { issuer: issuer.into(), roots })
}

#[cfg(test)]
mod tests;
