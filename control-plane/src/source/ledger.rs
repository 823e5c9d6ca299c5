//! Which version of each resource is in force, and what was refused.
//!
//! Every file offers the last good version of each resource that it holds. A refused resource leaves its offer as it
//! was; a document whose resource cannot be told leaves the offers of the whole file. Where two files offer one
//! resource, it stays with the file that has it, else the first by path, and the other is refused; but an offer that
//! its file no longer makes gives way to one that a file does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::change::{Refusal, ResourceChange};
use super::file::{Extent, File, Offer, Parsed, ReadTexts};
use super::last_good::KeptVersion;
use super::origin::Origin;
use crate::model::resource::{Resource, ResourceId};

/// Every file with what it offers, and every resource with the file that it is taken from.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    files: BTreeMap<PathBuf, File>,
    offered_by: BTreeMap<ResourceId, BTreeSet<PathBuf>>,
    in_force: BTreeMap<ResourceId, (PathBuf, Arc<Resource>)>,
    /// Resources that several files offer.
    contested: BTreeSet<ResourceId>,
}

/// A file that is different, as far as it was read; none where it is gone, an error where it cannot be read.
#[derive(Debug)]
pub(super) struct NewFile {
    pub(super) path: PathBuf,
    pub(super) parsed: Option<Result<Parsed, String>>,
    pub(super) extent: Extent,
}

impl Ledger {
    /// What the texts of a file were read as.
    pub(super) fn texts(&self, path: &Path) -> Arc<ReadTexts> {
        self.files.get(path).map(File::texts).unwrap_or_default()
    }

