//! The shape of the tree, as ARCHITECTURE.md and CONTRIBUTING.md describe it: which crate may use which, that a module uses only
//! modules listed below it in its `mod` list, how long a file is, where tests are, and what a crate exports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which crate may use which. `outrigger` (the CLI) and the tests may use anything.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("proto", &[]),
    ("proxy/core", &[]),
    ("proxy/policy", &["outrigger-core", "outrigger-proto"]),
    ("proxy/config", &["outrigger-core", "outrigger-proto", "outrigger-policy"]),
    ("proxy/discovery", &["outrigger-core", "outrigger-proto", "outrigger-config"]),
    ("proxy/dataplane", &["outrigger-core", "outrigger-policy", "outrigger-config"]),
    ("proxy/server", &["outrigger-core", "outrigger-config", "outrigger-discovery", "outrigger-dataplane"]),
    ("control-plane", &["outrigger-core", "outrigger-proto"]),
    ("tests/support", &[]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn a_crate_uses_only_what_the_design_allows() {
    for (member, allowed) in ALLOWED {
        let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let used: BTreeSet<_> = manifest["dependencies"]
            .as_table()
            .unwrap()
            .keys()
            .filter(|name| name.starts_with("outrigger"))
            .cloned()
            .collect();
        let allowed: BTreeSet<_> = allowed.iter().map(|&name| name.to_owned()).collect();
        assert!(used.is_subset(&allowed), "{member} uses {:?}", used.difference(&allowed));
    }
}

#[test]
fn every_member_of_the_workspace_is_in_the_table() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let members: BTreeSet<_> = manifest["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap())
        .collect();
    let known: BTreeSet<_> = ALLOWED
        .iter()
        .map(|(member, _)| *member)
        .chain(["cli", "deploy/images", "tests", "benches"])
        .collect();
    assert!(members.is_subset(&known), "{:?}", members.difference(&known));
}

#[test]
fn a_module_uses_only_modules_listed_below_it() {
    let mut wrong = Vec::new();
    for (member, _) in ALLOWED {
        for list in module_lists(&root().join(member).join("src")) {
            wrong.extend(list.uses_above());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A file with a `mod` list, and the files of each module in it.
struct ModuleList {
    file: PathBuf,
    /// The path of the list inside the crate: `crate`, or `crate::http` and so on.
    path: String,
    modules: Vec<(String, Vec<PathBuf>)>,
}

impl ModuleList {
    /// One line for each use of a module by a module below it in the list.
    fn uses_above(&self) -> Vec<String> {
        let place: BTreeMap<_, _> =
            self.modules.iter().enumerate().map(|(place, (name, _))| (name.as_str(), place)).collect();
        let mut wrong = Vec::new();
        for (user, (name, files)) in self.modules.iter().enumerate() {
            for file in files {
                for used in self.used_siblings(&production(&fs::read_to_string(file).unwrap()), file) {
                    if place.get(used.as_str()).is_some_and(|&used| used < user) {
                        let (list, file) = (self.file.display(), file.display());
                        wrong.push(format!(
                            "{list}: `{name}` uses `{used}`, which is listed above it ({file})"
                        ));
                    }
                }
            }
        }
        wrong
    }

    /// The modules of this list that `text` names, by an absolute path or through `super`.
    fn used_siblings(&self, text: &str, file: &Path) -> BTreeSet<String> {
        let folder = self.file.parent().unwrap();
        let depth = file.strip_prefix(folder).unwrap().components().count();
        let is_mod = file.file_name().is_some_and(|name| name == "mod.rs");
        // The number of `super`s from this file to the list.
        let up = if is_mod { depth - 1 } else { depth };
        let supers = "super::".repeat(up);
        let mut used = BTreeSet::new();
        for prefix in [format!("{}::", self.path), supers] {
            if prefix.is_empty() {
                continue;
            }
            for (at, _) in text.match_indices(&prefix) {
                let before = text[..at].chars().next_back();
                if before.is_some_and(|one| one.is_alphanumeric() || one == '_' || one == ':') {
                    continue;
                }
                used.extend(heads(&text[at + prefix.len()..]));
            }
        }
        used
    }
}

/// The first segments of what follows `use a::`: one name, or every name of a brace group.
fn heads(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|one| one.is_alphanumeric() || *one == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut depth, mut heads, mut start) = (0, Vec::new(), 0);
    for (at, one) in group.char_indices() {
        match one {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(name(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(name(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads
}

/// The code without comments and test modules, which may use anything. An inline test module is the last item of its file.
fn production(text: &str) -> String {
    let (mut code, mut lines) = (String::new(), text.lines());
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            match lines.next() {
                Some(module) if module.contains("mod ") && module.ends_with(';') => continue,
                Some(module) if module.contains("mod ") => break,
                _ => continue,
            }
        }
        code.push_str(line.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    code
}

fn module_lists(source: &Path) -> Vec<ModuleList> {
    let mut lists = Vec::new();
    let mut open = vec![(source.to_owned(), "crate".to_owned())];
    while let Some((folder, path)) = open.pop() {
        let file = ["lib.rs", "mod.rs"].map(|name| folder.join(name)).into_iter().find(|file| file.exists());
        let Some(file) = file else { continue };
        let text = production(&fs::read_to_string(&file).unwrap());
        let mut modules = Vec::new();
        for line in text.lines() {
            let line = line
                .trim_start_matches("pub ")
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ");
            let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) else {
                continue;
            };
            let inner = folder.join(name);
            let mut files = rust_files(&inner);
            files.extend(Some(folder.join(format!("{name}.rs"))).filter(|file| file.exists()));
            modules.push((name.to_owned(), files));
            open.push((inner, format!("{path}::{name}")));
        }
        lists.push(ModuleList { file, path, modules });
    }
    lists
}

/// The files of a folder, except tests (`tests.rs`, `tests/`).
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn a_rust_file_has_at_most_400_lines() {
    let long: Vec<_> = all_rust_files()
        .into_iter()
        .map(|file| (fs::read_to_string(&file).unwrap().lines().count(), file))
        .filter(|(lines, _)| *lines > 400)
        .map(|(lines, file)| format!("{}: {lines}", file.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// `foo.rs` has its tests at its end or in `foo/tests.rs`; what tests of several modules share is `testing`.
#[test]
fn a_module_of_tests_is_called_tests_or_testing() {
    let mut wrong = Vec::new();
    for file in all_rust_files() {
        for module in test_modules(&fs::read_to_string(&file).unwrap()) {
            if !matches!(module.as_str(), "tests" | "testing") {
                wrong.push(format!("{}: {module}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The names of modules that are compiled only for tests.
fn test_modules(text: &str) -> Vec<String> {
    let modules = text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
        let item = rest.lines().map(str::trim_start).find(|line| !line.starts_with("#["))?;
        let name =
            item.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ").strip_prefix("mod ")?;
        Some(name.trim_end_matches([';', '{', '}', ' ']).to_owned())
    });
    modules.collect()
}

/// Binaries, integration tests and benches of the same package count: they are crates of their own.
#[test]
fn what_a_crate_exports_is_used_by_another_crate() {
    let files: Vec<_> =
        all_rust_files().into_iter().map(|file| (fs::read_to_string(&file).unwrap(), file)).collect();
    let mut unused = Vec::new();
    for member in ALLOWED.iter().map(|(member, _)| *member).chain(["cli", "tests"]) {
        let folder = root().join(member);
        let manifest: toml::Table = fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap();
        let package = format!("{}::", manifest["package"]["name"].as_str().unwrap().replace('-', "_"));
        let inside = |file: &Path| file.starts_with(folder.join("src")) && !file.ends_with("main.rs");
        let mut used = BTreeSet::new();
        for (text, _) in files.iter().filter(|(_, file)| !inside(file)) {
            used.extend(text.split(&package).skip(1).flat_map(heads));
        }
        let exported = exports(&fs::read_to_string(folder.join("src/lib.rs")).unwrap());
        assert!(!exported.is_empty(), "{member} exports nothing");
        unused.extend(exported.difference(&used).map(|item| format!("{member}: {item}")));
    }
    assert!(unused.is_empty(), "{}", unused.join("\n"));
}

/// The modules and the items of other modules that the root of a crate makes public.
fn exports(text: &str) -> BTreeSet<String> {
    let code = production(text);
    let mut exported = BTreeSet::new();
    for module in code.split("pub mod ").skip(1) {
        exported.extend(heads(module));
    }
    for import in code.split("pub use ").skip(1).filter_map(|rest| rest.split(';').next()) {
        match import.split_once('{') {
            Some((_, group)) => {
                exported.extend(group.trim_end_matches('}').split(',').filter_map(last_segment))
            }
            None => exported.extend(last_segment(import)),
        }
    }
    exported
}

/// The item that a path ends in; None for an empty one.
fn last_segment(path: &str) -> Option<String> {
    let item = path.trim().rsplit("::").next()?;
    Some(item.to_owned()).filter(|item| !item.is_empty())
}

/// Every Rust file of the repository, including other workspaces, except generated files.
fn all_rust_files() -> Vec<PathBuf> {
    let (mut files, mut open) = (Vec::new(), vec![root()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && !matches!(name.as_str(), "target" | "generated") {
                open.push(path);
            } else if name.ends_with(".rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 100, "only {} files", files.len());
    files
}

#[test]
fn the_order_test_sees_uses_through_paths_and_groups() {
    assert_eq!(heads("b::c;"), ["b"]);
    assert_eq!(heads("{b::{x, y}, c, d as e};"), ["b", "c", "d"]);
}

#[test]
fn exports_and_test_modules_are_seen() {
    let root = "pub mod a;\nmod b;\npub use b::{C, d::E};\npub use b::f::G;\n";
    assert_eq!(exports(root).into_iter().collect::<Vec<_>>(), ["C", "E", "G", "a"]);
    let production =
        production("mod a;\n#[cfg(test)]\nmod testing;\nmod b; // c\n#[cfg(test)]\nmod tests {\n}\n");
    assert_eq!(production, "mod a;\nmod b; \n");
    let text = "#[cfg(test)]\nmod tests;\n#[cfg(test)]\n#[allow(x)]\npub(crate) mod other {}\n#[cfg(test)]\nfn f() {}\n";
    assert_eq!(test_modules(text), ["tests", "other"]);
}
