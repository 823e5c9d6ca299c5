//! One file of the configuration: the resources that its documents define, and its refusals.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::change::Diagnostic;
use super::document;
use super::origin::Origin;
use crate::model::diagnostic::{Code, Problem};
use crate::model::resource::{Decoded, Outcome, Resource, ResourceId};

/// The definitions of a file, and its refusals.
#[derive(Debug, Default)]
pub(super) struct ConfigFile {
    pub(super) definitions: BTreeMap<ResourceId, Definition>,
    pub(super) refusals: Vec<Diagnostic>,
    /// The titles of its resources of kinds that the mesh does not read.
    pub(super) not_handled: Vec<String>,
    cache: Arc<DocumentCache>,
}

/// The decoded documents of a file by the digest of their text: only documents that changed are decoded again.
pub(super) type DocumentCache = BTreeMap<[u8; 32], Arc<[Decoded]>>;

/// The decoded documents of a file's text. Decoding a large file is slow.
#[derive(Debug, Clone, Default)]
pub(super) struct ParsedText {
    documents: Vec<ParsedDocument>,
}

#[derive(Debug, Clone)]
struct ParsedDocument {
    number: usize,
    digest: [u8; 32],
    text: Arc<str>,
    decoded: Arc<[Decoded]>,
}

impl ParsedText {
    /// Decodes a text. Documents that are in `before` are not decoded again.
    pub(super) fn of(text: &str, before: &DocumentCache) -> Self {
        let document = |(number, line, text): (usize, usize, &str)| {
            let digest: [u8; 32] = Sha256::digest(text).into();
            let decoded = match before.get(&digest) {
                // An error may name a line, which may have moved: decoded again.
                Some(decoded) if decoded.iter().all(|one| !matches!(one.outcome, Outcome::Refused(_))) => {
                    Arc::clone(decoded)
                }
                _ => document::read(text, line).into(),
            };
            ParsedDocument { number, digest, text: text.into(), decoded }
        };
        Self { documents: document::split(text).into_iter().map(document).collect() }
    }
}

/// Which of its previous definitions the new text of a file may remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completeness {
    /// The text is complete: resources that it no longer defines are removed.
    Complete,
    /// The text is complete, but resources that it no longer defines stay for now: they may have moved to a file that is
    /// still being parsed.
    RemovalsDeferred,
    /// The text may be cut short: resources that it does not define stay, and so does one that its last document would
    /// shorten.
    Partial,
}

/// The last good version of a resource in a file.
#[derive(Debug, Clone)]
pub(super) struct Definition {
    /// The number of its document in the file.
    pub(super) document: usize,
    /// Its index, if the document is a List.
    pub(super) item: Option<usize>,
    pub(super) resource: Arc<Resource>,
    /// The text of its document.
    pub(super) text: Arc<str>,
    /// The current text of the file was refused or does not define the resource. If it was refused and there is no good version, the
    /// resource may be what stands for it.
    pub(super) retained: bool,
}

/// Returns the path of a field in a document, if the resource may be an item of a List.
pub(super) fn field_of_item(item: Option<usize>, field: &str) -> String {
    item.map_or_else(|| field.to_owned(), |at| format!("items[{at}].{field}"))
}

impl Definition {
    /// Returns its text as it may be stored: without the keys of a Secret.
    pub(super) fn text_without_keys(&self) -> Arc<str> {
        self.resource.text_without_keys().map_or_else(|| Arc::clone(&self.text), Into::into)
    }

    /// Returns the last good version of a Secret whose current one is refused, for the reason that `stand_in` has.
    fn although_refused(&self, stand_in: &Resource) -> Option<Self> {
        let resource = Arc::new(self.resource.although_refused(stand_in)?);
        Some(Self { resource, retained: true, ..self.clone() })
    }

