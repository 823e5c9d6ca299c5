//! `outrigger policy`: the policies that apply to a service, and what they refused.

mod denials;

use clap::{Args, Subcommand};
use outrigger_control_plane::explain::{AppliedPolicy, ServicePolicies, fetch};
use outrigger_control_plane::kubernetes::replica_status;

use crate::flags::{ClusterArgs, ControlPlaneArgs};
use crate::output::OutputArgs;
use crate::output::table::{Table, Tone};
use crate::runtime::block_on;

/// The policies of a running mesh.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Print which policies apply to a service, from where, and in which order.
    #[command(after_help = "\
Examples:
  # Who may call payments of namespace shop?
  outrigger policy explain payments -n shop

  # In a Kubernetes cluster
  outrigger policy explain payments.shop --kubernetes")]
    Explain(ExplainArgs),
    /// Print what authorization policies refused, or would refuse, by caller and route.
    #[command(after_help = "\
Examples:
  # Who would be refused if the policies on trial (action: Audit) were enforced?
  outrigger policy denials --mode audit

  # At all sidecars of the namespace shop, in a Kubernetes cluster
  outrigger policy denials --kubernetes -n shop")]
    Denials(denials::DenialsArgs),
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The Service: NAME, or NAME.NAMESPACE.
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The namespace of a Service that is named without one.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", default_value = "default")]
    namespace: String,
    #[command(flatten)]
    control_plane: ControlPlaneArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Needs a running control plane, or running sidecars.
pub(crate) fn run(PolicyArgs { command }: PolicyArgs) -> Result<(), String> {
    match command {
        PolicyCommand::Explain(args) => explain(args),
        PolicyCommand::Denials(args) => denials::run(args),
    }
}

fn explain(args: ExplainArgs) -> Result<(), String> {
    let ExplainArgs { service, namespace, control_plane, cluster, output } = args;
    let (name, namespace) = service.split_once('.').unwrap_or((&service, &namespace));
    let found = match cluster.access() {
        Some(cluster) => block_on(replica_status::policies(&cluster, namespace, name))?,
        None => block_on(fetch(&control_plane.address(), namespace, name))?,
    };
    output.print(&found, |_| text(&found))
}

fn text(ServicePolicies { service, unmatched, policies }: &ServicePolicies) -> String {
    let mut table = Table::new(&["ORDER", "EFFECT", "KIND", "POLICY", "ATTACHED TO", "RULES"]);
    for (at, policy) in policies.iter().enumerate() {
        let AppliedPolicy { kind, name, effect, attached_to, rules, refused, denies } = policy;
        // A control plane of the previous release does not say why.
        let denies = denies.as_deref().or(refused.then_some("refused"));
        let (tone, rules) = match denies {
            Some(why) => (Tone::Error, format!("{why}: denies everything")),
            None => (Tone::Plain, rules.to_string()),
        };
        table.row(tone, [&(at + 1).to_string(), effect, kind, name, attached_to, &rules]);
    }
    let table = if policies.is_empty() { String::new() } else { table.to_text() };
    format!("{table}What no policy matches at Service {service} is {unmatched}.\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_printed_in_their_order_and_a_refused_one_is_named() {
        let policy = |name: &str, effect: &str, refused| AppliedPolicy {
            kind: "AuthorizationPolicy".into(),
            name: name.into(),
            effect: effect.into(),
            attached_to: "namespace shop".into(),
            rules: 2,
            refused,
            denies: None,
        };
        let policies = vec![policy("shop/a", "Deny", true), policy("shop/b", "Allow", false)];
        let of =
            |policies| ServicePolicies { service: "shop/cart".into(), unmatched: "denied".into(), policies };
        assert_eq!(
            anstream::adapter::strip_str(&text(&of(policies))).to_string(),
            "\
ORDER  EFFECT  KIND                 POLICY  ATTACHED TO     RULES
1      Deny    AuthorizationPolicy  shop/a  namespace shop  refused: denies everything
2      Allow   AuthorizationPolicy  shop/b  namespace shop  2
What no policy matches at Service shop/cart is denied.
"
        );
        assert_eq!(text(&of(Vec::new())), "What no policy matches at Service shop/cart is denied.\n");
    }
}
