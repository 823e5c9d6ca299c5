//! Checks the documents against the code: the files that ARCHITECTURE.md names and the types that the glossary names exist, every
//! flag is on its page, and a control plane accepts every YAML example.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use outrigger_control_plane::model::diagnostic::Severity;
use outrigger_control_plane::source::check::{Input, check};
use outrigger_core::reason::Reason;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<_> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from).into();
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    pages.extend(docs.map(|name| Path::new("docs").join(name)));
    pages
}

#[test]
fn every_file_that_architecture_names_is_there() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let named: BTreeSet<_> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.ends_with(".rs") || word.ends_with(".proto"))
        .collect();
    assert!(named.len() > 30, "only {} files are named", named.len());
    let missing: Vec<_> = named.into_iter().filter(|file| !root().join(file).is_file()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        let folder = root().join(page.parent().unwrap());
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            assert!(link.contains("://") || folder.join(target).exists(), "{}: {link}", page.display());
        }
    }
}

#[test]
fn every_response_flag_is_on_its_page() {
    let page = fs::read_to_string(root().join("docs/response-flags.md")).unwrap();
    for reason in Reason::ALL {
        let (flag, name) = (reason.flag(), reason.name());
        let row =
            format!("| `{flag}` | `{name}` | {} | {} |", reason.status().as_u16(), reason.grpc_status());
        assert!(page.contains(&row), "{row}");
    }
}

#[test]
fn every_yaml_example_passes_the_check() {
    let mut examples = 0;
    for page in pages() {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        for (number, example) in blocks(&text, "yaml").into_iter().enumerate() {
            fs::write(directory.path().join(format!("example-{number}.yaml")), example).unwrap();
            examples += 1;
        }
        if directory.path().read_dir().unwrap().next().is_some() {
            let report = check(vec![Input::Path(directory.path().into())]);
            let noted = report.count(Severity::Info);
            assert_eq!(report.problems.len(), noted, "{}: {:#?}", page.display(), report.problems);
        }
    }
    assert!(examples >= 2, "{examples} examples");
}

#[test]
fn every_type_that_the_glossary_names_exists() {
    let glossary = fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let rows = glossary.lines().filter(|line| line.starts_with("| "));
    let column = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit('|').next());
    let paths: Vec<_> = column
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|code| code.contains("::"))
        .collect();
    assert!(paths.len() > 40, "only {} types are named", paths.len());
    let missing: Vec<_> = paths.into_iter().filter(|path| !is_defined(path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Returns true if `path`, such as `core::drain::Drain`, is a module, or a type in a module or in one of its children.
fn is_defined(path: &str) -> bool {
    let (name, modules): (Option<&str>, _) = match path.rsplit_once("::") {
        Some((modules, name)) if name.starts_with(char::is_uppercase) => (Some(name), modules),
        _ => (None, path),
    };
    let (krate, modules) = modules.split_once("::").unwrap();
    let folder = match krate {
        "control_plane" => "control-plane".to_owned(),
        krate => format!("proxy/{krate}"),
    };
    let module = root().join(folder).join("src").join(modules.replace("::", "/"));
    let mut files = vec![module.with_extension("rs")];
    files.extend(fs::read_dir(&module).into_iter().flatten().map(|entry| entry.unwrap().path()));
    let mut texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.any(|text| {
        name.is_none_or(|name| {
            let defines = |kind| {
                text.split(&format!("{kind} {name}"))
                    .skip(1)
                    .any(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
            };
            defines("struct") || defines("enum")
        })
    })
}

/// The page is held to both daemons by their own tests.
#[test]
fn every_metric_that_is_read_somewhere_is_on_its_page() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let metrics: BTreeSet<_> = rows.filter(|name| name.starts_with("outrigger_")).collect();
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let crates =
        manifest.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_"));
    let crates: BTreeSet<_> = crates.chain(["outrigger_tests".to_owned()]).collect();
    let mut found = 0;
    for file in ["README.md", "docs", "deploy", "cli", "benches", "tests"]
        .iter()
        .flat_map(|name| files(&root().join(name)))
    {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let names = text.match_indices("outrigger_").map(|(at, _)| {
            let end = text[at..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            &text[at..end.map_or(text.len(), |end| at + end)]
        });
        for name in names.filter(|name| *name != "outrigger_" && !crates.contains(*name)) {
            let series = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let known = metrics.contains(name) || series.is_some_and(|family| metrics.contains(family));
            assert!(known, "{}: there is no metric {name}", file.display());
            found += 1;
        }
    }
    assert!(found > metrics.len() + 10, "only {found} names are read");
}

/// Returns the files of a folder and of those in it, or the file itself.
fn files(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return vec![path.into()] };
    entries.flat_map(|entry| files(&entry.unwrap().path())).collect()
}

/// Returns the fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    text.split(&opening).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}
