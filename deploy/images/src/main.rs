//! `outrigger-images`: container images of static programs, without Docker.
//!
//! `build` builds the binaries of the mesh and writes its images; `pack` writes an image of any files, such as a program of a test.
//! An error is one line on stderr and exit code 1.

mod build;
mod pack;

mod image;
mod archive;
mod reference;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Writes container images as OCI archives: from scratch, the same bytes for the same input.
#[derive(Debug, Parser)]
#[command(name = "outrigger-images", version)]
struct Images {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the binaries of the mesh, and write an archive for each of its images.
    Build(build::BuildArgs),
    /// Write an archive for an image of any files.
    Pack(pack::PackArgs),
}

fn main() -> ExitCode {
    let outcome = match Images::parse().command {
        Command::Build(args) => build::run(args),
        Command::Pack(args) => pack::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If stderr is closed, there is no other place to report to.
            let _ = writeln!(std::io::stderr(), "outrigger-images: {error}");
            ExitCode::FAILURE
        }
    }
}
