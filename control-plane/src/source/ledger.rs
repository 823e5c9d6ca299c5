//! Which version of each resource is in force, and what was refused.
//!
//! Every file offers the last good version of each resource that it holds. A refused resource leaves its offer as it
//! was; a document whose resource cannot be told leaves the offers of the whole file. Where two files offer one
//! resource, it stays with the file that has it, else the first by path, and the other is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::change::{Change, ChangeEvent, Refusal};
use super::directory::ChangedFile;
use super::document;
use crate::model::resource::{Decoded, Resource, ResourceId};

/// Every file with what it offers, and every resource with the file that it is taken from.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    files: BTreeMap<PathBuf, File>,
    offered_by: BTreeMap<ResourceId, BTreeSet<PathBuf>>,
    in_force: BTreeMap<ResourceId, (PathBuf, Arc<Resource>)>,
    /// Resources that several files offer.
    contested: BTreeSet<ResourceId>,
    announced: BTreeSet<Refusal>,
}

#[derive(Debug, Default)]
struct File {
    offers: BTreeMap<ResourceId, Offer>,
    refusals: Vec<Refusal>,
    /// What each text was read as: of a large file, only documents that changed are read again.
    read: BTreeMap<[u8; 32], Arc<[Decoded]>>,
}

#[derive(Debug, Clone)]
struct Offer {
    document: usize,
    resource: Arc<Resource>,
}

/// A resource of which another version is in force, or none any more.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) id: ResourceId,
    /// Where it stands now, or stood.
    file: PathBuf,
    pub(super) resource: Option<Arc<Resource>>,
    change: Change,
}

impl Ledger {
    /// Takes note of changed files.
    pub(super) fn update(&mut self, files: Vec<ChangedFile>) -> Vec<Settled> {
        let mut touched = BTreeSet::new();
        for ChangedFile { path, text } in files {
            let old = self.files.remove(&path).unwrap_or_default();
            touched.extend(old.offers.keys().cloned());
            for id in old.offers.keys() {
                if let Some(files) = self.offered_by.get_mut(id) {
                    files.remove(&path);
                }
            }
            let Some(text) = text else { continue };
            let new = match text {
                Ok(text) => File::read(&path, &text, old),
                Err(reason) => File::unreadable(&path, reason, old),
            };
            touched.extend(new.offers.keys().cloned());
            for id in new.offers.keys() {
                self.offered_by.entry(id.clone()).or_default().insert(path.clone());
            }
            self.files.insert(path, new);
        }
        touched.into_iter().filter_map(|id| self.settle(id)).collect()
    }

    /// Decides whose offer of a resource is in force; tells the new version if there is one.
    fn settle(&mut self, id: ResourceId) -> Option<Settled> {
        let offers = self.offered_by.get(&id);
        match offers.map_or(0, BTreeSet::len) {
            0 | 1 => self.contested.remove(&id),
            _ => self.contested.insert(id.clone()),
        };
        let Some(first) = offers.and_then(BTreeSet::first) else {
            self.offered_by.remove(&id);
            let (file, _) = self.in_force.remove(&id)?;
            return Some(Settled { id, file, resource: None, change: Change::Removed });
        };
        let incumbent = self.in_force.get(&id).map(|(file, _)| file);
        let file =
            incumbent.filter(|file| offers.is_some_and(|all| all.contains(*file))).unwrap_or(first).clone();
        let resource = Arc::clone(&self.files.get(&file)?.offers.get(&id)?.resource);
        let change = match self.in_force.insert(id.clone(), (file.clone(), Arc::clone(&resource))) {
            None => Change::Added,
            Some((_, old)) if old == resource => return None,
            Some(_) => Change::Changed,
        };
        Some(Settled { id, file, resource: Some(resource), change })
    }

    /// Everything that is refused, in order of file and document.
    pub(super) fn refusals(&self) -> BTreeSet<Refusal> {
        let of_files = self.files.values().flat_map(|file| &file.refusals).cloned();
        of_files.chain(self.contested.iter().flat_map(|id| self.losers(id))).collect()
    }

    /// The refusals of those who offer what another has.
    fn losers(&self, id: &ResourceId) -> Vec<Refusal> {
        let (Some((holder, _)), Some(files)) = (self.in_force.get(id), self.offered_by.get(id)) else {
            return Vec::new();
        };
        let refusal = |file: &PathBuf| Refusal {
            file: file.clone(),
            document: self.files.get(file).and_then(|f| f.offers.get(id)).map_or(0, |offer| offer.document),
            resource: Some(id.to_string()),
            field: "metadata.name".into(),
            reason: format!("is defined in {} already", holder.display()),
        };
        files.iter().filter(|file| *file != holder).map(refusal).collect()
    }

    /// The resources in force and the files that they are taken from.
    pub(super) fn in_force(&self) -> impl Iterator<Item = (&ResourceId, &Path)> {
        self.in_force.iter().map(|(id, (file, _))| (id, file.as_path()))
    }

    /// What the change log is told: what was settled, and what is refused since the last time.
    pub(super) fn events(&mut self, settled: &[Settled], at: jiff::Timestamp) -> Vec<ChangeEvent> {
        let accepted = |settled: &Settled| ChangeEvent {
            at,
            file: settled.file.clone(),
            resource: Some(settled.id.to_string()),
            change: settled.change.clone(),
        };
        let mut events: Vec<_> = settled.iter().map(accepted).collect();
        let refusals = self.refusals();
        for refusal in refusals.difference(&self.announced) {
            let (file, resource) = (refusal.file.clone(), refusal.resource.clone());
            events.push(ChangeEvent { at, file, resource, change: Change::Refused(refusal.clone()) });
        }
        self.announced = refusals;
        events
    }
}

impl File {
    /// Reads the documents of a file, and keeps of its former self what this one does not replace.
    fn read(path: &Path, text: &str, mut old: Self) -> Self {
        let mut new = Self::default();
        let mut nameless = false;
        let mut mentioned: BTreeMap<ResourceId, usize> = BTreeMap::new();
        for (number, line, text) in document::split(text) {
            let digest: [u8; 32] = Sha256::digest(text).into();
            let decoded = match old.read.remove(&digest).or_else(|| new.read.get(&digest).cloned()) {
                // A refusal may name a line, which may be another now: read again.
                Some(decoded) if decoded.iter().all(|one| one.outcome.is_ok()) => decoded,
                _ => document::read(text, line).into(),
            };
            for Decoded { title, id, outcome } in decoded.iter() {
                let mut refuse = |field: &str, reason: String| {
                    let (file, resource) = (path.to_owned(), title.clone());
                    new.refusals.push(Refusal {
                        file,
                        document: number,
                        resource,
                        field: field.into(),
                        reason,
                    });
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
                        let resource = Arc::clone(resource);
                        new.offers.insert(id.clone(), Offer { document: number, resource });
                    }
                    (_, Err(fault)) => {
                        nameless |= id.is_none();
                        refuse(&fault.path, fault.reason.clone());
                    }
                    (None, Ok(_)) => {}
                }
            }
            new.read.insert(digest, decoded);
        }
        for (id, offer) in old.offers {
            if nameless || mentioned.contains_key(&id) {
                new.offers.entry(id).or_insert(offer);
            }
        }
        new
    }

    fn unreadable(path: &Path, reason: String, old: Self) -> Self {
        let refusal =
            Refusal { file: path.to_owned(), document: 0, resource: None, field: String::new(), reason };
        Self { offers: old.offers, refusals: vec![refusal], read: BTreeMap::new() }
    }
}