    /// Takes note of changed files.
    pub(super) fn update(&mut self, files: Vec<NewFile>) -> Vec<ResourceChange> {
        let mut touched = BTreeSet::new();
        for NewFile { path, parsed, extent } in files {
            let old = self.files.remove(&path).unwrap_or_default();
            touched.extend(old.offers.keys().cloned());
            for id in old.offers.keys() {
                if let Some(files) = self.offered_by.get_mut(id) {
                    files.remove(&path);
                }
            }
            let new = match parsed {
                None if extent == Extent::Complete => continue,
                None => File::take(&path, Parsed::default(), old, extent),
                Some(Ok(parsed)) => File::take(&path, parsed, old, extent),
                Some(Err(reason)) => File::unreadable(&path, reason, old),
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
    fn settle(&mut self, id: ResourceId) -> Option<ResourceChange> {
        let mut offers = Vec::new();
        for path in self.offered_by.get(&id).into_iter().flatten() {
            if let Some(offer) = self.files.get(path).and_then(|file| file.offers.get(&id)) {
                offers.push((path, offer));
            }
        }
        let incumbent = self.in_force.get(&id).map(|(file, _)| file);
        let rank =
            |(path, offer): &(&PathBuf, &Offer)| (offer.kept, Some(*path) != incumbent, (*path).clone());
        let contested = offers.iter().filter(|(_, offer)| !offer.kept).count() > 1;
        let best = offers.into_iter().min_by_key(rank).map(|(path, offer)| (path.clone(), offer.clone()));
        if contested {
            self.contested.insert(id.clone());
        } else {
            self.contested.remove(&id);
        }
        let Some((file, offer)) = best else {
            self.offered_by.remove(&id);
            let (file, _) = self.in_force.remove(&id)?;
            return Some(ResourceChange { id, origin: Origin::file(file), version: None, resource: None });
        };
        let resource = Arc::clone(&offer.resource);
        match self.in_force.insert(id.clone(), (file.clone(), Arc::clone(&resource))) {
            Some((_, old)) if Arc::ptr_eq(&old, &resource) || old == resource => None,
            _ => {
                let (origin, version) = (Origin::file(file), Some(offer.version()));
                Some(ResourceChange { id, origin, version, resource: Some(resource) })
            }
        }
    }

    /// The versions that are in force only because what the file says now was refused.
    pub(super) fn kept(&self) -> Vec<KeptVersion> {
        let mut all = Vec::new();
        for (path, file) in &self.files {
            for (id, offer) in file.offers.iter().filter(|(_, offer)| offer.kept) {
                let (file, resource) = (path.clone(), id.to_string());
                all.push(KeptVersion { file, resource, text: offer.text.to_string() });
            }
        }
        all
    }

    /// Puts back what [`kept`](Self::kept) told in an earlier life, before the first update. A version that is no
    /// longer good is dropped.
    pub(super) fn restore(&mut self, kept: Vec<KeptVersion>) {
        for KeptVersion { file, resource, text } in kept {
            for (id, offer) in Offer::restored(&text).filter(|(id, _)| id.to_string() == resource) {
                self.offered_by.entry(id.clone()).or_default().insert(file.clone());
                self.files.entry(file.clone()).or_default().offers.insert(id, offer);
            }
        }
    }

    /// Every file that offers something or was refused.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
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
        let refusal = |file: &PathBuf| {
            // A version that is merely kept stands aside: what its file says has a refusal of its own.
            let offer = self.files.get(file)?.offers.get(id).filter(|offer| !offer.kept)?;
            Some(Refusal {
                origin: Origin::File { path: file.clone(), document: offer.document },
                resource: Some(id.to_string()),
                field: "metadata.name".into(),
                reason: format!("is defined in {} already", holder.display()),
            })
        };
        files.iter().filter(|file| *file != holder).filter_map(refusal).collect()
    }

    /// The resources in force and the files that they are taken from.
    pub(super) fn in_force(&self) -> impl Iterator<Item = (&ResourceId, &Path)> {
        self.in_force.iter().map(|(id, (file, _))| (id, file.as_path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, label: &str) -> String {
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{l: {label}}}}}}}\n")
    }

    const BROKEN: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: a, lables: {}}}\n";

    fn new_file(path: &str, text: Option<&str>, extent: Extent) -> NewFile {
        let parsed = text.map(|text| Ok(Parsed::of(text, &ReadTexts::default())));
        NewFile { path: path.into(), parsed, extent }
    }

    impl Ledger {
        /// Changes a file, none for gone, and tells what became of which resource, shortly.
        fn file(&mut self, path: &str, text: Option<&str>) -> Vec<String> {
            self.part(path, text, Extent::Complete)
        }

        fn part(&mut self, path: &str, text: Option<&str>, extent: Extent) -> Vec<String> {
            let before: BTreeSet<_> = self.in_force.keys().cloned().collect();
            let what = |one: &ResourceChange| match (before.contains(&one.id), &one.resource) {
                (false, _) => "Added",
                (true, Some(_)) => "Changed",
                (true, None) => "Removed",
            };
            let changes = self.update(vec![new_file(path, text, extent)]);
            changes.iter().map(|one| format!("{} {}", one.id.name, what(one))).collect()
        }

        fn refused(&self) -> Vec<String> {
            self.refusals().iter().map(ToString::to_string).collect()
        }

        fn holders(&self) -> Vec<String> {
            self.in_force().map(|(id, file)| format!("{} {}", id.name, file.display())).collect()
        }
    }

    #[test]
    fn resources_come_change_and_go_with_their_file() {
        let mut ledger = Ledger::default();
        let two = namespace("a", "x") + "---\n" + &namespace("b", "x");
        assert_eq!(ledger.file("f.yaml", Some(&two)), ["a Added", "b Added"]);
        assert_eq!(ledger.file("f.yaml", Some(&two)), [""; 0]);
        let other = namespace("b", "z") + "---\n" + &namespace("a", "x");
        assert_eq!(ledger.file("f.yaml", Some(&other)), ["b Changed"]);
        assert_eq!(ledger.file("f.yaml", Some(&namespace("a", "x"))), ["b Removed"]);
        assert_eq!(ledger.file("f.yaml", None), ["a Removed"]);
        assert!(ledger.holders().is_empty() && ledger.refused().is_empty());
    }

    #[test]
    fn a_refused_resource_keeps_its_last_good_version() {
        let mut ledger = Ledger::default();
        ledger.file("f.yaml", Some(&(namespace("a", "x") + "---\n" + &namespace("b", "x"))));
        let broken = BROKEN.to_owned() + "---\n" + &namespace("b", "z");
        assert_eq!(ledger.file("f.yaml", Some(&broken)), ["b Changed"]);
        assert_eq!(ledger.holders(), ["a f.yaml", "b f.yaml"]);
        assert_eq!(ledger.refused(), ["f.yaml, document 1, Namespace a, metadata.lables: unknown field"]);
        assert_eq!(ledger.file("f.yaml", Some(&namespace("b", "z"))), ["a Removed"]);
        assert!(ledger.refused().is_empty());
    }

    #[test]
    fn what_cannot_be_told_keeps_everything_that_the_file_held() {
        for broken in
            ["a: [\n", "{apiVersion: v1}\n", "{apiVersion: apps/v1, kind: X, metadata: {name: a}}\n"]
        {
            let mut ledger = Ledger::default();
            ledger.file("f.yaml", Some(&(namespace("a", "x") + "---\n" + &namespace("b", "x"))));
            let text = namespace("c", "x") + "---\n" + broken;
            assert_eq!(ledger.file("f.yaml", Some(&text)), ["c Added"], "{broken}");
            assert_eq!(ledger.holders(), ["a f.yaml", "b f.yaml", "c f.yaml"]);
            assert_eq!(ledger.refused().len(), 1);
            // Twice broken is still the last good.
            assert_eq!(ledger.file("f.yaml", Some(broken)), [""; 0]);
        }
        let mut ledger = Ledger::default();
        ledger.file("f.yaml", Some(&namespace("a", "x")));
        let unreadable =
            NewFile { path: "f.yaml".into(), parsed: Some(Err("no".into())), extent: Extent::Complete };
        assert!(ledger.update(vec![unreadable]).is_empty());
        assert_eq!(ledger.refused(), ["f.yaml: no"]);
    }

    #[test]
    fn what_was_kept_is_kept_through_a_restart() {
        let mut first = Ledger::default();
        first.file("f.yaml", Some(&(namespace("a", "x") + "---\n" + &namespace("b", "x"))));
        assert!(first.kept().is_empty());
        let broken = BROKEN.to_owned() + "---\n" + &namespace("b", "x");
        first.file("f.yaml", Some(&broken));
        let mut second = Ledger::default();
        second.restore(first.kept());
        assert_eq!(second.file("f.yaml", Some(&broken)), ["a Added", "b Added"]);
        assert_eq!(second.kept(), first.kept());
        let mut third = Ledger::default();
        third.restore(first.kept());
        assert_eq!(third.file("f.yaml", Some(&namespace("b", "x"))), ["b Added"]);
        assert!(third.kept().is_empty());
    }

    #[test]
    fn a_resource_defined_twice_stays_with_who_has_it() {
        let mut ledger = Ledger::default();
        ledger.file("b.yaml", Some(&namespace("a", "x")));
        assert_eq!(ledger.file("a.yaml", Some(&namespace("a", "z"))), [""; 0]);
        let reason = "a.yaml, document 1, Namespace a, metadata.name: is defined in b.yaml already";
        assert_eq!(ledger.refused(), [reason]);
        assert_eq!(ledger.file("b.yaml", None), ["a Changed"]);
        assert_eq!((ledger.holders(), ledger.refused()), (vec!["a a.yaml".to_owned()], Vec::new()));
        let twice = namespace("a", "z") + "---\n" + &namespace("a", "x");
        assert_eq!(ledger.file("a.yaml", Some(&twice)), [""; 0]);
        assert_eq!(
            ledger.refused(),
            ["a.yaml, document 2, Namespace a, metadata.name: is defined in document 1 already"]
        );
    }

    #[test]
    fn a_kept_version_gives_way_to_another_files() {
        let mut ledger = Ledger::default();
        ledger.file("a.yaml", Some(&namespace("a", "x")));
        ledger.file("a.yaml", Some(BROKEN));
        assert_eq!(ledger.file("b.yaml", Some(&namespace("a", "z"))), ["a Changed"]);
        assert_eq!((ledger.holders(), ledger.refused().len()), (vec!["a b.yaml".to_owned()], 1));
    }

    #[test]
    fn at_the_start_the_first_by_path_has_it() {
        let file = |path: &str| new_file(path, Some(&namespace("a", path)), Extent::Complete);
        for files in [vec![file("a"), file("b")], vec![file("b"), file("a")]] {
            let mut ledger = Ledger::default();
            ledger.update(files);
            assert_eq!(ledger.holders(), ["a a"]);
        }
    }

    #[test]
    fn a_text_that_may_be_cut_short_takes_nothing_away() {
        let mut ledger = Ledger::default();
        let two = namespace("a", "x") + "---\n" + &namespace("b", "longer");
        ledger.file("f.yaml", Some(&two));
        assert_eq!(ledger.part("f.yaml", Some(""), Extent::Cut), [""; 0]);
        assert_eq!(ledger.part("f.yaml", Some(&namespace("a", "z")), Extent::Cut), ["a Changed"]);
        // The last document of a half file may be cut in its midst.
        let cut = namespace("a", "z") + "---\n" + &namespace("b", "l");
        assert_eq!(ledger.part("f.yaml", Some(&cut), Extent::Cut), [""; 0]);
        assert_eq!(ledger.part("f.yaml", None, Extent::KeepMissing), [""; 0]);
        assert_eq!(ledger.holders(), ["a f.yaml", "b f.yaml"]);
        // A complete text may shorten it, also while what is missing is kept.
        let complete = ledger.part("f.yaml", Some(&namespace("b", "l")), Extent::KeepMissing);
        assert_eq!(complete, ["b Changed"]);
        assert_eq!(ledger.holders(), ["a f.yaml", "b f.yaml"]);
        ledger.file("f.yaml", Some(&cut));
        assert_eq!(ledger.file("f.yaml", None), ["a Removed", "b Removed"]);
    }

    #[test]
    fn an_item_of_a_list_has_a_text_and_a_version_of_its_own() {
        let list = |label: &str| {
            format!(
                "{{apiVersion: v1, kind: List, items: [{}, {}]}}",
                namespace("a", label).trim(),
                namespace("b", "same").trim()
            )
        };
        let mut ledger = Ledger::default();
        let versions = |ledger: &mut Ledger, text: &str| {
            let settled = ledger.update(vec![new_file("f.yaml", Some(text), Extent::Complete)]);
            settled.into_iter().map(|one| one.version.unwrap()).collect::<Vec<_>>()
        };
        let first = versions(&mut ledger, &list("x"));
        assert_ne!(first[0], first[1]);
        assert_eq!(ledger.file("f.yaml", Some(&list("z"))), ["a Changed"]);
        ledger.file("f.yaml", Some("a: ["));
        let kept = ledger.kept();
        assert!(kept.iter().all(|kept| kept.text.len() < list("z").len() / 2), "{kept:?}");
        let mut restarted = Ledger::default();
        restarted.restore(kept);
        restarted.file("f.yaml", Some("a: ["));
        assert_eq!(restarted.holders(), ["a f.yaml", "b f.yaml"]);
    }
}