    /// Returns the digest of its text for the change log.
    pub(super) fn version(&self) -> String {
        Sha256::digest(self.text_without_keys().as_bytes())
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Decodes the definitions in a saved document.
    pub(super) fn restored(text: &str) -> impl Iterator<Item = (ResourceId, Self)> {
        document::read(text, 1).into_iter().filter_map(move |decoded| {
            let Outcome::Accepted(resource) = decoded.outcome else { return None };
            let id = resource.metadata.id.clone();
            Some((id, Self { document: 0, item: None, resource, text: text.into(), retained: true }))
        })
    }
}

impl ConfigFile {
    /// Returns its decoded documents.
    pub(super) fn document_cache(&self) -> Arc<DocumentCache> {
        Arc::clone(&self.cache)
    }

    /// Makes the next version of a file of its new text, retaining the old definitions that the text does not replace or remove.
    pub(super) fn replace(path: &Path, parsed: ParsedText, old: Self, completeness: Completeness) -> Self {
        let mut new = Self::default();
        let mut cache = DocumentCache::new();
        let mut unidentified = false;
        let mut defined: BTreeMap<ResourceId, usize> = BTreeMap::new();
        let last = parsed.documents.len();
        for ParsedDocument { number, digest, text: shared, decoded } in parsed.documents {
            for Decoded { title, id, outcome, stand_in, item } in decoded.iter() {
                let mut refuse = |problem: Problem| {
                    let origin = Origin::File { path: path.to_owned(), document: number };
                    new.refusals.push(Diagnostic { origin, resource: title.clone(), problem });
                };
                if let Some(first) = id.as_ref().and_then(|id| defined.get(id)) {
                    let message = format!("is already defined in document {first}");
                    let field = field_of_item(item.as_ref().map(|(at, _)| *at), "metadata.name");
                    refuse(Problem::of(Code::DuplicateResource, field, message));
                    continue;
                }
                if let Some(id) = id {
                    defined.insert(id.clone(), number);
                }
                match (id, outcome) {
                    (Some(id), Outcome::Accepted(resource)) => {
                        let text = item.as_ref().map_or(&shared, |(_, text)| text);
                        let (resource, text) = (Arc::clone(resource), Arc::clone(text));
                        let item = item.as_ref().map(|(at, _)| *at);
                        let partial = completeness == Completeness::Partial && number == last;
                        if !(partial
                            && old.definitions.get(id).is_some_and(|old| old.text.len() > text.len()))
                        {
                            let definition =
                                Definition { document: number, item, resource, text, retained: false };
                            new.definitions.insert(id.clone(), definition);
                        }
                    }
                    (_, Outcome::Refused(problems)) => {
                        unidentified |= id.is_none();
                        problems.iter().cloned().for_each(&mut refuse);
                        let cut_short = completeness == Completeness::Partial && number == last;
                        if let (Some(id), Some(stand_in)) = (id, stand_in)
                            && !cut_short
                        {
                            let good = old.definitions.get(id).filter(|old| !old.resource.stands_in());
                            let definition = match good {
                                Some(good) => good.although_refused(stand_in),
                                None => {
                                    refuse(Problem::of(Code::InvalidValue, "", id.kind.stand_in_notice()));
                                    let (resource, text) = (Arc::clone(stand_in), Arc::clone(&shared));
                                    let (document, item) = (number, None);
                                    Some(Definition { document, item, resource, text, retained: true })
                                }
                            };
                            new.definitions.extend(definition.map(|definition| (id.clone(), definition)));
                        }
                    }
                    (None, Outcome::Accepted(_)) => {}
                    (_, Outcome::NotHandled) => new.not_handled.extend(title.clone()),
                }
            }
            cache.insert(digest, decoded);
        }
        for (id, definition) in old.definitions {
            if definition.resource.stands_in() && defined.contains_key(&id) {
                continue;
            }
            if completeness != Completeness::Complete || unidentified || defined.contains_key(&id) {
                new.definitions.entry(id).or_insert(Definition { retained: true, ..definition });
            }
        }
        Self { cache: Arc::new(cache), ..new }
    }

