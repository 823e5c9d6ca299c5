//! Selects the active version of each resource among the definitions in all files.
//!
//! A file keeps the last good definition of each of its resources. A refused resource leaves its definition unchanged; a
//! document whose resource cannot be identified leaves all definitions of its file unchanged. If two files define the same
//! resource, the active one stays active, else the first by path is selected, and the other is refused. A retained
//! definition yields to one that a file currently contains.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::change::{Diagnostic, ResourceChange};
use super::file::{Completeness, ConfigFile, Definition, DocumentCache, ParsedText, field_of_item};
use super::last_good::RetainedVersion;
use super::origin::Origin;
use crate::model::diagnostic::{Code, Problem};
use crate::model::resource::{Resource, ResourceId};

/// The definitions of every file, and the active definition of every resource.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    files: BTreeMap<PathBuf, ConfigFile>,
    defined_in: BTreeMap<ResourceId, BTreeSet<PathBuf>>,
    active: BTreeMap<ResourceId, (PathBuf, Arc<Resource>)>,
    /// Resources that several files define.
    conflicting: BTreeSet<ResourceId>,
}

/// A changed file: its decoded text, or an error if it cannot be read. None if it is gone.
#[derive(Debug)]
pub(super) struct FileUpdate {
    pub(super) path: PathBuf,
    pub(super) parsed: Option<Result<ParsedText, String>>,
    pub(super) completeness: Completeness,
}

impl Definitions {
    /// Returns the decoded documents of a file.
    pub(super) fn document_cache(&self, path: &Path) -> Arc<DocumentCache> {
        self.files.get(path).map(ConfigFile::document_cache).unwrap_or_default()
    }

    /// Applies changed files. Returns the changes of active resources.
    pub(super) fn update(&mut self, files: Vec<FileUpdate>) -> Vec<ResourceChange> {
        let mut touched = BTreeSet::new();
        for FileUpdate { path, parsed, completeness } in files {
            let old = self.files.remove(&path).unwrap_or_default();
            touched.extend(old.definitions.keys().cloned());
            for id in old.definitions.keys() {
                if let Some(files) = self.defined_in.get_mut(id) {
                    files.remove(&path);
                }
            }
            let new = match parsed {
                None if completeness == Completeness::Complete => continue,
                None => ConfigFile::replace(&path, ParsedText::default(), old, completeness),
                Some(Ok(parsed)) => ConfigFile::replace(&path, parsed, old, completeness),
                Some(Err(reason)) => ConfigFile::unreadable(&path, reason, old),
            };
            touched.extend(new.definitions.keys().cloned());
            for id in new.definitions.keys() {
                self.defined_in.entry(id.clone()).or_default().insert(path.clone());
            }
            self.files.insert(path, new);
        }
        touched.into_iter().filter_map(|id| self.select_active(id)).collect()
    }

    /// Selects the active definition of a resource. Returns the change if the active definition is another than before.
    fn select_active(&mut self, id: ResourceId) -> Option<ResourceChange> {
        let mut definitions = Vec::new();
        for path in self.defined_in.get(&id).into_iter().flatten() {
            if let Some(definition) = self.files.get(path).and_then(|file| file.definitions.get(&id)) {
                definitions.push((path, definition));
            }
        }
        let incumbent = self.active.get(&id).map(|(file, _)| file);
        let rank = |(path, definition): &(&PathBuf, &Definition)| {
            (definition.retained, Some(*path) != incumbent, (*path).clone())
        };
        let conflicting = definitions.iter().filter(|(_, definition)| !definition.retained).count() > 1;
        let best = definitions
            .into_iter()
            .min_by_key(rank)
            .map(|(path, definition)| (path.clone(), definition.clone()));
        if conflicting {
            self.conflicting.insert(id.clone());
        } else {
            self.conflicting.remove(&id);
        }
        let Some((file, definition)) = best else {
            self.defined_in.remove(&id);
            let (file, _) = self.active.remove(&id)?;
            return Some(ResourceChange { id, origin: Origin::file(file), version: None, resource: None });
        };
        let resource = Arc::clone(&definition.resource);
        match self.active.insert(id.clone(), (file.clone(), Arc::clone(&resource))) {
            Some((_, old)) if Arc::ptr_eq(&old, &resource) || old == resource => None,
            _ => {
                let (origin, version) = (Origin::file(file), Some(definition.version()));
                Some(ResourceChange { id, origin, version, resource: Some(resource) })
            }
        }
    }

