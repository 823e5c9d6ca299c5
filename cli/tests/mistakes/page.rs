//! The rows of docs/troubleshooting.md, and whether a text shows what a row says.

use std::time::{Duration, Instant};

/// How long a mistake may take to be reported.
const PATIENCE: Duration = Duration::from_secs(40);

/// A row of the page.
#[derive(Debug)]
pub(crate) struct Row {
    /// The mistake.
    pub(crate) cause: String,
    /// The parts of what is printed, in their order; what varies is between them.
    printed: Vec<String>,
}

/// Reads the page.
pub(crate) fn rows() -> Vec<Row> {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md")).unwrap();
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    let lines = page.lines().skip_while(|line| !line.starts_with("| mistake |")).skip(2);
    let rows = lines.take_while(|line| line.starts_with("| ")).map(cells);
    rows.map(|cells: Vec<String>| {
        let [cause, printed, place, next] = cells.as_slice() else { panic!("four cells: {cells:?}") };
        let printed = printed.strip_prefix('`').and_then(|text| text.strip_suffix('`')).expect("quoted text");
        assert!(!place.is_empty() && !next.is_empty(), "{cause}");
        Row {
            cause: cause.clone(),
            printed: printed.split("...").map(|part| part.trim().to_owned()).collect(),
        }
    })
    .collect()
}

impl Row {
    /// Waits until the text shows what the row says.
    pub(crate) fn soon(&self, mut text: impl FnMut() -> String) {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = text();
            if self.is_shown_by(&now) {
                return;
            }
            assert!(Instant::now() < until, "{}: {:?} is not in\n{now}", self.cause, self.printed);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn is_shown_by(&self, text: &str) -> bool {
        let mut rest = text;
        self.printed.iter().all(|part| match rest.split_once(part.as_str()) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    }
}
