//! One file of the configuration: the resources that its documents hold, and what was refused of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::change::Refusal;
use super::document;
use super::origin::Origin;
use crate::model::resource::{Decoded, Resource, ResourceId};

/// What a file offers, and what of it was refused.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) offers: BTreeMap<ResourceId, Offer>,
    pub(super) refusals: Vec<Refusal>,
    read: Arc<ReadTexts>,
}

/// What each text was read as, by its digest: of a large file, only documents that changed are read again.
pub(super) type ReadTexts = BTreeMap<[u8; 32], Arc<[Decoded]>>;

/// A file's text, taken apart and read. Takes long for a large one, and depends on nothing else.
#[derive(Debug, Clone, Default)]
pub(super) struct Parsed {
    documents: Vec<ParsedDocument>,
}

#[derive(Debug, Clone)]
struct ParsedDocument {
    number: usize,
    digest: [u8; 32],
    text: Arc<str>,
    decoded: Arc<[Decoded]>,
}

impl Parsed {
    /// Reads the documents of a text that were not read before.
    pub(super) fn of(text: &str, before: &ReadTexts) -> Self {
        let document = |(number, line, text): (usize, usize, &str)| {
            let digest: [u8; 32] = Sha256::digest(text).into();
            let decoded = match before.get(&digest) {
                // A refusal may name a line, which may be another now: read again.
                Some(decoded) if decoded.iter().all(|one| one.outcome.is_ok()) => Arc::clone(decoded),
                _ => document::read(text, line).into(),
            };
            ParsedDocument { number, digest, text: text.into(), decoded }
        };
        Self { documents: document::split(text).into_iter().map(document).collect() }
    }
}

/// How much of what a file offered before its new text may take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The text is complete: what it no longer mentions is gone.
    Complete,
    /// The text is complete, but what it no longer mentions stays for now: it may have moved to a file that is still
    /// being parsed.
    KeepMissing,
    /// The text may be cut short, since its writer is not done: what it does not mention stays, and so does a resource
    /// that its last document shortens.
    Cut,
}

/// A version of a resource that a file holds, or held last.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    /// Its number in the file.
    pub(super) document: usize,
    pub(super) resource: Arc<Resource>,
    /// The text of its document.
    pub(super) text: Arc<str>,
    /// The file says otherwise by now, and was refused.
    pub(super) kept: bool,
}

impl Offer {
    /// What stands for its text in the change log.
    pub(super) fn version(&self) -> String {
        Sha256::digest(self.text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The versions that a saved document holds, as they were kept.
    pub(super) fn restored(text: &str) -> impl Iterator<Item = (ResourceId, Self)> {
        document::read(text, 1).into_iter().filter_map(move |decoded| {
            let resource = decoded.outcome.ok()?;
            let id = resource.metadata.id.clone();
            Some((id, Self { document: 0, resource, text: text.into(), kept: true }))
        })
    }
}

impl File {
    /// What its texts were read as.
    pub(super) fn texts(&self) -> Arc<ReadTexts> {
        Arc::clone(&self.read)
    }

    /// Takes the new text of a file, and keeps of what it offered before what the text does not replace.
    pub(super) fn take(path: &Path, parsed: Parsed, old: Self, extent: Extent) -> Self {
        let mut new = Self::default();
        let mut read = ReadTexts::new();
        let mut nameless = false;
        let mut mentioned: BTreeMap<ResourceId, usize> = BTreeMap::new();
        let last = parsed.documents.len();
        for ParsedDocument { number, digest, text: shared, decoded } in parsed.documents {
            for Decoded { title, id, outcome, text } in decoded.iter() {
                let mut refuse = |field: &str, reason: String| {
                    let origin = Origin::File { path: path.to_owned(), document: number };
                    let resource = title.clone();
                    new.refusals.push(Refusal { origin, resource, field: field.into(), reason });
                };
                if let Some(first) = id.as_ref().and_then(|id| mentioned.get(id)) {
                    refuse("metadata.name", format!("is defined in document {first} already"));
                    continue;
                }
                if let Some(id) = id {
                    mentioned.insert(id.clone(), number);
                }
                match (id, outcome) {
                    (Some(id), Ok(resource)) => {
                        let (resource, text) =
                            (Arc::clone(resource), Arc::clone(text.as_ref().unwrap_or(&shared)));
                        let cut = extent == Extent::Cut && number == last;
                        if !(cut && old.offers.get(id).is_some_and(|old| old.text.len() > text.len())) {
                            let offer = Offer { document: number, resource, text, kept: false };
                            new.offers.insert(id.clone(), offer);
                        }
                    }
                    (_, Err(faults)) => {
                        nameless |= id.is_none();
                        faults.iter().for_each(|fault| refuse(&fault.path, fault.reason.clone()));
                    }
                    (None, Ok(_)) => {}
                }
            }
            read.insert(digest, decoded);
        }
        for (id, offer) in old.offers {
            if extent != Extent::Complete || nameless || mentioned.contains_key(&id) {
                new.offers.entry(id).or_insert(Offer { kept: true, ..offer });
            }
        }
        Self { read: Arc::new(read), ..new }
    }

    /// A file that cannot be read keeps what it held.
    pub(super) fn unreadable(path: &Path, reason: String, old: Self) -> Self {
        let refusal = Refusal { origin: Origin::file(path), resource: None, field: String::new(), reason };
        let keep = |(id, offer)| (id, Offer { kept: true, ..offer });
        Self {
            offers: old.offers.into_iter().map(keep).collect(),
            refusals: vec![refusal],
            read: Arc::default(),
        }
    }
}
