//! The descriptors of the xDS messages that a proxy decodes, taken from those that `envoy-types` was generated from.
//!
//! With them a resource becomes JSON by the API's own field names. Everything else is left out: other messages, comments, options.
//! The one option that is needed, `udpa.annotations.sensitive`, becomes a list of fields.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, EnumOptions, EnumValueDescriptorProto, FieldDescriptorProto, FieldOptions,
    FileDescriptorProto, FileDescriptorSet, MessageOptions,
};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind};

/// The resources, and the messages that they hold in an `Any`. What these refer to is included.
const ROOTS: [&str; 44] = [
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.FilterConfig",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
    "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.network.rbac.v3.RBAC",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig",
    "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
    "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState",
    "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
    "envoy.extensions.load_balancing_policies.random.v3.Random",
    "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
    "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
    "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality",
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "outrigger.lb.v1.PeakEwma",
    // The well-known types that Envoy's metadata and tests wrap.
    "google.protobuf.Struct",
    "google.protobuf.StringValue",
];

/// The files that are generated of the descriptors.
pub struct Descriptors {
    /// `xds-descriptors.bin`: a `google.protobuf.FileDescriptorSet`.
    pub set: Vec<u8>,
    /// `xds-sensitive-fields.txt`: a line for each field with `udpa.annotations.sensitive`, by its full name.
    pub sensitive_fields: String,
}

/// Reads the descriptors of the `envoy-types` that the workspace at this path links. Fails if they are missing or lack a root.
pub fn read(workspace: &Path) -> Result<Descriptors, Box<dyn Error>> {
    let all = std::fs::read(envoy_types(workspace)?.join("src/generated/types.bin"))?;
    let mut all = DescriptorPool::decode(all.as_slice())?;
    all.add_file_descriptor_proto(own())?;
    let reached = reached(&all)?;
    let sensitive =
        all.get_extension_by_name("udpa.annotations.sensitive").ok_or("no sensitive annotation")?;
    let is_sensitive =
        |field: &FieldDescriptor| field.options().get_extension(&sensitive).as_bool() == Some(true);
    let messages = all.all_messages().filter(|message| reached.contains(message.full_name()));
    let fields = messages.flat_map(|message| message.fields().collect::<Vec<_>>());
    let sensitive_fields: BTreeSet<_> =
        fields.filter(is_sensitive).map(|field| format!("{}\n", field.full_name())).collect();
    let file = all.files().map(|file| pruned(&all, file.file_descriptor_proto(), &reached));
    let file = file.filter(|file| !(file.message_type.is_empty() && file.enum_type.is_empty()));
    let set = FileDescriptorSet { file: file.collect() }.encode_to_vec();
    Ok(Descriptors { set, sensitive_fields: sensitive_fields.into_iter().collect() })
}

/// Returns the descriptor of our own load balancing policy. It refers to a message of Envoy's API, whose .proto files we do not have.
fn own() -> FileDescriptorProto {
    let field = FieldDescriptorProto {
        name: Some("slow_start_config".into()),
        number: Some(1),
        label: Some(Label::Optional.into()),
        r#type: Some(Type::Message.into()),
        type_name: Some(".envoy.extensions.load_balancing_policies.common.v3.SlowStartConfig".into()),
        ..Default::default()
    };
    let message = DescriptorProto { name: Some("PeakEwma".into()), field: vec![field], ..Default::default() };
    FileDescriptorProto {
        name: Some("outrigger/lb/v1/peak_ewma.proto".into()),
        package: Some("outrigger.lb.v1".into()),
        dependency: vec!["envoy/extensions/load_balancing_policies/common/v3/common.proto".into()],
        message_type: vec![message],
        syntax: Some("proto3".into()),
        ..Default::default()
    }
}

/// Returns the full names of the messages and enums that the roots consist of.
fn reached(all: &DescriptorPool) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let root = |name: &&str| all.get_message_by_name(name).ok_or_else(|| format!("no {name}"));
    let mut pending = ROOTS.iter().map(root).collect::<Result<Vec<_>, _>>()?;
    let mut reached = BTreeSet::new();
    while let Some(message) = pending.pop() {
        if !reached.insert(message.full_name().to_owned()) {
            continue;
        }
        pending.extend(message.parent_message());
        for field in message.fields() {
            match field.kind() {
                Kind::Message(of) => pending.push(of),
                Kind::Enum(of) => {
                    pending.extend(of.parent_message());
                    reached.insert(of.full_name().to_owned());
                }
                _ => {}
            }
        }
    }
    Ok(reached)
}

