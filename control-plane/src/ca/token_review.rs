//! Verifies the token of a pod's service account with the API server (TokenReview, authentication.k8s.io/v1).
//!
//! Namespace, account and pod come from the reply alone. The token must be for our audience and bound to a pod. It must also be
//! sent from an address of that pod or its node: the API server does not check from where, and so a copy of it is of no use on another
//! node or in another pod. No reply is kept: a token is worth nothing as soon as its pod or its account is deleted. While the API server
//! is away, callers get UNAVAILABLE and retry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::PostParams;
use kube::{Api, Client};
use thiserror::Error;

/// The audience of the tokens that the injected volume projects.
pub const AUDIENCE: &str = "outrigger.dev";
/// Time limit of all calls to the API server together, below the time that proxies wait for a certificate.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What the name of a service account's user begins with; its namespace and name follow.
pub(super) const USER_PREFIX: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The pod that a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenPod {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Why a token proves no pod.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReviewError {
    /// The token is not a JWT, or has not the claims of one.
    #[error("the token is not that of a service account")]
    Malformed,
    /// The API server does not accept the token: it is not a token, has expired, has another audience, or its pod is deleted.
    #[error("the API server does not accept the service account token: {0}")]
    NotAuthenticated(String),
    /// The API server did not check the audience.
    #[error("the service account token is not for the audience {AUDIENCE}")]
    Audience,
    /// The token is not of a service account.
    #[error("the token is of {0:?}, which is no service account")]
    NotServiceAccount(String),
    /// The token was made without a pod, as by `kubectl create token`.
    #[error(
        "the token of {0:?} is not bound to a pod; only the token that a pod's volume projects is accepted"
    )]
    NotBound(String),
    /// The pod has been deleted, or replaced by another of the same name.
    #[error("the pod {0} of the service account token does not exist")]
    PodGone(String),
    /// Another pod sent the token.
    #[error("the service account token of pod {pod} was sent from {from}, which is no address of that pod")]
    ForeignAddress {
        /// Namespace and name.
        pod: String,
        /// The sender.
        from: IpAddr,
    },
    /// The API server cannot be reached, or does not allow the review.
    #[error("the service account token cannot be verified now: {0}")]
    Unavailable(String),
}

/// Verifies tokens with the API server.
#[derive(Clone)]
pub(crate) struct TokenReviewer {
    client: Client,
}

impl std::fmt::Debug for TokenReviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviewer").finish_non_exhaustive()
    }
}

impl TokenReviewer {
    /// Creates a reviewer that calls the API server with `client`.
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Returns the pod that a token proves, which was sent from `from`.
    pub(crate) async fn review(&self, token: &str, from: IpAddr) -> Result<TokenPod, ReviewError> {
        let verified = async {
            let pod = proven_pod(self.status(token).await?)?;
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
            let found =
                pods.get_opt(&pod.name).await.map_err(|error| unavailable("reading a pod", &error))?;
            let from = from.to_canonical();
            match check_sender(&pod, found.as_ref(), from) {
                Err(foreign @ ReviewError::ForeignAddress { .. }) => {
                    let node = self.node(found.as_ref()).await?;
                    if !node.is_some_and(|node| is_address_of(&node, from)) {
                        return Err(foreign);
                    }
                }
                checked => checked?,
            }
            Ok(pod)
        };
        tokio::time::timeout(TIMEOUT, verified).await.unwrap_or_else(|_| {
            Err(ReviewError::Unavailable(format!("the API server did not answer within {TIMEOUT:?}")))
        })
    }

