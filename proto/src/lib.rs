//! Every wire message of Outrigger under one roof: short names for the xDS types, and our own protocols.
//!
//! No logic lives here, except the set of resource types ([`kind::Kind`]). Crates name xDS messages as `xds::route::Route`, never by the path of the crate that
//! generates them, so that the generator can be replaced in this file alone.

/// `istio.v1.auth`: how a workload gets its certificate. The wire format of Istio's API.
pub mod istio_auth {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
    include!("generated/istio.v1.auth.rs");
}

/// `outrigger.demo.v1`: the gRPC service of the demo's shop.
pub mod demo {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
    include!("generated/outrigger.demo.v1.rs");
}

/// `outrigger.registration.v1`: how a workload on plain Linux gets into discovery.
pub mod registration {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
    include!("generated/outrigger.registration.v1.rs");
}

pub mod kind;
pub mod xds;

/// The descriptors of the xDS messages that a proxy decodes, as a `google.protobuf.FileDescriptorSet` without comments and options.
pub const XDS_DESCRIPTORS: &[u8] = include_bytes!("generated/xds-descriptors.bin");

/// The fields of these messages that must not be shown (`udpa.annotations.sensitive`): a line for each, by its full name.
pub const XDS_SENSITIVE_FIELDS: &str = include_str!("generated/xds-sensitive-fields.txt");
