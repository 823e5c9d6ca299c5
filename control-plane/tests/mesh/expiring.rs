//! Expiry of tokens, of certificates, and of the streams that certificates opened.

use std::time::{Duration, SystemTime};

use outrigger_control_plane::ca::certificate::LeafCertificate;
use outrigger_control_plane::state::Store;
use outrigger_proto::registration::register_response::Outcome;
use rcgen::KeyPair;
use tonic::Code;

use super::harness::{Mesh, Registered, serving, subscribe};

#[tokio::test]
async fn an_expired_token_is_reported_as_such_and_gets_no_certificate() {
    let mut token = String::new();
    let mesh = Mesh::start().await.restart_after(|state| {
        let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let store = Store::open(state).unwrap();
        token = store.create_token("shop", "cart", Duration::from_secs(60), an_hour_ago, [7; 32]).unwrap();
    });
    let mesh = mesh.await;
    let refused = mesh.certificate(None, Some(&token), &KeyPair::generate().unwrap()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("expired 35"), "{refused}");
    assert_eq!(mesh.status().await.certificates_issued, 0);
}

#[tokio::test]
async fn an_expired_certificate_ends_its_streams_and_opens_no_other() {
    let mesh = Mesh::start().await;
    let brief = mesh.join_for(2).await;
    let channel = mesh.connect(Some(&brief)).await.unwrap();
    let mut discovery = subscribe(channel.clone(), &["cart:80"]).await.unwrap();
    assert_eq!(discovery.message().await.unwrap().unwrap().resources[0].name, "cart:80");
    let mut registration = Registered::open_on(channel).await;
    assert!(matches!(registration.say(serving("cart")).await, Outcome::Accepted(_)));

    let (discovery, registration) = tokio::join!(discovery.message(), registration.answers.message());
    for ended in [discovery.unwrap_err(), registration.unwrap_err()] {
        assert!(ended.code() == Code::Unauthenticated && ended.message().contains("has expired"), "{ended}");
    }
    assert!(LeafCertificate::read(&brief.chain[0]).unwrap().not_after <= SystemTime::now());
    // The handshake is refused; in TLS 1.3 a client learns that by its first read.
    let again = async {
        let channel = mesh.connect(Some(&brief)).await.map_err(|error| error.to_string())?;
        subscribe(channel, &["cart:80"]).await.map(drop).map_err(|refused| refused.to_string())
    };
    again.await.unwrap_err();

    // The workload stays: only draining or its lease ends it. With a new token it registers again.
    assert_eq!(mesh.status().await.registrations.len(), 1);
    let mut again = Registered::open(&mesh, &mesh.join().await).await;
    assert!(matches!(again.say(serving("cart")).await, Outcome::Accepted(_)));
    assert_eq!(mesh.status().await.registrations.len(), 1);
}

#[tokio::test]
async fn a_connection_ends_soon_after_the_certificate_that_opened_it() {
    let mesh = Mesh::start().await;
    let brief = mesh.join_for(1).await;
    let channel = mesh.connect(Some(&brief)).await.unwrap();
    let key = KeyPair::generate().unwrap();
    let ended = async {
        // While the connection is open, the refusal has a status code; afterwards the handshake fails.
        while mesh.certificate_for(channel.clone(), None, &key, 0).await.is_ok() {}
        while mesh.certificate_for(channel.clone(), None, &key, 0).await.unwrap_err().code()
            == Code::Unauthenticated
        {}
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the connection goes on");
}