/// Returns what is reached of a file.
fn pruned(
    all: &DescriptorPool,
    file: &FileDescriptorProto,
    reached: &BTreeSet<String>,
) -> FileDescriptorProto {
    let is_reached = |name: &str| reached.contains(&format!("{}.{name}", file.package()));
    let mut message_type = file.message_type.clone();
    message_type.retain(|message| is_reached(message.name()));
    let mut enum_type = file.enum_type.clone();
    enum_type.retain(|of| is_reached(of.name()));
    enum_type.iter_mut().for_each(|of| without_options(&mut of.options, &mut of.value));
    let mut used = BTreeSet::new();
    for message in &mut message_type {
        prune(message, &format!("{}.{}", file.package(), message.name()), reached, &mut used);
    }
    let of_type = |name: &String| {
        let name = name.trim_start_matches('.');
        let message = all.get_message_by_name(name).map(|message| message.parent_file());
        message.or_else(|| all.get_enum_by_name(name).map(|of| of.parent_file()))
    };
    let dependencies: BTreeSet<_> = used
        .iter()
        .filter_map(of_type)
        .map(|of| of.name().to_owned())
        .filter(|of| of != file.name())
        .collect();
    FileDescriptorProto {
        name: file.name.clone(),
        package: file.package.clone(),
        dependency: dependencies.into_iter().collect(),
        message_type,
        enum_type,
        syntax: file.syntax.clone(),
        ..Default::default()
    }
}

/// Drops what is not reached of a message, and all options that do not change its encoding. Collects the types of its fields.
fn prune(message: &mut DescriptorProto, name: &str, reached: &BTreeSet<String>, used: &mut BTreeSet<String>) {
    message.options = message
        .options
        .take()
        .filter(|options| options.map_entry())
        .map(|_| MessageOptions { map_entry: Some(true), ..Default::default() });
    message.oneof_decl.iter_mut().for_each(|one| one.options = None);
    message.extension.clear();
    message.enum_type.retain(|of| reached.contains(&format!("{name}.{}", of.name())));
    message.enum_type.iter_mut().for_each(|of| without_options(&mut of.options, &mut of.value));
    for field in &mut message.field {
        prune_field(field);
        used.extend(field.type_name.clone());
    }
    message.nested_type.retain(|nested| reached.contains(&format!("{name}.{}", nested.name())));
    for nested in &mut message.nested_type {
        let name = format!("{name}.{}", nested.name());
        prune(nested, &name, reached, used);
    }
}

fn prune_field(field: &mut FieldDescriptorProto) {
    field.json_name = None;
    let packed = field.options.take().and_then(|options| options.packed);
    field.options = packed.map(|packed| FieldOptions { packed: Some(packed), ..Default::default() });
}

/// Keeps `allow_alias`, without which the descriptor of an enum with aliases is invalid.
fn without_options(options: &mut Option<EnumOptions>, values: &mut [EnumValueDescriptorProto]) {
    *options = options
        .take()
        .filter(|options| options.allow_alias.is_some())
        .map(|options| EnumOptions { allow_alias: options.allow_alias, ..Default::default() });
    values.iter_mut().for_each(|value| value.options = None);
}

/// Returns the directory of the sources of `envoy-types`, in the version that the workspace links.
fn envoy_types(workspace: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let host = output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc names no host")?;
    // Without the platform cargo needs the sources of all others too.
    let metadata = output(
        Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--offline", "--filter-platform", host])
            .current_dir(workspace),
    )?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let package = packages.find(|package| package["name"] == "envoy-types").ok_or("no envoy-types")?;
    let manifest = package["manifest_path"].as_str().ok_or("envoy-types has no manifest")?;
    Ok(Path::new(manifest).parent().ok_or("the manifest is in no directory")?.to_owned())
}

fn output(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}
