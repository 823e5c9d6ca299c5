//! The instances of the demo's shop, and the command lines of their processes.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use outrigger::ports;
use outrigger::process::Process;

use super::shop::NAMESPACE;

/// Each instance, its service account, and the services that it is registered for, with their port.
const INSTANCES: [Role; 10] = [
    Role { name: "shopper-1", account: "shopper", services: &[], port: 0 },
    Role { name: "web-1", account: "web", services: &["web"], port: 80 },
    Role { name: "web-2", account: "web", services: &["web"], port: 80 },
    Role { name: "cart-1", account: "cart", services: &["cart"], port: 80 },
    Role { name: "cart-2", account: "cart", services: &["cart"], port: 80 },
    Role { name: "catalog-v1-1", account: "catalog", services: &["catalog", "catalog-v1"], port: 80 },
    Role { name: "catalog-v1-2", account: "catalog", services: &["catalog", "catalog-v1"], port: 80 },
    Role { name: "catalog-v2-1", account: "catalog", services: &["catalog", "catalog-v2"], port: 80 },
    Role { name: "payments-1", account: "payments", services: &["payments"], port: 50051 },
    Role { name: "stock-1", account: "stock", services: &["stock"], port: 9000 },
];

struct Role {
    name: &'static str,
    account: &'static str,
    services: &'static [&'static str],
    port: u16,
}

/// One instance of a service, and its sidecar.
pub(super) struct Instance {
    pub(super) name: &'static str,
    /// The service account, which is also the service's name.
    pub(super) account: &'static str,
    services: &'static [&'static str],
    service_port: u16,
    /// The application, while it runs.
    pub(super) app: Option<Process>,
    /// The sidecar, while it runs.
    pub(super) sidecar: Option<Process>,
    pub(super) admin: SocketAddr,
    pub(super) outbound: SocketAddr,
    pub(super) inbound: SocketAddr,
    pub(super) app_listen: SocketAddr,
    /// The ports of its sidecar that lead to `payments` and to `stock`, for those that call them.
    pub(super) payments: SocketAddr,
    pub(super) stock: SocketAddr,
}

impl Instance {
    /// Every instance, on free ports.
    pub(super) fn all() -> Result<Vec<Self>, String> {
        INSTANCES.iter().map(Self::new).collect()
    }

    fn new(role: &Role) -> Result<Self, String> {
        let [admin, outbound, inbound, app_listen, payments, stock] = ports::free()?;
        Ok(Self {
            name: role.name,
            account: role.account,
            services: role.services,
            service_port: role.port,
            app: None,
            sidecar: None,
            admin,
            outbound,
            inbound,
            app_listen,
            payments,
            stock,
        })
    }

    /// The SPIFFE ID that its certificate must have.
    pub(super) fn spiffe_id(&self) -> String {
        format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{}", self.account)
    }

    /// The command of its application, which calls its sidecar; None for the shopper, which is the demo's own load.
    pub(super) fn app_args(&self) -> Option<Vec<OsString>> {
        let mut args = self.captured_app_args()?;
        let flag = |name: &str, value: SocketAddr| [OsString::from(name), value.to_string().into()];
        if ["web", "cart"].contains(&self.account) {
            args.extend(flag("--sidecar", self.outbound));
        }
        if self.account == "cart" {
            args.extend(flag("--payments", self.payments));
            args.extend(flag("--stock", self.stock));
        }
        Some(args)
    }

    /// The same for an application whose connections are redirected: it calls services by name.
    pub(super) fn captured_app_args(&self) -> Option<Vec<OsString>> {
        if self.account == "shopper" {
            return None;
        }
        let mut args =
            ["sample", self.account, "--listen", &self.app_listen.to_string()].map(OsString::from).to_vec();
        if self.account == "catalog" {
            let version = if self.name.contains("-v2-") { "v2" } else { "v1" };
            args.extend(["--version".into(), version.into()]);
        }
        Some(args)
    }

    /// The flags of its sidecar.
    pub(super) fn sidecar_args(&self, control_plane: SocketAddr, directory: &Path) -> Vec<OsString> {
        let state = directory.join(self.name);
        let mut args = vec![
            "--control-plane".into(),
            control_plane.to_string().into(),
            "--control-plane-ca".into(),
            directory.join("control-plane/roots.pem").into(),
            "--token-file".into(),
            state.join("token").into(),
            "--state-dir".into(),
            state.join("state").into(),
            "--instance".into(),
            self.name.into(),
            "--admin".into(),
            self.admin.to_string().into(),
            "--unknown-destination".into(),
            "refuse".into(),
            "--access-log".into(),
            directory.join("logs").join(format!("{}-access.log", self.name)).into(),
        ];
        for service in self.services {
            args.push("--service".into());
            args.push(
                format!("{service}:{}={},listen={}", self.service_port, self.app_listen, self.inbound).into(),
            );
        }
        args
    }

    /// The flags of a sidecar whose application calls it.
    pub(super) fn explicit_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--outbound".into(), self.outbound.to_string().into()];
        // The applications are stopped after their sidecars have drained, and send nothing then.
        args.extend(["--drain-minimum", "0s", "--drain-quiet", "100ms"].map(OsString::from));
        if ["cart", "shopper"].contains(&self.account) {
            for bind in [format!("{}=payments:50051", self.payments), format!("{}=stock:9000", self.stock)] {
                args.extend(["--bind".into(), bind.into()]);
            }
        }
        args
    }
}
