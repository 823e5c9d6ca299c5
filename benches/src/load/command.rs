//! `load URL`: runs the engine, shows how it goes, and reports.
//!
//! Ends with an error if the test cannot start or a file cannot be written. Failed requests are results, not errors.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use super::args::LoadArgs;
use super::engine::{Running, start};
use super::progress::Progress;
use super::report::{Report, json, page, plot, text};
use super::view::View;

/// Time between two looks at a running test.
const TICK: Duration = Duration::from_millis(100);

/// Runs the load test that the arguments ask for, and prints what it measured.
pub(crate) async fn run(args: LoadArgs) -> Result<(), String> {
    let spec = args.spec()?;
    let output = &args.output;
    let running = start(spec.clone())?;
    let mut progress = Progress::new(args.url.to_string(), &spec);
    match std::io::stdout().is_terminal() && !output.plain {
        true => watch(&running, &mut progress).await.map_err(|error| format!("the terminal: {error}"))?,
        false => print_lines(&running, &mut progress).await,
    }
    let measured = running.finish()?;
    let report = Report { url: args.url.to_string(), spec: &spec, measured: &measured };
    let as_json = || format!("{:#}\n", json::json(&report));
    match output.json.as_deref() {
        Some(file) if file == Path::new("-") => print!("{}", as_json()),
        file => {
            print!("{}", text::text(&report));
            file.map_or(Ok(()), |file| write(file, &as_json()))?;
        }
    }
    if let Some(file) = &output.html {
        write(file, &page::page(&report)?)?;
    }
    if let Some(file) = &output.svg {
        write(file, &plot::plots(&report)?)?;
    }
    Ok(())
}

/// Shows the live view until the test is over.
async fn watch(running: &Running, progress: &mut Progress) -> std::io::Result<()> {
    let mut view = View::open()?;
    while !running.is_over() {
        progress.update(running);
        if view.draw(progress)? {
            running.stop();
        }
        tokio::time::sleep(TICK).await;
    }
    Ok(())
}

/// Prints a line a second until the test is over or is interrupted.
async fn print_lines(running: &Running, progress: &mut Progress) {
    let mut printed = 0;
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    while !running.is_over() {
        progress.update(running);
        while let Some(line) = progress.line(printed) {
            eprintln!("{line}");
            printed += 1;
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            _ = &mut interrupt => {
                running.stop();
                return;
            }
        }
    }
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests;