    /// Makes the next version of a file that cannot be read: it retains its definitions.
    pub(super) fn unreadable(path: &Path, reason: String, old: Self) -> Self {
        let problem = Problem::of(Code::UnreadableFile, "", reason);
        let refusal = Diagnostic { origin: Origin::file(path), resource: None, problem };
        let keep = |(id, definition)| (id, Definition { retained: true, ..definition });
        Self {
            definitions: old.definitions.into_iter().map(keep).collect(),
            refusals: vec![refusal],
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::resource::Kind;

    /// Reads texts of one file in turn. Returns, for the last, each definition and the messages of its refusals.
    fn read(texts: &[String], completeness: Completeness) -> (Vec<String>, Vec<String>) {
        let mut file = ConfigFile::default();
        for text in texts {
            let parsed = ParsedText::of(text, &DocumentCache::default());
            file = ConfigFile::replace(Path::new("a.yaml"), parsed, file, completeness);
        }
        let text = |(id, definition): (&ResourceId, &Definition)| {
            let kind = if definition.resource.stands_in() { "stands in" } else { "good" };
            format!("{} {kind}", id.name)
        };
        let refusals = file.refusals.iter().map(|one| one.problem.message.clone()).collect();
        (file.definitions.iter().map(text).collect(), refusals)
    }

    fn policy(action: &str) -> String {
        format!(
            "{{apiVersion: outrigger.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: a}}, spec: {{action: {action}}}}}"
        )
    }

    #[test]
    fn a_refused_policy_falls_back_to_its_good_version_or_denies() {
        let (good, refused, audit) = (policy("Allow"), policy("Alow"), policy("Audit, x: 1"));
        let complete = |texts: &[&String]| {
            read(&texts.iter().map(|text| (*text).clone()).collect::<Vec<_>>(), Completeness::Complete)
        };
        let (active, why) = complete(&[&good, &refused]);
        assert_eq!((active, why.len()), (vec!["a good".into()], 1));
        let (active, why) = complete(&[&refused]);
        let notice = Kind::AuthorizationPolicy.stand_in_notice();
        assert_eq!((active, &*why[1]), (vec!["a stands in".into()], notice));
        assert_eq!(complete(&[&refused, &refused]).0, ["a stands in"]);
        assert_eq!(complete(&[&refused, &good]).0, ["a good"]);
        assert_eq!(complete(&[&refused, &audit]), (vec![], vec!["unknown field".into()]));
        assert_eq!(complete(&[&refused, &String::new()]).0, [""; 0]);
    }

    #[test]
    fn nothing_stands_for_a_policy_whose_text_may_be_cut_short() {
        assert_eq!(read(&[policy("Al")], Completeness::Partial).0, [""; 0]);
    }

    #[test]
    fn a_refused_secret_keeps_its_good_keys_and_says_why_it_is_refused() {
        let secret = |entries: &str| {
            format!(
                "{{apiVersion: v1, kind: Secret, metadata: {{name: a, labels: {{outrigger.dev/api-keys: 'true'}}}}, \
                   stringData: {{{entries}}}}}"
            )
        };
        let (good, refused) = (secret("acme: first-key-of-acme"), secret("acme: short"));
        let complete = |texts: &[&String]| {
            read(&texts.iter().map(|text| (*text).clone()).collect::<Vec<_>>(), Completeness::Complete)
        };
        let (active, why) = complete(&[&refused]);
        assert_eq!((active, &*why[1]), (vec!["a stands in".into()], Kind::Secret.stand_in_notice()));
        assert_eq!(complete(&[&good, &refused]).0, ["a good"]);
        assert_eq!(complete(&[&refused, &good]).0, ["a good"]);
        // Without its label it is no longer read.
        assert_eq!(complete(&[&good, &good.replace("'true'", "'no'")]).0, [""; 0]);
    }
}
