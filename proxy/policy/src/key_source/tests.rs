use std::pin::pin;
use std::task::Context;

use outrigger_proto::xds::protobuf;
use outrigger_test_support::token::{TokenSigner, key_set};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn wire(uri: &str) -> jwt_authn::RemoteJwks {
    jwt_authn::RemoteJwks {
        http_uri: Some(core::HttpUri {
            uri: uri.into(),
            timeout: Some(protobuf::Duration { seconds: 1, nanos: 0 }),
            http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster("idp".into())),
        }),
        ..Default::default()
    }
}

fn reply(status: u16, body: &str) -> Result<ServiceReply, String> {
    let status = StatusCode::from_u16(status).unwrap();
    let body = Bytes::copy_from_slice(body.as_bytes());
    Ok(ServiceReply { status, fields: HeaderMap::new(), body, trailers: HeaderMap::new() })
}

fn some_keys() -> String {
    key_set([&TokenSigner::new("ES256", "k")])
}

#[test]
fn what_is_fetched_is_one_state_in_every_configuration() {
    let first = RemoteKeys::decode(wire("https://one.example/keys")).unwrap();
    assert!(Arc::ptr_eq(&first, &RemoteKeys::decode(wire("https://one.example/keys")).unwrap()));
    assert!(!Arc::ptr_eq(&first, &RemoteKeys::decode(wire("https://one.example/others")).unwrap()));
    let question = first.question();
    assert_eq!((question.authority.as_str(), question.path.as_str()), ("one.example", "/keys"));
    assert_eq!((question.method, &*question.cluster, question.longest_reply), (Method::GET, "idp", 1 << 20));
}

#[test]
fn the_last_good_keys_stay_whatever_is_fetched() {
    let keys = RemoteKeys::decode(wire("https://stay.example/")).unwrap();
    for (reply, why) in [
        (reply(200, "<html></html>"), "the reply is not a JSON Web Key Set: expected value"),
        (reply(503, &some_keys()), "the reply has status 503"),
        (Err("the reply of the service is too long".into()), "the reply of the service is too long"),
    ] {
        let refused = keys.fetched(reply, SECOND).unwrap_err();
        assert!(refused.starts_with(why), "{refused}");
        assert!(keys.keys().is_none());
    }
    keys.fetched(reply(200, &some_keys()), SECOND).unwrap();
    let good = keys.keys().unwrap();
    keys.fetched(reply(200, "{}"), SECOND).unwrap_err();
    assert!(Arc::ptr_eq(&good, &keys.keys().unwrap()));
    keys.fetched(reply(200, &some_keys()), SECOND).unwrap();
    assert!(!Arc::ptr_eq(&good, &keys.keys().unwrap()));
}

#[test]
fn keys_are_fetched_early_and_failures_are_repeated_ever_more_slowly() {
    let keys = RemoteKeys::decode(wire("https://pause.example/")).unwrap();
    let range = || [keys.pause(0), keys.pause(u32::MAX)].map(|pause| pause.as_millis());
    keys.fetched(reply(200, &some_keys()), SECOND).unwrap();
    assert_eq!(range(), [450_000, 540_000]);
    for longest in [1_500, 3_000, 6_000] {
        keys.fetched(reply(500, ""), SECOND).unwrap_err();
        assert_eq!(range(), [longest / 3, longest]);
    }
    (0..100).for_each(|_| drop(keys.fetched(reply(500, ""), SECOND)));
    assert_eq!(range(), [30_000, 90_000]);
}

#[test]
fn a_request_waits_for_the_first_fetch_and_for_a_key_that_may_be_new() {
    let keys = RemoteKeys::decode(wire("https://wait.example/")).unwrap();
    assert_eq!(keys.worth_waiting(SECOND), Some(0));
    let mut cx = Context::from_waker(Waker::noop());
    let mut first = pin!(keys.after(0));
    assert!(first.as_mut().poll(&mut cx).is_pending());
    keys.fetched(reply(500, ""), SECOND).unwrap_err();
    assert!(first.poll(&mut cx).is_ready());
    assert_eq!(keys.worth_waiting(100 * SECOND), None, "there are no keys, and a fetch is due soon");
    keys.fetched(reply(200, &some_keys()), 100 * SECOND).unwrap();
    assert_eq!(keys.worth_waiting(109 * SECOND), None, "the set is quite new");
    assert!(pin!(keys.wanted()).poll(&mut cx).is_pending());
    assert_eq!(keys.worth_waiting(110 * SECOND), Some(2));
    assert_eq!(keys.worth_waiting(110 * SECOND), Some(2), "others wait for the same fetch");
    assert!(pin!(keys.wanted()).poll(&mut cx).is_ready());
    keys.fetched(reply(500, ""), 111 * SECOND).unwrap_err();
    assert_eq!(keys.worth_waiting(112 * SECOND), None);
    assert!(pin!(keys.wanted()).poll(&mut cx).is_pending());
}

#[test]
fn one_task_fetches_a_set() {
    let keys = RemoteKeys::decode(wire("https://adopt.example/")).unwrap();
    assert_eq!((keys.adopt(), keys.adopt()), (true, false));
    keys.abandon();
    assert!(keys.adopt());
}

#[test]
fn a_source_that_cannot_be_fetched_is_refused_by_field() {
    let refused = |wire| RemoteKeys::decode(wire).unwrap_err().field;
    assert_eq!(refused(jwt_authn::RemoteJwks::default()), "http_uri");
    for uri in ["", "/keys", "ftp://a/keys", "a b"] {
        assert_eq!(refused(wire(uri)), "http_uri.uri");
    }
    let change = |change: fn(&mut jwt_authn::RemoteJwks)| {
        let mut wire = wire("https://a.example/");
        change(&mut wire);
        refused(wire)
    };
    assert_eq!(change(|of| of.http_uri.as_mut().unwrap().timeout = None), "http_uri.timeout");
    assert_eq!(change(|of| of.http_uri.as_mut().unwrap().http_upstream_type = None), "http_uri.cluster");
    assert_eq!(change(|of| of.cache_duration = Some(Default::default())), "cache_duration");
    let retry = core::RetryPolicy { retry_on: "5xx".into(), ..Default::default() };
    let with_retry = jwt_authn::RemoteJwks { retry_policy: Some(retry), ..wire("https://a.example/") };
    assert_eq!(refused(with_retry), "retry_policy.retry_on");
    let retry = core::RetryPolicy { retry_back_off: Some(Default::default()), ..Default::default() };
    let with_retry = jwt_authn::RemoteJwks { retry_policy: Some(retry), ..wire("https://a.example/") };
    assert_eq!(refused(with_retry), "retry_policy.retry_back_off.base_interval");
}
