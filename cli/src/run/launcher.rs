//! The launcher of `outrigger run`: joins the cgroup, proves the redirection, drops privileges, and becomes the program.
//!
//! It joins before it opens any socket and before the program exists, so that no connection of the program can escape. If the supervisor
//! ends before that, the cgroup is gone and it cannot join; later, the guard kills it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use outrigger_proxy::CgroupCapture;

use super::RunArgs;
use super::cgroup::join;
use crate::output::print_error;

/// Exit codes of shells for a program that is not found or not executable.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Becomes the program. Returns an error if its connections would not be redirected.
pub(super) fn run(args: &RunArgs) -> Result<ExitCode, String> {
    let cgroup = args.cgroup.as_deref().ok_or("--cgroup is missing")?;
    join(cgroup).map_err(|error| format!("cannot join the cgroup {}: {error}", cgroup.display()))?;
    CgroupCapture::verify(args.outbound_port()?).map_err(|error| error.to_string())?;
    if let Some(user) = args.user()? {
        user.assume().map_err(|error| format!("cannot become the user of the program: {error}"))?;
    }
    let [program, arguments @ ..] = &args.program[..] else { return Err("no program".into()) };
    let error = Command::new(program).args(arguments).exec();
    print_error(&format!("outrigger: {}: {error}", program.display()));
    let code = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    Ok(ExitCode::from(code))
}
