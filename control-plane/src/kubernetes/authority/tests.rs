use outrigger_core::identity::SpiffeId;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn secret(entries: &[(&str, &str)]) -> Secret {
    let data = entries.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
    Secret { data: Some(data.collect()), ..Secret::default() }
}

fn refused(entries: &[(&str, &str)]) -> String {
    read(&secret(entries), SystemTime::now()).err().unwrap()
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

#[test]
fn a_created_secret_is_read_by_every_replica() {
    let now = SystemTime::now();
    let created = new_secret(&domain(), now).unwrap();
    assert_eq!(created.type_.as_deref(), Some("kubernetes.io/tls"));
    let (first, second) = (read(&created, now).unwrap(), read(&created, now).unwrap());
    assert_eq!(first.issuer.chain, second.issuer.chain);
    assert_eq!((first.roots.clone(), first.roots.len()), (first.issuer.chain.clone(), 1));
    let authority = Authority::without_issuer(domain(), Duration::from_secs(60));
    authority.replace(Rotation::new(first, Vec::new(), Instant::now()).signer());
    let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
    authority.sign(&KeyPair::generate().unwrap(), &identity, None, now).unwrap();
}

/// cert-manager writes the intermediate alone into `tls.crt`, and its issuer into `ca.crt`.
#[test]
fn an_operators_intermediate_is_completed_by_the_roots_beside_it() {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root_params = ca_params("root");
    let root = root_params.self_signed(&root_key).unwrap();
    let intermediate =
        ca_params("intermediate").signed_by(&key, &Issuer::new(root_params, root_key)).unwrap();
    let other = ca_params("next root").self_signed(&KeyPair::generate().unwrap()).unwrap();
    let both = other.pem() + &root.pem();
    let entries = [("tls.crt", &*intermediate.pem()), ("tls.key", &*key.serialize_pem()), ("ca.crt", &*both)];
    let stored = read(&secret(&entries), SystemTime::now()).unwrap();
    assert_eq!(stored.issuer.chain, [intermediate.der().clone(), root.der().clone()]);
    assert_eq!(stored.roots, [root.der().clone(), other.der().clone()]);
}

#[test]
fn keys_are_read_in_the_formats_of_openssl_and_cert_manager() {
    for (chain, key) in [
        (include_str!("../testdata/ec.crt"), include_str!("../testdata/ec.key")),
        (include_str!("../testdata/rsa.crt"), include_str!("../testdata/rsa.key")),
    ] {
        let stored = read(&secret(&[("tls.crt", chain), ("tls.key", key)]), SystemTime::now()).unwrap();
        assert_eq!(stored.roots, stored.issuer.chain);
    }
}

#[test]
fn a_damaged_secret_is_refused_with_the_reason_and_without_its_key() {
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let chain = ca_params("root").self_signed(&key).unwrap().pem();
    let (key, other) = (key.serialize_pem(), other.serialize_pem());
    assert!(refused(&[("tls.key", &key)]).contains("no tls.crt"));
    assert!(refused(&[("tls.crt", &chain)]).contains("no tls.key"));
    assert!(refused(&[("tls.crt", &chain), ("tls.key", "-----")]).contains("key cannot be read"));
    assert!(refused(&[("tls.crt", "x"), ("tls.key", &key)]).contains("no certificate"));
    let foreign = refused(&[("tls.crt", &chain), ("tls.key", &other)]);
    assert!(foreign.contains("the key is not that of the first certificate"), "{foreign}");
    let torn = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----";
    assert!(
        refused(&[("tls.crt", &chain), ("tls.key", &key), ("ca.crt", torn)])
            .contains("ca.crt cannot be read")
    );
}

#[test]
fn a_deleted_secret_is_reported_and_a_list_that_has_it_is_not() {
    let secret = new_secret(&domain(), SystemTime::now()).unwrap();
    let mut listed = false;
    let mut observe = |event| match stored_ca(Ok(event), &mut listed) {
        None => "nothing".to_owned(),
        Some(Ok(_)) => "read".to_owned(),
        Some(Err(problem)) => problem,
    };
    let list = |secret: &Secret| [Event::Init, Event::InitApply(secret.clone()), Event::InitDone];
    let outcomes: Vec<_> = list(&secret).into_iter().map(&mut observe).collect();
    assert_eq!(outcomes, ["nothing", "read", "nothing"]);
    assert!(observe(Event::Delete(secret.clone())).contains("was deleted; restore it"));
    assert_eq!(observe(Event::Apply(secret)), "read");
    // It was deleted while no watch was open.
    assert_eq!(observe(Event::Init), "nothing");
    assert!(observe(Event::InitDone).contains("was deleted"));
    assert!(observe(Event::Apply(Secret::default())).contains("cannot be used: it has no tls.crt"));
}
