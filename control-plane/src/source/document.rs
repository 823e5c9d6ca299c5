//! Splits a YAML file into documents, and reads each on its own.
//!
//! The text is split at the `---` lines before anything is parsed, so that invalid YAML in one document does not affect the
//! others.

use serde_json::Value;

use crate::model::diagnostic::{Code, Problem};
use crate::model::resource::{Decoded, Outcome, decode};

/// Splits a file into documents: for each its number and the line at which it begins, both counted from 1, and its text.
/// Documents without content other than comments and blank lines do not count.
pub(crate) fn split(text: &str) -> Vec<(usize, usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut documents, mut start, mut first_line, mut at) = (Vec::new(), 0, 1, 0);
    let mut push = |from: usize, to: usize, line| {
        if text[from..to].lines().any(has_content) {
            documents.push((documents.len() + 1, line, &text[from..to]));
        }
    };
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_separator(line) {
            push(start, at, first_line);
            // Content may follow the marker on its own line, so the marker stays with what follows.
            (start, first_line) = (at, number + 1);
        }
        at += line.len();
    }
    push(start, text.len(), first_line);
    documents
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn has_content(line: &str) -> bool {
    let line = line.strip_prefix("---").filter(|_| is_separator(line)).unwrap_or(line).trim();
    !line.is_empty() && !line.starts_with('#') && line != "..."
}

/// Reads one document. Invalid YAML results in one error without a name.
pub(super) fn read(text: &str, first_line: usize) -> Vec<Decoded> {
    match parse(text) {
        Ok(value) => decode(value),
        Err(YamlError { line, column: _, reason }) => {
            let reason = format!("line {}: {reason}", first_line + line - 1);
            let outcome = Outcome::Refused(vec![Problem::of(Code::InvalidYaml, "", reason)]);
            vec![Decoded { title: None, id: None, outcome, stand_in: None, item: None }]
        }
    }
}

/// Invalid YAML. The position is counted from 1, from the start of the document.
#[derive(Debug)]
pub(crate) struct YamlError {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) reason: String,
}

/// Parses YAML 1.2, where `no` is a string. A duplicate key is an error, as with kubectl's strict validation; the expansion
/// of anchors is bounded by the parser's default budget.
pub(crate) fn parse(text: &str) -> Result<Value, YamlError> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line() as usize, at.column() as usize));
        let text = error.to_string();
        // The text has the position again.
        let reason = text.lines().next().unwrap_or_default();
        let reason = reason.split(" at line ").next().unwrap_or(reason).trim_end_matches([':', ',']);
        YamlError { line, column, reason: format!("invalid YAML: {reason}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn documents_are_counted_without_the_empty_ones() {
        let text = "# head\n---\na: 1\n---\n# nothing\n---\nb: |\n  ---\n  x\n--- # c\nc: 3\n---\n";
        let documents = split(text);
        let lines: Vec<_> = documents.iter().map(|(number, line, _)| (*number, *line)).collect();
        assert_eq!(lines, [(1, 2), (2, 6), (3, 10)]);
        assert!(documents[1].2.contains("  ---\n  x"));
        assert!(split("").is_empty() && split("---\n---\n# x\n").is_empty());
        assert_eq!(split("a: 1").len(), 1);
        assert_eq!(split("--- {a: 1}\n---\r\nb: 1\r\n").len(), 2);
    }

    #[test]
    fn a_small_document_cannot_grow_large() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..12 {
            let before = n - 1;
            bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{before}"); 10].join(","));
        }
        assert!(!read(&bomb, 1)[0].problems().is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_split_without_loss(text in "(---|[-a:\\[ #\n\r])*") {
            let documents = split(&text);
            let mut rest = &text[..];
            for (at, (number, _, part)) in documents.iter().enumerate() {
                prop_assert_eq!(*number, at + 1);
                let found = rest.find(part);
                prop_assert!(found.is_some());
                rest = &rest[found.unwrap_or(0) + part.len()..];
                read(part, 1);
            }
        }
    }

    #[test]
    fn invalid_yaml_is_refused_with_its_line_in_the_file() {
        let decoded = read("---\na: 1\nb: [\n", 10);
        let error = &decoded[0].problems()[0];
        assert!(error.message.starts_with("line 1"), "{error}");
        let twice = read("a: 1\na: 2\n", 1);
        assert!(!twice[0].problems().is_empty());
    }
}
