//! The Secrets with API keys that a policy refers to: which keys it gets of them, and which references fail.
//!
//! A policy gets the keys of every Secret that it can use. Of the same client or key in several places, the first one counts: those in the
//! policy itself, then the Secrets in its order. So no Secret adds a key to a client that another place has.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_core::Name;

use super::authentication::{ApiKeys, Authentication};
use super::backend_message::not_permitted;
use super::diagnostic::Code;
use super::inventory::Inventory;
use super::resource::policy::PolicySpec;
use super::resource::{API_KEYS, Metadata, ResourceId};

/// Why a Secret, or an entry of it, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnusableSecret {
    /// The Secret.
    pub(super) secret: ResourceId,
    /// The reason of the condition `ResolvedRefs`.
    pub(super) reason: &'static str,
    /// What `outrigger check` calls it.
    pub(super) code: Code,
    /// The field in error.
    pub(super) field: String,
    /// For users. It has nothing of the keys.
    pub(super) message: String,
}

/// Returns the meaning `of` a policy with the keys of its Secrets, and what cannot be used of them.
pub(super) fn resolved(
    inventory: &Inventory,
    metadata: &Metadata,
    spec: &PolicySpec,
    of: &Arc<Authentication>,
) -> (Arc<Authentication>, Vec<UnusableSecret>) {
    let Some(keys) = of.api_keys.as_ref().filter(|keys| !keys.secrets.is_empty()) else {
        return (Arc::clone(of), Vec::new());
    };
    let mut known = Known::of(keys);
    let mut unusable = Vec::new();
    for (at, id) in spec.secrets(&metadata.id.namespace).into_iter().enumerate() {
        let field = format!("spec.apiKeys.secrets[{at}]");
        for (reason, code, message) in known.add(inventory, metadata, &id) {
            unusable.push(UnusableSecret { secret: id.clone(), reason, code, field: field.clone(), message });
        }
    }
    if known.clients.is_empty()
        && unusable.is_empty()
        && let Some(secret) = spec.secrets(&metadata.id.namespace).into_iter().next()
    {
        let (reason, code, field) = ("InvalidSecret", Code::UnusableSecret, "spec.apiKeys.secrets".into());
        let message = "neither the policy nor its Secrets have a key: every request is refused".into();
        unusable.push(UnusableSecret { secret, reason, code, field, message });
    }
    let api_keys = Some(ApiKeys { clients: known.clients, ..keys.clone() });
    (Arc::new(Authentication { api_keys, ..(**of).clone() }), unusable)
}

/// Returns what cannot be used of the Secrets of a policy.
pub(super) fn unusable(inventory: &Inventory, metadata: &Metadata, spec: &PolicySpec) -> Vec<UnusableSecret> {
    match spec.authentication() {
        Some(of) => resolved(inventory, metadata, spec, of).1,
        None => Vec::new(),
    }
}

/// The keys of a policy, the place of each client, and the client of each key by its hash.
struct Known {
    clients: Vec<(Name, Name)>,
    places: BTreeMap<Name, String>,
    owners: BTreeMap<Name, Name>,
}

impl Known {
    fn of(keys: &ApiKeys) -> Self {
        let place = |(client, _): &(Name, Name)| (client.clone(), "the policy".to_owned());
        let mut known = Self {
            clients: Vec::new(),
            places: keys.clients.iter().map(place).collect(),
            owners: BTreeMap::new(),
        };
        known.extend(keys.clients.clone());
        known
    }

    /// Adds keys. Of the same key for two clients, the first one counts.
    fn extend(&mut self, keys: Vec<(Name, Name)>) {
        for (client, hash) in &keys {
            self.owners.entry(hash.clone()).or_insert_with(|| client.clone());
        }
        self.clients.extend(keys);
    }

