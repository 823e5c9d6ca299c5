//! `outrigger-images pack`: an image of any files.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::archive::{File, Files};
use crate::image::Image;
use crate::reference::full_name;

/// Writes an image of static programs and other files.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  # A Go program, with arguments that a pod may replace
  CGO_ENABLED=0 go build -o echo ./echo
  outrigger-images pack --name example/echo:1 --file echo=/echo \\
      --entrypoint /echo --output echo.tar -- --port 8080")]
pub(crate) struct PackArgs {
    /// The archive to write.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Name of the image, [REGISTRY/]REPOSITORY[:TAG]; may be repeated.
    #[arg(long, value_name = "NAME", required = true)]
    name: Vec<String>,
    /// A file, and its absolute path in the image; may be repeated. Its execute permission is kept.
    #[arg(long, value_name = "SOURCE=PATH", required = true)]
    file: Vec<String>,
    /// The program that runs, as a path in the image.
    #[arg(long, value_name = "PATH")]
    entrypoint: String,
    /// The user and group that it runs as; root if not given.
    #[arg(long, value_name = "UID:GID", default_value = "")]
    user: String,
    /// Arguments of the program.
    #[arg(last = true)]
    command: Vec<String>,
}

/// Writes the archive and prints its digest.
pub(crate) fn run(args: PackArgs) -> Result<(), String> {
    let image = Image {
        names: args.name.iter().map(|name| full_name(name)).collect::<Result<_, _>>()?,
        files: args.file.iter().map(|file| read_file(file)).collect::<Result<Files, _>>()?,
        entrypoint: vec![args.entrypoint],
        command: args.command,
        user: args.user,
        environment: vec!["PATH=/usr/local/bin:/usr/bin:/bin".into()],
        ..Image::default()
    };
    write(&image, &args.output).map(drop)
}

/// Reads the file of a flag `--file SOURCE=PATH`.
fn read_file(flag: &str) -> Result<(String, File), String> {
    let expected = || format!("--file {flag}: expected SOURCE=/PATH");
    let (source, path) = flag.split_once('=').ok_or_else(expected)?;
    let path =
        path.strip_prefix('/').filter(|path| !path.split('/').any(|part| matches!(part, "" | "." | "..")));
    Ok((path.ok_or_else(expected)?.to_owned(), read(Path::new(source))?))
}

/// Reads a file with its execute permission.
pub(crate) fn read(source: &Path) -> Result<File, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", source.display());
    let contents = fs::read(source).map_err(failed)?;
    let mode = fs::metadata(source).map_err(failed)?.permissions().mode();
    Ok(File { contents, executable: mode & 0o111 != 0 })
}

/// Writes an image and prints its names, digest and size. Returns the size in bytes.
pub(crate) fn write(image: &Image, output: &Path) -> Result<u64, String> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", output.display());
    let written = image.write(output).map_err(failed)?;
    let (names, size) = (image.names.join(" "), written.size as f64 / f64::from(1 << 20));
    writeln!(std::io::stdout(), "{names}  {}  {size:.1} MiB  {}", written.digest, output.display())
        .map_err(|error| format!("cannot write to stdout: {error}"))?;
    Ok(written.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_execute_permission() {
        let directory = tempfile::tempdir().unwrap();
        for (mode, executable) in [(0o755, true), (0o600, false)] {
            let source = directory.path().join("echo");
            fs::write(&source, "program").unwrap();
            fs::set_permissions(&source, fs::Permissions::from_mode(mode)).unwrap();
            let read = read_file(&format!("{}=/bin/echo", source.display())).unwrap();
            assert_eq!(read, ("bin/echo".into(), File { contents: b"program".into(), executable }));
        }
    }

    #[test]
    fn a_path_in_the_image_is_absolute_and_plain() {
        for flag in ["echo", "echo=echo", "echo=/", "echo=/../echo", "echo=/a//b"] {
            assert!(read_file(flag).unwrap_err().contains("expected SOURCE=/PATH"), "{flag}");
        }
    }
}
