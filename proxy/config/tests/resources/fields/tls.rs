//! Transport sockets and the TLS contexts in them.

use outrigger_proto::xds::protobuf::{Any, BoolValue};
use outrigger_proto::xds::{cluster, matcher, raw_buffer, tls, type_url};

use super::clusters::in_cluster;
use super::listeners::in_socket;
use super::place::Place;
use crate::dns::{self, host_tls};
use crate::fixture::*;

fn in_upstream(of: tls::UpstreamTlsContext) -> (String, Any) {
    let mut cluster = cart_cluster();
    cluster.transport_socket_matches[0].transport_socket = socket(type_url::UPSTREAM_TLS_CONTEXT, &of);
    in_cluster(cluster)
}

fn in_downstream(of: tls::DownstreamTlsContext) -> (String, Any) {
    in_socket(socket(type_url::DOWNSTREAM_TLS_CONTEXT, &of).unwrap())
}

fn in_common(of: tls::CommonTlsContext) -> (String, Any) {
    in_downstream(tls::DownstreamTlsContext { common_tls_context: Some(of), ..Default::default() })
}

fn combined() -> tls::common_tls_context::CombinedCertificateValidationContext {
    use tls::common_tls_context::ValidationContextType;
    let wire = common_tls(&["h2"], &[CART_ID]);
    let Some(ValidationContextType::CombinedValidationContext(combined)) = wire.validation_context_type
    else {
        panic!()
    };
    combined
}

fn in_combined(of: tls::common_tls_context::CombinedCertificateValidationContext) -> (String, Any) {
    use tls::common_tls_context::ValidationContextType::CombinedValidationContext;
    let validation_context_type = Some(CombinedValidationContext(of));
    in_common(tls::CommonTlsContext { validation_context_type, ..common_tls(&["h2"], &[]) })
}

fn in_validation(of: tls::CertificateValidationContext) -> (String, Any) {
    in_combined(tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(of),
        ..combined()
    })
}

const SOURCE: &str = "the secrets are made here, and no source could make them others";