    /// Returns the node of a pod.
    async fn node(&self, pod: Option<&Pod>) -> Result<Option<Node>, ReviewError> {
        let name = pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_deref());
        let Some(name) = name else { return Ok(None) };
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.get_opt(name).await.map_err(|error| unavailable("reading a node", &error))
    }

    async fn status(&self, token: &str) -> Result<TokenReviewStatus, ReviewError> {
        let spec = TokenReviewSpec { token: Some(token.into()), audiences: Some(vec![AUDIENCE.into()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let reviewed = reviews.create(&PostParams::default(), &review).await;
        let reviewed = reviewed.map_err(|error| unavailable("TokenReview", &error))?;
        reviewed.status.ok_or_else(|| ReviewError::Unavailable("the API server returned no status".into()))
    }
}

fn unavailable(call: &str, error: &kube::Error) -> ReviewError {
    ReviewError::Unavailable(match error {
        kube::Error::Api(status) => format!("the API server refuses {call}: {}", status.message),
        error => format!("the API server cannot be reached: {error}"),
    })
}

/// Returns the pod that a reply names.
fn proven_pod(status: TokenReviewStatus) -> Result<TokenPod, ReviewError> {
    if status.authenticated != Some(true) {
        let reason = status.error.filter(|error| !error.is_empty());
        return Err(ReviewError::NotAuthenticated(reason.unwrap_or_else(|| "no reason given".into())));
    }
    // An authenticator that knows no audiences returns none (TokenReviewStatus.audiences).
    if !status.audiences.is_some_and(|audiences| audiences.iter().any(|audience| audience == AUDIENCE)) {
        return Err(ReviewError::Audience);
    }
    let UserInfo { username, extra, .. } = status.user.unwrap_or_default();
    let username = username.unwrap_or_default();
    let account = username.strip_prefix(USER_PREFIX).and_then(|account| account.split_once(':'));
    let Some((namespace, service_account)) = account else {
        return Err(ReviewError::NotServiceAccount(username));
    };
    let mut extra = extra.unwrap_or_default();
    let mut only = |key| match extra.remove(key).as_deref() {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    let (Some(name), Some(uid)) = (only(POD_NAME), only(POD_UID)) else {
        return Err(ReviewError::NotBound(username));
    };
    Ok(TokenPod { namespace: namespace.into(), service_account: service_account.into(), name, uid })
}

/// Returns an error unless the pod exists and the sender's address is the pod's or its node's.
///
/// A node may replace the source address of a pod's connection by its own (SNAT). A pod that starts has no address in its status
/// for about a second; only the token itself is checked then.
fn check_sender(pod: &TokenPod, found: Option<&Pod>, from: IpAddr) -> Result<(), ReviewError> {
    let name = || format!("{}/{}", pod.namespace, pod.name);
    let found = found
        .filter(|found| found.metadata.uid.as_deref() == Some(&pod.uid))
        .ok_or_else(|| ReviewError::PodGone(name()))?;
    let Some(status) = &found.status else { return Ok(()) };
    let pod_ips: Vec<_> = status.pod_ips.iter().flatten().map(|pod_ip| pod_ip.ip.as_str()).collect();
    let host_ips = status.host_ips.iter().flatten().map(|host_ip| host_ip.ip.as_str());
    if pod_ips.is_empty() {
        return Ok(());
    }
    let mut addresses = pod_ips.into_iter().chain(host_ips).filter_map(|ip| ip.parse::<IpAddr>().ok());
    match addresses.any(|address| address == from) {
        true => Ok(()),
        false => Err(ReviewError::ForeignAddress { pod: name(), from }),
    }
}

/// Returns true if a node has an address: one in its status, or one of the first two of its pod CIDRs, which pods do not get if the CNI
/// plugin uses these CIDRs. The second is that of its bridge, with which it reaches its own pods; the first is that of its tunnel (flannel),
/// with which it reaches others.
fn is_address_of(node: &Node, from: IpAddr) -> bool {
    let of_status = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let of_status = of_status.filter_map(|address| address.address.parse().ok());
    let cidrs = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
    let of_cidrs = cidrs.filter_map(|cidr| cidr.split_once('/')?.0.parse::<IpAddr>().ok());
    let of_cidrs = of_cidrs.flat_map(|network| {
        let second = match network {
            IpAddr::V4(network) => IpAddr::V4(Ipv4Addr::from_bits(network.to_bits() | 1)),
            IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from_bits(network.to_bits() | 1)),
        };
        [network, second]
    });
    of_status.chain(of_cidrs).any(|address: IpAddr| address == from)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(status: serde_json::Value) -> TokenReviewStatus {
        serde_json::from_value(status).unwrap()
    }

    fn user(name: &str, extra: serde_json::Value) -> serde_json::Value {
        json!({"authenticated": true, "audiences": [AUDIENCE], "user": {"username": name, "extra": extra}})
    }

    const CART: &str = "system:serviceaccount:shop:cart";

    fn cart() -> TokenPod {
        let [namespace, service_account, name, uid] = ["shop", "cart", "cart-1", "u-1"].map(String::from);
        TokenPod { namespace, service_account, name, uid }
    }

    #[test]
    fn a_bound_token_for_our_audience_proves_its_pod() {
        let bound = user(CART, json!({POD_NAME: ["cart-1"], POD_UID: ["u-1"], "other": ["x", "y"]}));
        assert_eq!(proven_pod(status(bound)), Ok(cart()));
    }

    #[test]
    fn a_token_that_proves_no_pod_is_refused_with_the_reason() {
        let bound = json!({POD_NAME: ["cart-1"], POD_UID: ["u-1"]});
        let changed = |field: &str, value: serde_json::Value| {
            let mut reply = user(CART, bound.clone());
            reply[field] = value;
            reply
        };
        for (reply, text) in [
            (
                json!({"error": "[token has expired]"}),
                "does not accept the service account token: [token has expired]",
            ),
            (changed("authenticated", json!(false)), "does not accept"),
            (changed("authenticated", json!(null)), "does not accept"),
            (changed("audiences", json!([])), "not for the audience outrigger.dev"),
            (changed("audiences", json!(["https://kubernetes.default.svc"])), "not for the audience"),
            (changed("audiences", json!(null)), "not for the audience"),
            (changed("user", json!(null)), "no service account"),
            (user("kubernetes-admin", bound.clone()), "\"kubernetes-admin\", which is no service account"),
            (user("system:serviceaccount:shop", bound.clone()), "no service account"),
            (user(CART, json!({})), "not bound to a pod"),
            (user(CART, json!({POD_NAME: ["cart-1"]})), "not bound to a pod"),
            (user(CART, json!({POD_NAME: ["cart-1", "cart-2"], POD_UID: ["u-1"]})), "not bound to a pod"),
        ] {
            let refused = proven_pod(status(reply.clone())).unwrap_err().to_string();
            assert!(refused.contains(text), "{reply}: {refused}");
        }
    }

    #[test]
    fn a_token_is_accepted_only_from_an_address_of_its_pod_or_node() {
        let pod = |uid: &str, status: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "cart-1", "uid": uid}, "status": status}))
                .unwrap()
        };
        let running = pod(
            "u-1",
            json!({"podIPs": [{"ip": "10.244.1.5"}, {"ip": "fd00::5"}], "hostIPs": [{"ip": "192.168.0.2"}]}),
        );
        let from = |address: &str| address.parse::<IpAddr>().unwrap().to_canonical();
        for address in ["10.244.1.5", "::ffff:10.244.1.5", "fd00::5", "192.168.0.2"] {
            assert_eq!(check_sender(&cart(), Some(&running), from(address)), Ok(()), "{address}");
        }
        let stolen = check_sender(&cart(), Some(&running), from("10.244.2.9")).unwrap_err().to_string();
        assert!(stolen.contains("of pod shop/cart-1 was sent from 10.244.2.9"), "{stolen}");
        let starting = pod("u-1", json!({"hostIPs": [{"ip": "192.168.0.2"}]}));
        assert_eq!(check_sender(&cart(), Some(&starting), from("10.244.1.5")), Ok(()));
        let gone = ReviewError::PodGone("shop/cart-1".into());
        assert_eq!(
            check_sender(&cart(), Some(&pod("u-2", json!({}))), from("10.244.1.5")),
            Err(gone.clone())
        );
        assert_eq!(check_sender(&cart(), None, from("10.244.1.5")), Err(gone));
    }

    #[test]
    fn the_addresses_of_a_node_are_those_of_its_status_and_of_its_bridge_and_tunnel() {
        let node: Node = serde_json::from_value(json!({
            "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:1::/64", "damaged"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "192.168.0.2"},
                {"type": "Hostname", "address": "node1"},
                {"type": "ExternalIP", "address": "203.0.113.7"},
            ]},
        }))
        .unwrap();
        let has = |address: &str| is_address_of(&node, address.parse().unwrap());
        for own in ["192.168.0.2", "203.0.113.7", "10.244.1.0", "10.244.1.1", "fd00:1::", "fd00:1::1"] {
            assert!(has(own), "{own}");
        }
        for foreign in ["10.244.1.2", "10.244.2.1", "192.168.0.3", "fd00:1::2"] {
            assert!(!has(foreign), "{foreign}");
        }
        assert!(!is_address_of(&Node::default(), "192.168.0.2".parse().unwrap()));
    }
}
