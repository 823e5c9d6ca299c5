//! Tests of both halves. Each test plays the data path and discovery in turn.

use std::net::IpAddr;
use std::sync::OnceLock;

use futures_util::FutureExt;
use outrigger_policy::weighted_cluster::WeightedClusters;

use super::*;
use crate::handler::Handler;
use crate::tcp_proxy::TcpProxy;

struct Mesh {
    on_demand: OnDemand,
    feed: OnDemandFeed,
    published: Published,
}

fn mesh(resolution: Resolution) -> Mesh {
    let published = Published::new(Arc::default());
    let limits = OnDemandLimits { max_names: 5, max_unproven: 3, ..Default::default() };
    let (on_demand, feed) = OnDemand::new(limits, resolution, published.clone());
    Mesh { on_demand, feed, published }
}

impl Mesh {
    fn publish(&self, name: &str) {
        let tcp = TcpProxy {
            destination: Some(name.into()),
            hash_policies: Default::default(),
            clusters: WeightedClusters::one("c".into()).unwrap(),
            idle_timeout: None,
            max_duration: None,
            max_connect_attempts: 1,
        };
        let handler = Handler::Tcp(Arc::new(tcp));
        let destination =
            Destination { name: name.into(), canonical: name.into(), handler, usage: Default::default() };
        let mut snapshot = Snapshot::clone(&self.published.load());
        snapshot.destinations.insert(name.into(), Arc::new(destination));
        self.published.publish(Arc::new(snapshot));
        self.feed.mark_published();
    }

    fn publish_host(&self, name: &str) {
        let addresses = [IpAddr::from([240, 0, 0, 1])].into();
        let host =
            Host { name: name.into(), addresses, ttl: Duration::from_secs(30), usage: Default::default() };
        let mut snapshot = Snapshot::clone(&self.published.load());
        snapshot.hosts.insert(name.into(), Arc::new(host));
        self.published.publish(Arc::new(snapshot));
        self.feed.mark_published();
    }

    async fn host(&self, name: &str) -> Option<Arc<Host>> {
        self.on_demand.host(name, &PeerKey::new(None, [127, 0, 0, 1].into())).await
    }

    fn remove(&self, name: &str) {
        let mut snapshot = Snapshot::clone(&self.published.load());
        snapshot.destinations.remove(name);
        self.published.publish(Arc::new(snapshot));
        self.feed.mark_published();
        self.feed.mark_absent([name]);
    }

    async fn lookup(&self, name: &str) -> Lookup {
        self.lookup_as(1, name).await
    }

    async fn lookup_as(&self, client: u8, name: &str) -> Lookup {
        let by = PeerKey::new(None, [127, 0, 0, client].into());
        self.on_demand.destination(&self.published.view(), name, &by).await
    }

    /// Requests a destination without waiting for it.
    fn begin(&self, client: u8, name: &str) {
        assert!(self.lookup_as(client, name).now_or_never().is_none(), "{name} is answered at once");
    }
}

fn subscribe(name: &str) -> SubscriptionChange {
    SubscriptionChange::Subscribe(name.into())
}

fn unsubscribe(name: &str) -> SubscriptionChange {
    SubscriptionChange::Unsubscribe(name.into())
}

#[tokio::test(start_paused = true)]
async fn concurrent_requests_for_one_name_share_a_subscription() {
    let mesh = mesh(Resolution::OnDemand);
    let serve = async {
        assert_eq!(mesh.feed.next().await, [subscribe("cart:80")]);
        mesh.publish("cart:80");
    };
    let (one, other, ()) = tokio::join!(mesh.lookup("cart:80"), mesh.lookup("cart:80"), serve);
    assert!(matches!((one, other), (Lookup::Found(_), Lookup::Found(_))));
    assert!(mesh.on_demand.known(&mesh.published.load(), "cart:80").is_some());
}