    /// Returns the definitions that their files no longer contain.
    pub(super) fn retained(&self) -> Vec<RetainedVersion> {
        let mut all = Vec::new();
        for (path, file) in &self.files {
            let good = |definition: &Definition| definition.retained && !definition.resource.stands_in();
            for (id, definition) in file.definitions.iter().filter(|(_, definition)| good(definition)) {
                let (file, resource) = (path.clone(), id.to_string());
                all.push(RetainedVersion {
                    file,
                    resource,
                    text: definition.text_without_keys().to_string(),
                });
            }
        }
        all
    }

    /// Restores what [`retained`](Self::retained) returned before a restart. Must precede the first update. A version that
    /// is no longer accepted is dropped.
    pub(super) fn restore(&mut self, retained: Vec<RetainedVersion>) {
        for RetainedVersion { file, resource, text } in retained {
            for (id, definition) in Definition::restored(&text).filter(|(id, _)| id.to_string() == resource) {
                self.defined_in.entry(id.clone()).or_default().insert(file.clone());
                self.files.entry(file.clone()).or_default().definitions.insert(id, definition);
            }
        }
    }

    /// Every file that has definitions or refusals.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// Returns all refusals, in order of file and document.
    pub(super) fn refusals(&self) -> BTreeSet<Diagnostic> {
        let of_files = self.files.values().flat_map(|file| &file.refusals).cloned();
        of_files.chain(self.conflicting.iter().flat_map(|id| self.conflicts(id))).collect()
    }

    /// Returns the refusals of the files that define a resource whose active definition is in another file.
    fn conflicts(&self, id: &ResourceId) -> Vec<Diagnostic> {
        let (Some((holder, _)), Some(files)) = (self.active.get(id), self.defined_in.get(id)) else {
            return Vec::new();
        };
        let refusal = |file: &PathBuf| {
            // A retained definition is no conflict: the text of its file has a refusal of its own.
            let definition =
                self.files.get(file)?.definitions.get(id).filter(|definition| !definition.retained)?;
            Some(Diagnostic {
                origin: Origin::File { path: file.clone(), document: definition.document },
                resource: Some(id.to_string()),
                problem: Problem::of(
                    Code::DuplicateResource,
                    field_of_item(definition.item, "metadata.name"),
                    format!("is already defined in {}", holder.display()),
                ),
            })
        };
        files.iter().filter(|file| *file != holder).filter_map(refusal).collect()
    }

    /// Returns the active definition of a resource, and its file.
    pub(super) fn definition(&self, id: &ResourceId) -> Option<(&Path, &Definition)> {
        let (file, _) = self.active.get(id)?;
        Some((file, self.files.get(file)?.definitions.get(id)?))
    }

