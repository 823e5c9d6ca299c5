//! Counts the instructions of processes with valgrind's callgrind. Called by `instructions` and `compare`.
//!
//! A program is started through a script that runs it under callgrind in the same process; `vgdb` makes the process write its counts.
//! Instructions of the kernel are not counted. Returns an error if valgrind is missing or refuses.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Creates a script in `directory` that runs `program` under callgrind with the same arguments; with `command`, only if that is one of
/// them.
pub(crate) fn script(program: &Path, directory: &Path, command: Option<&str>) -> Result<PathBuf, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    let program = program.canonicalize().map_err(|error| format!("{}: {error}", program.display()))?;
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let path = directory.join(format!("{name}-counted"));
    let out = directory.join("callgrind.out.%p");
    let program = program.display();
    let plain = command
        .map(|command| format!("case \" $* \" in *\" {command} \"*) ;; *) exec {program} \"$@\" ;; esac\n"))
        .unwrap_or_default();
    let text = format!(
        "#!/bin/sh\n{plain}exec valgrind --quiet --tool=callgrind --callgrind-out-file={} {program} \"$@\"\n",
        out.display()
    );
    std::fs::write(&path, text).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    Ok(path)
}

/// Returns the total number of instructions that `processes` have executed, which were started by a script of [`script`] in
/// `directory`.
pub(crate) async fn executed(processes: &[u32], directory: &Path) -> Result<u64, String> {
    let mut sum = 0;
    for pid in processes {
        let output = tokio::process::Command::new("vgdb")
            .args([&format!("--pid={pid}"), "dump"])
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|error| format!("cannot run vgdb: {error}"))?;
        if !output.status.success() {
            return Err(format!("vgdb: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        sum += dumped(&directory.join(format!("callgrind.out.{pid}")))?;
    }
    Ok(sum)
}

/// Returns the totals of all dumps of one process. Each dump is a file and starts at zero.
fn dumped(base: &Path) -> Result<u64, String> {
    let mut sum = 0;
    for number in 1.. {
        let path = PathBuf::from(format!("{}.{number}", base.display()));
        let Ok(text) = std::fs::read_to_string(&path) else { break };
        sum += total(&text).ok_or_else(|| format!("{}: no totals", path.display()))?;
    }
    Ok(sum)
}

fn total(dump: &str) -> Option<u64> {
    let line = dump.lines().rev().find_map(|line| line.strip_prefix("totals:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_of_a_dump_are_its_last_line_of_that_name() {
        assert_eq!(total("events: Ir\nsummary: 5\nfn=(1) totals\n1 5\n\ntotals: 1234\n"), Some(1234));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn other_commands_run_without_callgrind() {
        let directory = tempfile::tempdir().unwrap();
        let script = script(Path::new("/bin/echo"), directory.path(), Some("proxy")).unwrap();
        let output = std::process::Command::new(script).arg("token").output().unwrap();
        assert_eq!(output.stdout, b"token\n");
    }
}
