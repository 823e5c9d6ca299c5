//! A page with the text and the plots, for a browser. It loads nothing.

use super::Report;
use super::{plot, text};

/// Returns the page. Returns an error if the plots cannot be drawn.
pub(in super::super) fn page(report: &Report<'_>) -> Result<String, String> {
    let text = text::text(report).replace('&', "&amp;").replace('<', "&lt;");
    let title = report.url.replace('&', "&amp;").replace('<', "&lt;");
    let plots = plot::plots(report)?;
    Ok(format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>Load test: {title}</title>\n\
         <style>body {{ font-family: sans-serif; margin: 2em }} pre {{ overflow-x: auto }}</style>\n\
         <h1>Load test</h1>\n<pre>{text}</pre>\n{plots}\n"
    ))
}
