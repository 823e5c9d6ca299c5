//! `outrigger check`: reports the problems of configuration files before a control plane reads them.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use outrigger_control_plane::model::diagnostic::Severity;
use outrigger_control_plane::source::check::{Input, Located, Report, check as check_inputs};
use serde_json::{Value, json};

use crate::output::OutputArgs;
use crate::output::table::printable;

/// Reports what is wrong with configuration files: one line for each problem, with its place, its code and the next step.
///
/// The paths are read together, so that one may refer to another. docs/check.md lists the codes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  # Before a directory is given to a control plane
  outrigger check deploy/examples/shop

  # What a pipeline refuses, warnings too
  outrigger check --fail-on warning -o json services/ routes/catalog.yaml")]
pub(crate) struct CheckArgs {
    /// Files, directories (with their subdirectories), or - for stdin.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
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
    let CheckArgs { paths, fail_on, output } = args;
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
    let report = check_inputs(paths.into_iter().map(input).collect::<Result<_, String>>()?);
    output.print(&data(&report), |_| text(&report))?;
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    match fail_on {
        FailOn::Error if errors > 0 => Err(counted(errors, "error")),
        FailOn::Warning if errors + warnings > 0 => {
            Err(format!("{}, {}", counted(errors, "error"), counted(warnings, "warning")))
        }
        _ => Ok(()),
    }
}

fn text(report: &Report) -> String {
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
    let _ = write!(text, "{}, {}", counted(report.files, "file"), counted(report.accepted, "resource"));
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
