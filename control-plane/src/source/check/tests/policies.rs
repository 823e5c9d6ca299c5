//! Problems of policies that are accepted.

use super::*;

#[test]
fn a_check_that_does_not_suit_a_port_is_reported() {
    let text = policy("{group: '', kind: Service, name: cart}").replace("Authorization", "BackendTraffic");
    let text = text.replace("action: Allow", "healthCheck: {type: TCP}");
    let message = "spec.healthCheck.type: TCP does not suit the protocol of port 80 of Service cart, which is not checked";
    let expected = [format!("b.yaml:5:17 ignored-field BackendTrafficPolicy shop/p, {message}")];
    assert_eq!(check_texts(&[("a.yaml", &services()), ("b.yaml", &text)]), expected);
}