    /// Adds the keys of a Secret. Returns what cannot be used of it: the reason, the code and the message.
    fn add(
        &mut self,
        inventory: &Inventory,
        Metadata { id: policy, .. }: &Metadata,
        id: &ResourceId,
    ) -> Vec<(&'static str, Code, String)> {
        // Checked first, so that a policy learns nothing about a Secret that it may not refer to.
        if id.namespace != policy.namespace && !inventory.permits_secret(policy.kind, &policy.namespace, id) {
            let message = not_permitted(policy.kind, &policy.namespace, &id.to_string(), &id.namespace);
            return vec![("RefNotPermitted", Code::SecretNotPermitted, message)];
        }
        let Some(secret) = inventory.secret(id) else {
            let message = format!("there is no {id} with the label {API_KEYS}: \"true\"");
            return vec![("SecretNotFound", Code::UnknownSecret, message)];
        };
        let mut unusable = Vec::new();
        if let Some(problem) = &secret.problem {
            let kept = if secret.stands_in { "" } else { "; its last good version is used" };
            unusable.push(("InvalidSecret", Code::UnusableSecret, format!("{id} {problem}{kept}")));
        }
        let mut own = Vec::new();
        let mut duplicate = |message: String| {
            unusable.push(("DuplicateClient", Code::DuplicateClient, format!("{id}: {message}")));
        };
        for client in &secret.without_keys {
            if let Some(place) = self.places.get(client) {
                duplicate(format!("client {client}, without a key, is in {place} too, whose keys are used"));
            }
        }
        for (client, hash) in &secret.keys {
            if let Some(place) = self.places.get(client) {
                duplicate(format!("client {client} is in {place} too, whose keys are used"));
            } else if let Some(other) = self.owners.get(hash) {
                duplicate(format!("a key of client {client} is one of client {other} too, whose it remains"));
            } else {
                own.push((client.clone(), hash.clone()));
            }
        }
        // A client without a key is in this place too: a later Secret adds no key to it.
        let without = secret.without_keys.iter().filter(|client| !self.places.contains_key(*client));
        let clients = own.iter().map(|(client, _)| client).chain(without);
        let places: Vec<_> = clients.map(|client| (client.clone(), id.to_string())).collect();
        self.places.extend(places);
        self.extend(own);
        unusable.dedup();
        unusable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mesh_builder::MeshBuilder;

    const ACME: &str = "acme: first-key-of-acme";

    fn secret(name: &str, entries: &str) -> String {
        let (name, namespace) = name.split_once('.').unwrap_or((name, "shop"));
        format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: {name}, namespace: {namespace}, \
               labels: {{outrigger.dev/api-keys: 'true'}}}}, stringData: {{{entries}}}}}"
        )
    }

    fn policy(keys: &str) -> String {
        format!(
            "{{apiVersion: outrigger.dev/v1alpha1, kind: AuthenticationPolicy, metadata: {{name: a, namespace: shop}}, \
               spec: {{apiKeys: {{{keys}, from: [{{header: x-key}}]}}}}}}"
        )
    }

    fn grant(from: &str, to: &str) -> String {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {{name: g, namespace: keys}}, \
               spec: {{from: [{{{from}, namespace: shop}}], to: [{{group: '', {to}}}]}}}}"
        )
    }

    /// The clients of the policy, each as often as it has keys, and its condition `ResolvedRefs`.
    fn outcome(builder: &MeshBuilder) -> (Vec<String>, String) {
        let mesh = builder.mesh();
        let active: &Authentication = &mesh.policies(&"shop".into())[0].spec;
        let clients =
            active.api_keys.iter().flat_map(|keys| &keys.clients).map(|(client, _)| client.to_string());
        let condition = builder.conditions("AuthenticationPolicy shop/a").remove(1);
        (clients.collect(), condition)
    }

    fn of(resources: &[&str]) -> (Vec<String>, String) {
        let mut builder = MeshBuilder::default();
        outcome(builder.with(resources))
    }

    const RESOLVED: &str = "ResolvedRefs=True (ResolvedRefs)";

    #[test]
    fn a_policy_has_the_keys_of_its_secrets_as_they_change() {
        let mut builder = MeshBuilder::default();
        let missing = "ResolvedRefs=False (SecretNotFound): there is no Secret shop/a with the label outrigger.dev/api-keys: \"true\"";
        builder.with(&[&policy("secrets: [{name: a}]"), &secret("b", ACME), &secret("a.keys", ACME)]);
        assert_eq!(outcome(&builder), (vec![], missing.into()));
        let two = "acme: \"first-key-of-acme\\nsecond-key-of-acme\", beta: key-of-client-beta";
        for (entries, clients) in [(ACME, &["acme"][..]), (two, &["acme", "acme", "beta"])] {
            builder.with(&[&secret("a", entries)]);
            assert_eq!(
                outcome(&builder),
                (clients.iter().map(ToString::to_string).collect(), RESOLVED.into())
            );
        }
        builder.without(&secret("a", ACME));
        assert_eq!(outcome(&builder), (vec![], missing.into()));
    }

    #[test]
    fn a_refused_secret_without_a_good_version_has_no_keys_and_says_why() {
        let mut builder = MeshBuilder::default();
        builder.with(&[&policy("secrets: [{name: a}, {name: b}]"), &secret("b", ACME)]);
        builder.with_refused(&secret("a", "acme: short, beta: other"));
        let why = "ResolvedRefs=False (InvalidSecret): Secret shop/a is refused: stringData.acme: is shorter than 16 characters";
        assert_eq!(outcome(&builder), (vec!["acme".into()], why.into()));
    }

    #[test]
    fn an_empty_secret_or_entry_revokes_the_keys_also_of_later_secrets() {
        let mut builder = MeshBuilder::default();
        builder.with(&[&policy("secrets: [{name: a}, {name: b}]"), &secret("a", ACME)]);
        builder.with(&[&secret("b", "acme: another-key-of-acme, beta: key-of-client-beta")]);
        assert_eq!(outcome(&builder).0, ["acme", "beta"]);
        builder.with(&[&secret("a", "acme: ''")]);
        let duplicate = "ResolvedRefs=False (DuplicateClient): \
             Secret shop/b: client acme is in Secret shop/a too, whose keys are used";
        assert_eq!(outcome(&builder), (vec!["beta".into()], duplicate.into()));
        builder.with(&[&secret("b", "")]);
        let none = "ResolvedRefs=False (InvalidSecret): neither the policy nor its Secrets have a key: every request is refused";
        assert_eq!(outcome(&builder), (vec![], none.into()));
        builder.with(&[&secret("a", ACME), &secret("b", "acme: ''")]);
        let revoked = "ResolvedRefs=False (DuplicateClient): \
             Secret shop/b: client acme, without a key, is in Secret shop/a too, whose keys are used";
        assert_eq!(outcome(&builder), (vec!["acme".into()], revoked.into()));
        builder.with(&[&secret("b", "")]);
        assert_eq!(outcome(&builder), (vec!["acme".into()], RESOLVED.into()));
    }

    #[test]
    fn of_a_client_or_key_in_several_places_the_first_counts() {
        let keys = "clients: [{name: gamma, key: first-key-of-acme}], secrets: [{name: a}, {name: b}]";
        let (clients, condition) = of(&[
            &policy(keys),
            &secret("a", "acme: first-key-of-acme, gamma: key-of-client-gamma, beta: key-of-client-beta"),
            &secret("b", "beta: another-key-of-beta, delta: key-of-client-beta, epsilon: key-of-epsilon-1"),
        ]);
        assert_eq!(clients, ["gamma", "beta", "epsilon"]);
        let expected = "ResolvedRefs=False (DuplicateClient): \
             Secret shop/a: a key of client acme is one of client gamma too, whose it remains; \
             Secret shop/a: client gamma is in the policy too, whose keys are used; \
             Secret shop/b: client beta is in Secret shop/a too, whose keys are used; \
             Secret shop/b: a key of client delta is one of client beta too, whose it remains";
        assert_eq!(condition, expected);
    }

    #[test]
    fn a_secret_of_another_namespace_needs_a_grant() {
        let policy = policy("secrets: [{name: a, namespace: keys}]");
        let (own, to) = ("group: outrigger.dev, kind: AuthenticationPolicy", "kind: Secret");
        let refused = "ResolvedRefs=False (RefNotPermitted): no ReferenceGrant in keys permits an AuthenticationPolicy of shop to \
             refer to Secret keys/a";
        for grant in [
            grant(own, "kind: Service"),
            grant(own, "kind: Secret, name: b"),
            grant("group: gateway.networking.k8s.io, kind: AuthenticationPolicy", to),
            grant("group: outrigger.dev, kind: ExternalAuthorizationPolicy", to),
        ] {
            assert_eq!(of(&[&policy, &secret("a.keys", ACME), &grant]), (vec![], refused.into()), "{grant}");
        }
        let mut builder = MeshBuilder::default();
        builder.with(&[&policy, &secret("a.keys", ACME)]);
        assert_eq!(outcome(&builder).1, refused);
        for grant in [grant(own, to), grant(own, "kind: Secret, name: a")] {
            builder.with(&[&grant]);
            assert_eq!(outcome(&builder), (vec!["acme".into()], RESOLVED.into()), "{grant}");
            builder.without(&grant);
            assert_eq!(outcome(&builder), (vec![], refused.into()));
        }
    }
}