#[expect(deprecated, reason = "older forms are still sent")]
pub fn places() -> Vec<Place> {
    use tls::common_tls_context::ValidationContextType;
    use tls::downstream_tls_context::SessionTicketKeysType;
    let downstream = || tls::DownstreamTlsContext {
        common_tls_context: Some(common_tls(&["h2"], &[])),
        ..Default::default()
    };
    let validation = || combined().default_validation_context.unwrap();
    let exact = |uri: &str| matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(uri.into())),
        ignore_case: false,
    };
    vec![
        Place::new(
            "TransportSocket",
            "envoy.config.core.v3.TransportSocket",
            socket(type_url::DOWNSTREAM_TLS_CONTEXT, &downstream()).unwrap(),
            in_socket,
        )
        .harmless("the type of its configuration says what it is", &["name"]),
        Place::new(
            "DownstreamTlsContext",
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            downstream(),
            in_downstream,
        )
        .probe("require_client_certificate", |of: &mut tls::DownstreamTlsContext| {
            of.require_client_certificate = Some(BoolValue { value: true })
        })
        .probe("disable_stateless_session_resumption", |of: &mut tls::DownstreamTlsContext| {
            of.session_ticket_keys_type =
                Some(SessionTicketKeysType::DisableStatelessSessionResumption(true));
        })
        .probe("session_ticket_keys", |of: &mut tls::DownstreamTlsContext| {
            of.session_ticket_keys_type = Some(SessionTicketKeysType::SessionTicketKeys(Default::default()));
        })
        .harmless(
            "the state of a session is in the client's ticket",
            &["disable_stateful_session_resumption"],
        )
        .harmless(
            "sessions are resumed within one trust bundle and the life of the certificates only",
            &["session_timeout"],
        )
        .harmless("one certificate serves every server name", &["full_scan_certs_on_sni_mismatch"])
        .harmless("in TLS 1.3 the server decides", &["prefer_client_ciphers"]),
        Place::new(
            "UpstreamTlsContext",
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            upstream_tls(&[CART_ID]),
            in_upstream,
        )
        .harmless("TLS 1.3 has no renegotiation", &["allow_renegotiation"])
        .harmless("RSA key usage has no say in TLS 1.3", &["enforce_rsa_key_usage"])
        .harmless("the data path bounds how many sessions it remembers", &["max_session_keys"]),
        Place::new(
            "CommonTlsContext",
            "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
            common_tls(&["h2"], &[]),
            in_common,
        )
        .probe("validation_context_sds_secret_config", |of: &mut tls::CommonTlsContext| {
            of.alpn_protocols.clear();
            of.validation_context_type =
                Some(ValidationContextType::ValidationContextSdsSecretConfig(secret("ROOTCA")));
        })
        .harmless("see its fields", &["tls_params"])
        .refuses(&["validation_context"]),
        Place::new(
            "TlsParameters",
            "envoy.extensions.transport_sockets.tls.v3.TlsParameters",
            tls::TlsParameters::default(),
            |of| in_common(tls::CommonTlsContext { tls_params: Some(of), ..common_tls(&["h2"], &[]) }),
        )
        .harmless("TLS 1.3 is spoken whatever older version would do", &["tls_minimum_protocol_version"])
        .harmless("is what is spoken", &["tls_maximum_protocol_version"])
        .harmless("has no say in TLS 1.3", &["cipher_suites"])
        .refuses(&["tls_maximum_protocol_version"]),
        Place::new(
            "SdsSecretConfig",
            "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig",
            secret("default"),
            |of| {
                in_common(tls::CommonTlsContext {
                    tls_certificate_sds_secret_configs: vec![of],
                    ..common_tls(&["h2"], &[])
                })
            },
        )
        .harmless(SOURCE, &["sds_config"])
        .refuses(&["name"]),
        Place::new(
            "CombinedCertificateValidationContext",
            "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext",
            combined(),
            in_combined,
        ),
        Place::new(
            "CertificateValidationContext",
            "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
            validation(),
            in_validation,
        )
        .probe("match_subject_alt_names", move |of: &mut tls::CertificateValidationContext| {
            of.match_subject_alt_names = vec![exact("spiffe://cluster.local/ns/a/sa/b")];
        })
        .harmless("limits a list of revoked certificates, which is refused", &["only_verify_leaf_cert_crl"])
        .harmless("authorities are never named to clients", &["suppress_client_ca_list"]),
        Place::new(
            "SubjectAltNameMatcher",
            "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
            validation().match_typed_subject_alt_names.remove(0),
            move |of| {
                in_validation(tls::CertificateValidationContext {
                    match_typed_subject_alt_names: vec![of],
                    ..Default::default()
                })
            },
        )
        .harmless("belongs to another type of name", &["oid"])
        .refuses(&["san_type"]),
        Place::new(
            "TlsParameters (to a host outside the mesh)",
            "envoy.extensions.transport_sockets.tls.v3.TlsParameters",
            tls::TlsParameters::default(),
            |of| {
                let mut context = host_tls(dns::validation());
                context.common_tls_context.as_mut().unwrap().tls_params = Some(of);
                in_upstream(context)
            },
        )
        .harmless("TLS 1.0 and 1.1 are never spoken", &["tls_minimum_protocol_version"])
        .harmless("is what is spoken", &["tls_maximum_protocol_version"])
        .refuses(&["tls_maximum_protocol_version"]),
        Place::new(
            "CertificateValidationContext (of a host outside the mesh)",
            "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
            dns::validation(),
            |of| in_upstream(host_tls(of)),
        )
        .probe("system_root_certs", |of: &mut tls::CertificateValidationContext| {
            of.trusted_ca = None;
            of.system_root_certs = Some(Default::default());
        })
        .harmless("limits a list of revoked certificates, which is refused", &["only_verify_leaf_cert_crl"])
        .harmless("is for servers", &["suppress_client_ca_list"]),
        Place::new(
            "StringMatcher (of an identity)",
            "envoy.type.matcher.v3.StringMatcher",
            exact(CART_ID),
            move |of| {
                let mut name =
                    combined().default_validation_context.unwrap().match_typed_subject_alt_names.remove(0);
                name.matcher = Some(of);
                in_validation(tls::CertificateValidationContext {
                    match_typed_subject_alt_names: vec![name],
                    ..Default::default()
                })
            },
        )
        .probe("exact", move |of: &mut matcher::StringMatcher| {
            *of = exact("spiffe://cluster.local/ns/a/sa/b")
        })
        .refuses(&["prefix", "suffix", "safe_regex", "contains", "custom"]),
        Place::new(
            "RawBuffer",
            "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
            raw_buffer::RawBuffer {},
            |of| {
                in_cluster(cluster::Cluster {
                    transport_socket: socket(type_url::RAW_BUFFER, &of),
                    ..cart_cluster()
                })
            },
        ),
    ]
}