    /// Counts the resources that the mesh does not read, by kind.
    pub(super) fn not_handled(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for title in self.files.values().flat_map(|file| &file.not_handled) {
            let kind = title.split(' ').next().unwrap_or(title);
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
        kinds
    }

    /// Returns the number of active resources, without what stands for refused ones.
    pub(super) fn accepted(&self) -> usize {
        self.active.values().filter(|(_, resource)| !resource.stands_in()).count()
    }

    /// The active resources and their files.
    #[cfg(test)]
    pub(super) fn active(&self) -> impl Iterator<Item = (&ResourceId, &Path)> {
        self.active.iter().map(|(id, (file, _))| (id, file.as_path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, label: &str) -> String {
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{l: {label}}}}}}}\n")
    }

    const BROKEN: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: a, lables: {}}}\n";

    fn file_update(path: &str, text: Option<&str>, completeness: Completeness) -> FileUpdate {
        let parsed = text.map(|text| Ok(ParsedText::of(text, &DocumentCache::default())));
        FileUpdate { path: path.into(), parsed, completeness }
    }

    impl Definitions {
        /// Changes or removes a file. Returns the changes of resources in short.
        fn file(&mut self, path: &str, text: Option<&str>) -> Vec<String> {
            self.part(path, text, Completeness::Complete)
        }

        fn part(&mut self, path: &str, text: Option<&str>, completeness: Completeness) -> Vec<String> {
            let before: BTreeSet<_> = self.active.keys().cloned().collect();
            let what = |one: &ResourceChange| match (before.contains(&one.id), &one.resource) {
                (false, _) => "Added",
                (true, Some(_)) => "Changed",
                (true, None) => "Removed",
            };
            let changes = self.update(vec![file_update(path, text, completeness)]);
            changes.iter().map(|one| format!("{} {}", one.id.name, what(one))).collect()
        }

        fn refused(&self) -> Vec<String> {
            self.refusals().iter().map(ToString::to_string).collect()
        }

        fn holders(&self) -> Vec<String> {
            self.active().map(|(id, file)| format!("{} {}", id.name, file.display())).collect()
        }
    }

    #[test]
    fn resources_come_change_and_go_with_their_file() {
        let mut definitions = Definitions::default();
        let two = namespace("a", "x") + "---\n" + &namespace("b", "x");
        assert_eq!(definitions.file("f.yaml", Some(&two)), ["a Added", "b Added"]);
        assert_eq!(definitions.file("f.yaml", Some(&two)), [""; 0]);
        let other = namespace("b", "z") + "---\n" + &namespace("a", "x");
        assert_eq!(definitions.file("f.yaml", Some(&other)), ["b Changed"]);
        assert_eq!(definitions.file("f.yaml", Some(&namespace("a", "x"))), ["b Removed"]);
        assert_eq!(definitions.file("f.yaml", None), ["a Removed"]);
        assert!(definitions.holders().is_empty() && definitions.refused().is_empty());
    }

    #[test]
    fn a_refused_resource_keeps_its_last_good_version() {
        let mut definitions = Definitions::default();
        definitions.file("f.yaml", Some(&(namespace("a", "x") + "---\n" + &namespace("b", "x"))));
        let broken = BROKEN.to_owned() + "---\n" + &namespace("b", "z");
        assert_eq!(definitions.file("f.yaml", Some(&broken)), ["b Changed"]);
        assert_eq!(definitions.holders(), ["a f.yaml", "b f.yaml"]);
        assert_eq!(
            definitions.refused(),
            [
                "f.yaml, document 1, Namespace a, metadata.lables: unknown field; did you mean \"labels\"? [unknown-field]"
            ]
        );
        assert_eq!(definitions.file("f.yaml", Some(&namespace("b", "z"))), ["a Removed"]);
        assert!(definitions.refused().is_empty());
    }

    #[test]
    fn an_unidentified_resource_retains_all_of_its_file() {
        for broken in
            ["a: [\n", "{apiVersion: v1}\n", "{apiVersion: v1, kind: Namespac, metadata: {name: a}}\n"]
        {
            let mut definitions = Definitions::default();
            definitions.file("f.yaml", Some(&(namespace("a", "x") + "---\n" + &namespace("b", "x"))));
            let text = namespace("c", "x") + "---\n" + broken;
            assert_eq!(definitions.file("f.yaml", Some(&text)), ["c Added"], "{broken}");
            assert_eq!(definitions.holders(), ["a f.yaml", "b f.yaml", "c f.yaml"]);
            assert_eq!(definitions.refused().len(), 1);
            // Twice broken is still the last good.
            assert_eq!(definitions.file("f.yaml", Some(broken)), [""; 0]);
        }
        let mut definitions = Definitions::default();
        definitions.file("f.yaml", Some(&namespace("a", "x")));
        let unreadable = FileUpdate {
            path: "f.yaml".into(),
            parsed: Some(Err("no".into())),
            completeness: Completeness::Complete,
        };
        assert!(definitions.update(vec![unreadable]).is_empty());
        assert_eq!(definitions.refused(), ["f.yaml: no [unreadable-file]"]);
    }

    #[test]
    fn retained_versions_survive_a_restart() {
        let mut first = Definitions::default();
        first.file("f.yaml", Some(&(namespace("a", "x") + "---\n" + &namespace("b", "x"))));
        assert!(first.retained().is_empty());
        let broken = BROKEN.to_owned() + "---\n" + &namespace("b", "x");
        first.file("f.yaml", Some(&broken));
        let mut second = Definitions::default();
        second.restore(first.retained());
        assert_eq!(second.file("f.yaml", Some(&broken)), ["a Added", "b Added"]);
        assert_eq!(second.retained(), first.retained());
        let mut third = Definitions::default();
        third.restore(first.retained());
        assert_eq!(third.file("f.yaml", Some(&namespace("b", "x"))), ["b Added"]);
        assert!(third.retained().is_empty());
    }

    #[test]
    fn a_resource_defined_twice_stays_with_its_first_file() {
        let mut definitions = Definitions::default();
        definitions.file("b.yaml", Some(&namespace("a", "x")));
        assert_eq!(definitions.file("a.yaml", Some(&namespace("a", "z"))), [""; 0]);
        let reason = "a.yaml, document 1, Namespace a, metadata.name: is already defined in b.yaml [duplicate-resource]";
        assert_eq!(definitions.refused(), [reason]);
        assert_eq!(definitions.file("b.yaml", None), ["a Changed"]);
        assert_eq!((definitions.holders(), definitions.refused()), (vec!["a a.yaml".to_owned()], Vec::new()));
        let twice = namespace("a", "z") + "---\n" + &namespace("a", "x");
        assert_eq!(definitions.file("a.yaml", Some(&twice)), [""; 0]);
        assert_eq!(
            definitions.refused(),
            [
                "a.yaml, document 2, Namespace a, metadata.name: is already defined in document 1 [duplicate-resource]"
            ]
        );
    }

    #[test]
    fn a_retained_version_yields_to_that_of_another_file() {
        let mut definitions = Definitions::default();
        definitions.file("a.yaml", Some(&namespace("a", "x")));
        definitions.file("a.yaml", Some(BROKEN));
        assert_eq!(definitions.file("b.yaml", Some(&namespace("a", "z"))), ["a Changed"]);
        assert_eq!((definitions.holders(), definitions.refused().len()), (vec!["a b.yaml".to_owned()], 1));
    }

    #[test]
    fn at_the_start_the_first_by_path_has_it() {
        let file = |path: &str| file_update(path, Some(&namespace("a", path)), Completeness::Complete);
        for files in [vec![file("a"), file("b")], vec![file("b"), file("a")]] {
            let mut definitions = Definitions::default();
            definitions.update(files);
            assert_eq!(definitions.holders(), ["a a"]);
        }
    }

    #[test]
    fn a_text_that_may_be_cut_short_removes_nothing() {
        let mut definitions = Definitions::default();
        let two = namespace("a", "x") + "---\n" + &namespace("b", "longer");
        definitions.file("f.yaml", Some(&two));
        assert_eq!(definitions.part("f.yaml", Some(""), Completeness::Partial), [""; 0]);
        assert_eq!(
            definitions.part("f.yaml", Some(&namespace("a", "z")), Completeness::Partial),
            ["a Changed"]
        );
        // The last document of a half file may be cut in its midst.
        let partial = namespace("a", "z") + "---\n" + &namespace("b", "l");
        assert_eq!(definitions.part("f.yaml", Some(&partial), Completeness::Partial), [""; 0]);
        assert_eq!(definitions.part("f.yaml", None, Completeness::RemovalsDeferred), [""; 0]);
        assert_eq!(definitions.holders(), ["a f.yaml", "b f.yaml"]);
        // A complete text may shorten it, also while what is missing is kept.
        let complete = definitions.part("f.yaml", Some(&namespace("b", "l")), Completeness::RemovalsDeferred);
        assert_eq!(complete, ["b Changed"]);
        assert_eq!(definitions.holders(), ["a f.yaml", "b f.yaml"]);
        definitions.file("f.yaml", Some(&partial));
        assert_eq!(definitions.file("f.yaml", None), ["a Removed", "b Removed"]);
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
        let mut definitions = Definitions::default();
        let versions = |definitions: &mut Definitions, text: &str| {
            let settled = definitions.update(vec![file_update("f.yaml", Some(text), Completeness::Complete)]);
            settled.into_iter().map(|one| one.version.unwrap()).collect::<Vec<_>>()
        };
        let first = versions(&mut definitions, &list("x"));
        assert_ne!(first[0], first[1]);
        assert_eq!(definitions.file("f.yaml", Some(&list("z"))), ["a Changed"]);
        definitions.file("f.yaml", Some("a: ["));
        let retained = definitions.retained();
        assert!(retained.iter().all(|retained| retained.text.len() < list("z").len() / 2), "{retained:?}");
        let mut restarted = Definitions::default();
        restarted.restore(retained);
        restarted.file("f.yaml", Some("a: ["));
        assert_eq!(restarted.holders(), ["a f.yaml", "b f.yaml"]);
    }
}