#[tokio::test(start_paused = true)]
async fn an_absent_name_is_subscribed_once_and_dropped_when_it_is_unused() {
    let mesh = mesh(Resolution::OnDemand);
    mesh.begin(1, "nope:80");
    mesh.feed.mark_absent(["nope:80", "never-requested:80"]);
    for _ in 0..5 {
        assert!(matches!(mesh.lookup("nope:80").await, Lookup::Absent));
        tokio::time::advance(Duration::from_secs(1)).await;
        mesh.feed.sweep();
    }
    assert_eq!(mesh.feed.next().await, [subscribe("nope:80")]);
    tokio::time::advance(Duration::from_secs(1)).await;
    mesh.feed.sweep();
    assert_eq!(mesh.feed.next().await, [unsubscribe("nope:80")]);
    assert_eq!(mesh.on_demand.0.state().unproven.len(), 0);
    mesh.begin(1, "nope:80");
    assert_eq!(mesh.feed.next().await, [subscribe("nope:80")]);
}

#[tokio::test(start_paused = true)]
async fn an_absent_name_that_is_pushed_is_found_at_once() {
    let mesh = mesh(Resolution::OnDemand);
    mesh.begin(1, "late:80");
    mesh.feed.mark_absent(["late:80"]);
    assert!(matches!(mesh.lookup("late:80").await, Lookup::Absent));
    mesh.feed.mark_existing(["late:80"]);
    let started = Instant::now();
    let warm = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        mesh.publish("late:80");
    };
    let (found, ()) = tokio::join!(mesh.lookup("late:80"), warm);
    assert!(matches!(found, Lookup::Found(_)), "{found:?}");
    assert_eq!(started.elapsed(), Duration::from_millis(30), "a request waits while it warms");
    assert_eq!(mesh.feed.next().await, [subscribe("late:80")], "one subscription is enough");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_was_in_use_stays_subscribed_while_it_is_gone_and_invented_hosts_do_not_evict_it() {
    let mesh = mesh(Resolution::OnDemand);
    mesh.begin(1, "cart:80");
    mesh.publish("cart:80");
    mesh.remove("cart:80");
    assert!(matches!(mesh.lookup("cart:80").await, Lookup::Absent));
    for n in 0..50 {
        mesh.begin(1, &format!("invented-{n}:80"));
        mesh.feed.mark_absent([&*format!("invented-{n}:80")]);
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    mesh.feed.sweep();
    assert_eq!(mesh.feed.wanted(), ["cart:80".into()]);
    mesh.publish("cart:80");
    assert!(matches!(mesh.lookup("cart:80").await, Lookup::Found(_)));
    mesh.remove("cart:80");
    tokio::time::advance(Duration::from_secs(400)).await;
    mesh.feed.sweep();
    assert!(mesh.feed.wanted().is_empty(), "idle");
}

#[tokio::test(start_paused = true)]
async fn absent_names_are_bounded_and_those_of_the_client_with_most_are_evicted() {
    let mesh = mesh(Resolution::OnDemand);
    mesh.begin(2, "mistyped:80");
    mesh.feed.mark_absent(["mistyped:80"]);
    for n in 0..50 {
        let name = format!("invented-{n}:80");
        mesh.begin(1, &name);
        mesh.feed.mark_absent([&*name]);
    }
    let wanted = mesh.feed.wanted();
    assert!(wanted.len() == 3 && wanted.contains(&"mistyped:80".into()), "{wanted:?}");
    assert!(mesh.lookup_as(2, "mistyped:80").now_or_never().is_some(), "still remembered");
}

#[tokio::test(start_paused = true)]
async fn an_absent_name_whose_first_version_cannot_be_used_is_refused() {
    let mesh = mesh(Resolution::OnDemand);
    mesh.begin(1, "bad:80");
    mesh.feed.mark_absent(["bad:80"]);
    mesh.feed.mark_refused(["bad:80"]);
    assert!(matches!(mesh.lookup("bad:80").await, Lookup::Refused));
}

#[tokio::test(start_paused = true)]
async fn a_refused_destination_fails_requests_at_once_until_a_version_is_accepted() {
    let mesh = mesh(Resolution::OnDemand);
    let serve = async {
        mesh.feed.next().await;
        mesh.feed.mark_refused(["bad:80", "never-requested:80"]);
    };
    let started = Instant::now();
    let (answer, ()) = tokio::join!(mesh.lookup("bad:80"), serve);
    assert!(matches!(answer, Lookup::Refused));
    assert!(matches!(mesh.lookup("bad:80").await, Lookup::Refused), "without a new subscription");
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(mesh.feed.wanted(), ["bad:80".into()]);
    mesh.publish("bad:80");
    assert!(matches!(mesh.lookup("bad:80").await, Lookup::Found(_)));
    mesh.feed.mark_refused(["bad:80"]);
    assert!(matches!(mesh.lookup("bad:80").await, Lookup::Found(_)), "the version before serves on");
}

#[tokio::test(start_paused = true)]
async fn no_request_waits_longer_than_the_limit() {
    let mesh = mesh(Resolution::OnDemand);
    let started = Instant::now();
    assert!(matches!(mesh.lookup("slow:80").await, Lookup::Unknown));
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    mesh.feed.sweep();
    assert_eq!(mesh.feed.next().await, [subscribe("slow:80"), unsubscribe("slow:80")]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_invented_hosts_does_not_displace_existing_names() {
    let mesh = mesh(Resolution::OnDemand);
    // Some are pending, some are known to be absent.
    for n in 0..50 {
        mesh.begin(1, &format!("invented-{n}:80"));
        if n % 2 == 0 {
            mesh.feed.mark_absent([&*format!("invented-{n}:80")]);
        }
    }
    let serve = async {
        tokio::task::yield_now().await;
        assert!(mesh.feed.wanted().contains(&"cart:80".into()));
        mesh.publish("cart:80");
    };
    let (found, ()) = tokio::join!(mesh.lookup("cart:80"), serve);
    assert!(matches!(found, Lookup::Found(_)));
    for n in 50..100 {
        mesh.begin(1, &format!("invented-{n}:80"));
    }
    let wanted = mesh.feed.wanted();
    assert!(wanted.len() == 4 && wanted.contains(&"cart:80".into()), "{wanted:?}");
    assert!(matches!(mesh.lookup("cart:80").await, Lookup::Found(_)));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_pending_name_of_the_client_with_most_is_evicted() {
    let mesh = mesh(Resolution::OnDemand);
    mesh.begin(2, "real:80");
    let pushed_out = mesh.lookup("invented-0:80");
    tokio::pin!(pushed_out);
    assert!((&mut pushed_out).now_or_never().is_none());
    for n in 1..20 {
        mesh.begin(1, &format!("invented-{n}:80"));
    }
    assert!(matches!(pushed_out.now_or_never(), Some(Lookup::Unknown)), "at once");
    assert!(mesh.feed.wanted().contains(&"real:80".into()));
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_of_existing_names_another_is_refused_at_once() {
    let mesh = mesh(Resolution::OnDemand);
    mesh.feed.adopt(["a:1", "b:1", "c:1", "d:1", "e:1"].map(Name::from));
    let started = Instant::now();
    assert!(matches!(mesh.lookup("f:1").await, Lookup::Unknown));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_name_leaves_no_state() {
    let mesh = mesh(Resolution::OnDemand);
    for round in 0..4 {
        for n in 0..3 {
            mesh.begin(1, &format!("slow-{round}-{n}:80"));
        }
        tokio::time::advance(Duration::from_secs(6)).await;
        mesh.feed.sweep();
        assert!(mesh.feed.wanted().is_empty());
        assert_eq!(mesh.on_demand.0.state().unproven.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn unused_names_are_dropped_and_used_or_pinned_names_stay() {
    let mesh = mesh(Resolution::OnDemand);
    mesh.feed.adopt(["idle:80".into(), "used:80".into()]);
    mesh.on_demand.pin("bound:80");
    for name in ["idle:80", "used:80", "bound:80"] {
        mesh.publish(name);
    }
    mesh.feed.next().await;
    for _ in 0..7 {
        tokio::time::advance(Duration::from_secs(50)).await;
        mesh.on_demand.known(&mesh.published.load(), "used:80");
        mesh.feed.sweep();
    }
    assert_eq!(mesh.feed.next().await, [unsubscribe("idle:80")]);
}

#[tokio::test(start_paused = true)]
async fn in_wildcard_mode_short_names_are_completed_without_a_subscription() {
    let (namespace, cluster_domain) = (Arc::new(OnceLock::from(Name::from("shop"))), "cluster.local".into());
    let mesh = mesh(Resolution::Wildcard { namespace, cluster_domain });
    mesh.publish("cart.shop.svc.cluster.local:80");
    for name in ["cart:80", "cart.shop:80", "cart.shop.svc:80", "cart.shop.svc.cluster.local:80"] {
        assert!(matches!(mesh.lookup(name).await, Lookup::Found(_)), "{name}");
    }
    assert!(matches!(mesh.lookup("other:80").await, Lookup::Absent));
    assert!(mesh.feed.wanted().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pinned_name_that_does_not_exist_is_never_dropped() {
    let mesh = mesh(Resolution::OnDemand);
    mesh.on_demand.pin("bound:80");
    mesh.feed.mark_absent(["bound:80"]);
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(5)).await;
        mesh.feed.sweep();
    }
    assert_eq!(mesh.feed.next().await, [subscribe("bound:80")]);
    assert!(matches!(mesh.lookup("bound:80").await, Lookup::Absent));
    mesh.publish("bound:80");
    assert!(matches!(mesh.lookup("bound:80").await, Lookup::Found(_)));
    for _ in 0..9 {
        tokio::time::advance(Duration::from_secs(50)).await;
        mesh.feed.sweep();
    }
    assert!(mesh.feed.wanted().iter().any(|name| &**name == "bound:80"));
}

#[tokio::test(start_paused = true)]
async fn a_host_is_subscribed_to_when_it_is_requested_in_either_mode() {
    let wildcard =
        Resolution::Wildcard { namespace: Arc::new(OnceLock::new()), cluster_domain: "cluster.local".into() };
    for resolution in [Resolution::OnDemand, wildcard] {
        let mesh = mesh(resolution);
        let serve = async {
            assert_eq!(mesh.feed.next().await, [subscribe("dns|cart")]);
            mesh.publish_host("dns|cart");
            assert_eq!(mesh.feed.next().await, [subscribe("dns|www")]);
            mesh.feed.mark_absent(["dns|www"]);
        };
        let request = async {
            assert_eq!(mesh.host("dns|cart").await.unwrap().addresses[..], [IpAddr::from([240, 0, 0, 1])]);
            assert!(mesh.host("dns|www").await.is_none());
            assert!(mesh.host("dns|www").now_or_never().unwrap().is_none(), "absence is remembered");
        };
        tokio::join!(serve, request);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_control_plane_existing_names_stay_and_others_are_dropped() {
    let mesh = mesh(Resolution::OnDemand);
    mesh.begin(1, "cart:80");
    mesh.begin(1, "www:80");
    mesh.publish("cart:80");
    mesh.feed.mark_absent(["www:80"]);
    mesh.feed.sweep();
    for kept in [true, false] {
        tokio::time::advance(OnDemandLimits::default().idle).await;
        if kept {
            mesh.feed.keep_existing();
        }
        mesh.feed.sweep();
        let expected: &[Name] = if kept { &["cart:80".into()] } else { &[] };
        assert_eq!(mesh.feed.wanted(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_in_use_stays_and_an_unused_one_is_dropped() {
    let mesh = mesh(Resolution::OnDemand);
    assert!(mesh.host("dns|cart").now_or_never().is_none());
    mesh.publish_host("dns|cart");
    mesh.feed.next().await;
    let idle = OnDemandLimits::default().idle;
    for used in [true, false] {
        if used {
            assert!(mesh.on_demand.known_host("dns|cart").is_some());
        }
        tokio::time::advance(idle).await;
        mesh.feed.sweep();
        assert_eq!(mesh.feed.wanted().is_empty(), !used);
    }
}
