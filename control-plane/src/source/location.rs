//! Finds the line and column of a field in the text of a document.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

/// A position in a file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// A document whose fields have positions.
pub(super) struct LocatedDocument {
    first_line: usize,
    root: Spanned<Node>,
}

impl LocatedDocument {
    /// Reads a document that begins at `first_line`. Returns None if it is not YAML.
    pub(super) fn read(text: &str, first_line: usize) -> Option<Self> {
        let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
        let root = serde_saphyr::from_str_with_options(text, options).ok()?;
        Some(Self { first_line, root })
    }

    /// Returns the position of the field `spec.rules[0].name`: that of its name, or of the item in a list. If the field does not
    /// exist, returns the position of the innermost field that contains it.
    pub(super) fn position(&self, field: &str) -> Option<Position> {
        let (mut node, mut at, mut rest) = (&self.root.value, self.root.referenced, field);
        while !rest.is_empty() {
            let Some((inner, location, after)) = node.step(rest) else { break };
            (node, at, rest) = (inner, location, after.strip_prefix('.').unwrap_or(after));
        }
        let line = usize::try_from(at.line()).ok()?.checked_sub(1)?;
        Some(Position { line: self.first_line + line, column: usize::try_from(at.column()).ok()? })
    }
}

/// The structure of a document, with positions.
enum Node {
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
    List(Vec<Spanned<Node>>),
    Scalar,
}

impl Node {
    /// Takes the first step of a path: returns the value, its position, and the rest of the path. The names of fields may
    /// contain dots.
    fn step<'n, 'p>(&'n self, path: &'p str) -> Option<(&'n Node, Location, &'p str)> {
        match self {
            Self::Map(fields) => {
                let found = fields.iter().filter_map(|(name, value)| {
                    let after = path.strip_prefix(name.value.as_str())?;
                    let whole = after.is_empty() || after.starts_with(['.', '[']);
                    whole.then_some((&value.value, name.referenced, after))
                });
                found.min_by_key(|(_, _, after)| after.len())
            }
            Self::List(items) => {
                let (number, after) = path.strip_prefix('[')?.split_once(']')?;
                let item = items.get(number.parse::<usize>().ok()?)?;
                Some((&item.value, item.referenced, after))
            }
            Self::Scalar => None,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = map.next_entry()? {
            fields.push(entry);
        }
        Ok(Node::Map(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        Node::deserialize(from)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Node::Scalar)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "# a comment
kind: HTTPRoute
metadata:
  annotations:
    outrigger.dev/x: y
spec:
  parentRefs:
    - name: catalog
      port: 80
  rules:
    - matches: [{path: {value: /a}}, {method: GET}]
    - backendRefs:
        - name: cart
";

    fn locate(text: &str, first_line: usize, field: &str) -> Option<(usize, usize)> {
        let position = LocatedDocument::read(text, first_line)?.position(field)?;
        Some((position.line, position.column))
    }

    #[test]
    fn a_field_is_found_by_its_path() {
        let at = |field: &str| locate(ROUTE, 11, field);
        assert_eq!(at("kind"), Some((12, 1)));
        assert_eq!(at("metadata.annotations.outrigger.dev/x"), Some((15, 5)));
        assert_eq!(at("spec.parentRefs[0].port"), Some((19, 7)));
        assert_eq!(at("spec.rules[0].matches[1]"), Some((21, 38)));
        assert_eq!(at("spec.rules[1].backendRefs[0]"), Some((23, 11)));
        assert_eq!(at(""), Some((12, 1)));
    }

    #[test]
    fn the_position_of_a_missing_field_is_that_of_what_would_contain_it() {
        let at = |field: &str| locate(ROUTE, 1, field);
        assert_eq!(at("spec.rules[1].backendRefs[0].port"), Some((13, 11)));
        assert_eq!(at("spec.rules[7].name"), Some((10, 3)));
        assert_eq!(locate("a: [", 1, "a"), None);
    }
}
