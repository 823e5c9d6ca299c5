//! Names, ports and paths of an injected pod. They are promises: users see them in `kubectl describe`, and other parts of the
//! control plane recognize an injected pod by them.

/// The namespace of the control plane's Service.
pub(super) const MESH_NAMESPACE: &str = "outrigger-system";
/// The label of namespaces and pods that asks for injection: [`ENABLED`] or [`DISABLED`]. A pod's own label decides.
pub const INJECT_LABEL: &str = "outrigger.dev/inject";
/// The value of [`INJECT_LABEL`] that opts in.
pub const ENABLED: &str = "enabled";
/// The value of [`INJECT_LABEL`] that opts out.
pub const DISABLED: &str = "disabled";
/// Namespaces whose pods are never injected.
pub(super) const SYSTEM_NAMESPACES: [&str; 4] =
    ["kube-system", "kube-public", "kube-node-lease", MESH_NAMESPACE];
/// The annotation of an injected pod; its value is JSON.
pub const STATUS_ANNOTATION: &str = "outrigger.dev/status";

/// The annotation of the mirror of a static pod, which cannot be changed.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// The sidecar.
pub const PROXY_CONTAINER: &str = "outrigger-proxy";
/// The init container that redirects the pod's connections to the sidecar.
pub(super) const CAPTURE_CONTAINER: &str = "outrigger-capture";
/// The init container that verifies the redirection that a CNI plugin has set up.
pub(crate) const CAPTURE_CHECK_CONTAINER: &str = "outrigger-capture-check";
/// The user ID of that container.
pub(super) const CAPTURE_CHECK_UID: u64 = 1501;
/// All container names that injection uses.
pub(super) const CONTAINERS: [&str; 3] = [PROXY_CONTAINER, CAPTURE_CONTAINER, CAPTURE_CHECK_CONTAINER];

/// The program in the proxy's image; it is in the `PATH` of that image.
pub(super) const PROXY_PROGRAM: &str = "outrigger-proxy";
/// User and group of the sidecar. The redirection excludes its connections.
pub(super) const PROXY_UID: u64 = 1500;

/// The sidecar's port for redirected outbound connections.
pub(super) const OUTBOUND_PORT: u16 = 15001;
/// The sidecar's port for redirected inbound connections.
pub(super) const INBOUND_PORT: u16 = 15006;
/// The sidecar's port for `/metrics`, `/ready`, `/healthz` and the application's probes.
pub const METRICS_PORT: u16 = 15020;
/// The sidecar's ports, which an application cannot use, those of admin and DNS included.
pub(crate) const RESERVED_PORTS: [u16; 5] = [15000, OUTBOUND_PORT, INBOUND_PORT, METRICS_PORT, 15053];

/// The projected token by which the sidecar gets its first certificate.
pub(super) const TOKEN_VOLUME: &str = "outrigger-token";
/// The mesh's trust roots.
pub(super) const ROOTS_VOLUME: &str = "outrigger-roots";
/// The sidecar's key, certificate and saved configuration, in memory.
pub(super) const STATE_VOLUME: &str = "outrigger-state";
/// All volume names that injection uses.
pub(super) const VOLUMES: [&str; 3] = [TOKEN_VOLUME, ROOTS_VOLUME, STATE_VOLUME];

/// The audience of the token.
pub(super) const TOKEN_AUDIENCE: &str = "outrigger.dev";
/// Where the token's volume is mounted; the file is `token`.
pub(super) const TOKEN_DIRECTORY: &str = "/var/run/secrets/outrigger.dev";
/// The ConfigMap of the trust roots, in each namespace; the key is `roots.pem`.
pub(super) const ROOTS_CONFIG_MAP: &str = "outrigger-trust-roots";
/// Where the trust roots are mounted.
pub(super) const ROOTS_DIRECTORY: &str = "/var/run/outrigger/roots";
/// Where the state's volume is mounted. The sidecar makes a directory of mode 0700 in it.
pub(super) const STATE_DIRECTORY: &str = "/var/lib/outrigger";
