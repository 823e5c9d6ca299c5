//! `outrigger check`: reports the problems of configuration files before a control plane reads them, and those of a cluster.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use outrigger_control_plane::kubernetes::check::check_cluster;
use outrigger_control_plane::model::diagnostic::Severity;
use outrigger_control_plane::source::check::{Input, Located, Report, check as check_inputs};
use serde_json::{Value, json};

use crate::output::OutputArgs;
use crate::output::table::printable;
use crate::runtime::block_on;

/// Reports what is wrong with configuration files: one line for each problem, with its place, its code and the next step.
///
/// The paths are read together, so that one may refer to another. Without a path, reports what is wrong with a cluster, before and after
/// the installation: versions, webhook, clocks, sidecars, and clients without mTLS. docs/check.md lists the codes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  # Before a directory is given to a control plane
  outrigger check deploy/examples/shop

  # What a pipeline refuses, warnings too
  outrigger check --fail-on warning -o json services/ routes/catalog.yaml

  # A cluster: is it ready for the mesh, and is strict safe in shop?
  outrigger check -n shop")]
pub(crate) struct CheckArgs {
    /// Files, directories (with their subdirectories), or - for stdin.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Without a path: the kubeconfig, instead of $KUBECONFIG or ~/.kube/config.
    #[arg(long, value_name = "FILE", help_heading = "Cluster", conflicts_with = "paths")]
    kubeconfig: Option<PathBuf>,
    /// Without a path: the context of the kubeconfig, instead of its current one.
    #[arg(long, value_name = "NAME", help_heading = "Cluster", conflicts_with = "paths")]
    context: Option<String>,
    /// Without a path: only this namespace.
    #[arg(short, long, help_heading = "Cluster", conflicts_with = "paths")]
    namespace: Option<String>,
    /// Exit with 1 if there is a problem of this severity or a higher one.
    #[arg(long, value_enum, value_name = "SEVERITY", default_value_t = FailOn::Error)]
    fail_on: FailOn,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Errors only.
    Error,
    /// Errors and warnings.
    Warning,
    /// Always exit with 0.
    Never,
}

/// Returns an error if there are problems on which the command fails.
pub(crate) fn check(args: CheckArgs) -> Result<(), String> {
    let CheckArgs { paths, kubeconfig, context, namespace, fail_on, output } = args;
    let (report, read) = if paths.is_empty() {
        let report = block_on(check_cluster(kubeconfig, context, namespace.as_deref()))?;
        let read = counted(report.accepted, "sidecar");
        (report, read)
    } else {
        let report = check_inputs(inputs(paths)?);
        let read = format!("{}, {}", counted(report.files, "file"), counted(report.accepted, "resource"));
        (report, read)
    };
    output.print(&data(&report), |_| text(&report, &read))?;
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    match fail_on {
        FailOn::Error if errors > 0 => Err(counted(errors, "error")),
        FailOn::Warning if errors + warnings > 0 => {
            Err(format!("{}, {}", counted(errors, "error"), counted(warnings, "warning")))
        }
        _ => Ok(()),
    }
}

fn inputs(paths: Vec<PathBuf>) -> Result<Vec<Input>, String> {
    if paths.iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err("- is stdin, which can be read only once".to_owned());
    }
    let input = |path: PathBuf| {
        if path.as_os_str() != "-" {
            return Ok(Input::Path(path));
        }
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|error| format!("cannot read stdin: {error}"))?;
        Ok(Input::Text("<stdin>".into(), text))
    };
    paths.into_iter().map(input).collect()
}

/// `read` is what was read.
fn text(report: &Report, read: &str) -> String {
    let mut text = String::new();
    for Located { file, position, document: _, resource, problem } in &report.problems {
        let mut place = file.as_ref().map_or_else(String::new, |file| file.display().to_string());
        if let Some(position) = position {
            let _ = write!(place, ":{}:{}", position.line, position.column);
        }
        if !place.is_empty() {
            place.push_str(": ");
        }
        let subject = [resource.as_deref(), Some(&*problem.field).filter(|field| !field.is_empty())];
        let mut subject = subject.into_iter().flatten().collect::<Vec<_>>().join(", ");
        if !subject.is_empty() {
            subject.push_str(": ");
        }
        let (severity, code) = (problem.code.severity(), problem.code);
        let message = &problem.message;
        let _ = writeln!(text, "{}", printable(&format!("{place}{severity}[{code}]: {subject}{message}")));
        if let Some(help) = &problem.help {
            let _ = writeln!(text, "    help: {}", printable(help));
        }
    }
    let not_handled: usize = report.not_handled.values().sum();
    let kinds: Vec<_> = report.not_handled.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    text.push_str(read);
    if not_handled > 0 {
        let _ = write!(text, ", not read by the mesh: {}", kinds.join(", "));
    }
    let [errors, warnings, infos] =
        [Severity::Error, Severity::Warning, Severity::Info].map(|severity| report.count(severity));
    let _ = writeln!(text, "; {}, {}, {infos} info", counted(errors, "error"), counted(warnings, "warning"));
    text
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn data(report: &Report) -> Value {
    let problem = |Located { file, position, document, resource, problem }: &Located| {
        json!({
            "code": problem.code.name(),
            "severity": problem.code.severity().name(),
            "file": file,
            "line": position.map(|at| at.line),
            "column": position.map(|at| at.column),
            "document": document,
            "resource": resource,
            "field": problem.field,
            "message": problem.message,
            "help": problem.help,
        })
    };
    json!({
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
        "files": report.files,
        "resources": report.accepted,
        "notHandled": report.not_handled,
        "errors": report.count(Severity::Error),
        "warnings": report.count(Severity::Warning),
    })
}
