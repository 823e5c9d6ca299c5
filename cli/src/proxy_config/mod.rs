//! `outrigger proxy-config`: the configuration and the state of one proxy, from its admin endpoint, as tables.

mod certificates;
mod clusters;
mod endpoints;
mod listeners;
mod routes;

mod dump;

use clap::{Args, Subcommand};
use http::StatusCode;
use outrigger::admin;
use serde_json::Value;

use crate::flags::{NamespaceArgs, ProxyArgs};
use crate::output::{OutputArgs, print_error};
use crate::runtime::block_on;
use dump::{Kind, Resource, ServiceName};

/// Shows what a proxy has.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  # Where requests to cart go
  outrigger proxy-config routes --name cart

  # The endpoints of port 80 in the namespace shop, with their load
  outrigger proxy-config endpoints -n shop --port 80 -o wide

  # A cluster as the control plane sent it
  outrigger proxy-config clusters --name cart -o yaml")]
pub(crate) struct ProxyConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print listeners: where connections arrive, or the destinations that requests named.
    Listeners(ShowArgs),
    /// Print routes: which requests go to which clusters.
    Routes(ShowArgs),
    /// Print clusters: groups of endpoints, and how they are used.
    Clusters(ShowArgs),
    /// Print endpoints, with their health and ejection.
    Endpoints(ShowArgs),
    /// Print the certificate and the trust roots.
    Certificates(CertificatesArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    proxy: ProxyArgs,
    /// Only resources whose name contains this text.
    #[arg(long, value_name = "TEXT", help_heading = "Filters")]
    name: Option<String>,
    /// Only resources of this port of a service or listener.
    #[arg(long, help_heading = "Filters")]
    port: Option<u16>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct CertificatesArgs {
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Needs a running proxy.
pub(crate) fn run(args: ProxyConfigArgs) -> Result<(), String> {
    match args.what {
        What::Listeners(args) => args.resources(Kind::Listener, listeners::table),
        What::Routes(args) => args.resources(Kind::Route, routes::table),
        What::Clusters(args) => {
            let usage = args.page("/clusters")?;
            args.resources(Kind::Cluster, |resources, wide| clusters::table(resources, &usage, wide))
        }
        What::Endpoints(args) => {
            let clusters = args.page("/clusters")?;
            let clusters: Vec<_> = dump::list(&clusters)
                .iter()
                .filter(|cluster| args.shows(dump::text(&cluster["name"]), &[]))
                .collect();
            args.output.print(&clusters, |wide| or_none(endpoints::table(&clusters, wide)))
        }
        What::Certificates(args) => {
            let page = page(&args.proxy, "/certs")?;
            args.output.print(&page, |wide| certificates::table(&page, wide, jiff::Timestamp::now()))
        }
    }
}

impl ShowArgs {
    /// Prints the resources of one kind that pass the filters.
    fn resources(
        &self,
        kind: Kind,
        table: impl FnOnce(&[Resource<'_>], bool) -> String,
    ) -> Result<(), String> {
        let page = self.page("/config_dump")?;
        let mut resources = dump::resources(&page, kind);
        resources.retain(|resource| self.shows(resource.name, &resource.ports));
        let dumped: Vec<_> = resources.iter().map(|resource| resource.entry).collect();
        self.output.print(&dumped, |wide| or_none(table(&resources, wide)) + &dump::refusals(&resources))
    }

    /// Returns true if a resource passes the filters.
    fn shows(&self, name: &str, ports: &[u16]) -> bool {
        let service = ServiceName::of(name);
        let port = |wanted: &u16| service.port == Some(*wanted) || ports.contains(wanted);
        self.name.as_deref().is_none_or(|part| name.contains(part))
            && self.port.as_ref().is_none_or(port)
            && self.namespace.includes(service.namespace.unwrap_or_default())
    }

    fn page(&self, path: &str) -> Result<Value, String> {
        page(&self.proxy, path)
    }
}

/// Says on stderr that a table is empty, as kubectl does.
fn or_none(table: String) -> String {
    if table.is_empty() {
        print_error("nothing found");
    }
    table
}

fn page(proxy: &ProxyArgs, path: &str) -> Result<Value, String> {
    let address = proxy.admin;
    let answer = block_on(admin::get(address, path))?;
    match answer.status() {
        StatusCode::OK => serde_json::from_slice(answer.body())
            .map_err(|error| format!("http://{address}{path}: this is not the page of a proxy: {error}")),
        StatusCode::NOT_FOUND => {
            Err(format!("http://{address} is not the admin address of a proxy: it has no {path}"))
        }
        status => Err(format!("http://{address}{path}: {status}")),
    }
}

#[cfg(test)]
mod tests;
