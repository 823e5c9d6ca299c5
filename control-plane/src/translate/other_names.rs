//! A regular expression for all names but some, in a syntax without negation (RE2).

use std::collections::BTreeMap;

/// Returns an expression that matches every whole name, except the empty one, pseudo-headers and these. One that ends with a hyphen stands for all
/// names that begin with it.
pub(super) fn none_of(names: &[&str]) -> String {
    let mut root = Node::default();
    for name in names {
        let mut node = &mut root;
        for letter in name.chars() {
            node = node.next.entry(letter).or_default();
        }
        node.excluded = true;
    }
    root.next.insert(':', Node { excluded: true, ..Node::default() });
    root.excluded = true;
    root.expression()
}

/// What may follow some letters.
#[derive(Default)]
struct Node {
    next: BTreeMap<char, Node>,
    /// No name may end here.
    excluded: bool,
}

impl Node {
    fn expression(&self) -> String {
        let letters: String = self.next.keys().map(|letter| regex::escape(&letter.to_string())).collect();
        let mut ways = vec![if letters.is_empty() { ".+".into() } else { format!("[^{letters}].*") }];
        for (letter, node) in &self.next {
            let all = node.excluded && node.next.is_empty() && matches!(letter, '-' | ':');
            if !all {
                ways.push(format!("{}{}", regex::escape(&letter.to_string()), node.expression()));
            }
        }
        format!("(?:{}){}", ways.join("|"), if self.excluded { "" } else { "?" })
    }
}

#[cfg(test)]
mod tests {
    use outrigger_core::matcher::full_match;
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 5] = ["content-", "te", "date", "transfer-encoding", "server"];

    fn is_excluded(name: &str) -> bool {
        name.is_empty()
            || name.starts_with(':')
            || NAMES.iter().any(|other| *other == name || other.ends_with('-') && name.starts_with(other))
    }

    proptest! {
        #[test]
        fn every_other_name_matches(name in "(:|content|te|dat|date|transfer|-|e|r|server|s|encoding|x){0,5}") {
            let expression = full_match(&none_of(&NAMES)).unwrap();
            prop_assert_eq!(expression.is_match(&name), !is_excluded(&name));
        }
    }
}
