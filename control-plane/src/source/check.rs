//! `outrigger check`: reads files and directories of configuration once, as a control plane would, and reports every problem.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::change::Diagnostic;
use super::definitions::{Definitions, FileUpdate};
use super::directory::{Directory, read_file};
use super::document;
use super::file::{Completeness, DocumentCache, ParsedText, field_of_item};
use super::location::{LocatedDocument, Position};
use super::origin::Origin;
use super::write_tracker::WriteTracker;
use crate::model::diagnostic::{Code, Problem, Severity};
use crate::model::findings::Finding;
use crate::model::mesh_builder::MeshBuilder;

/// What is checked.
#[derive(Debug, Clone)]
pub enum Input {
    /// A file, or a directory with its subdirectories.
    Path(PathBuf),
    /// A text that was read elsewhere, and what it is called.
    Text(PathBuf, String),
}

/// The problems of a configuration.
#[derive(Debug, Default)]
pub struct Report {
    /// The problems, in order of file and position.
    pub problems: Vec<Located>,
    /// The number of files.
    pub files: usize,
    /// The number of accepted resources.
    pub accepted: usize,
    /// The number of resources of each kind that the mesh does not read.
    pub not_handled: BTreeMap<String, usize>,
}

/// A problem with its position.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Located {
    /// The file or directory. None for a problem of the configuration as a whole.
    pub file: Option<PathBuf>,
    /// Where the field or the resource is in the file.
    pub position: Option<Position>,
    /// The number of the document in the file, counted from 1; 0 for the file as a whole.
    pub document: usize,
    /// `HTTPRoute shop/catalog`, if it could be read.
    pub resource: Option<String>,
    /// The problem.
    pub problem: Problem,
}

/// Checks all inputs together: they may refer to each other.
pub fn check(inputs: Vec<Input>) -> Report {
    let mut files = BTreeMap::new();
    let mut problems = Vec::new();
    for input in inputs {
        match input {
            Input::Text(name, text) => drop(files.insert(name, Ok(text))),
            Input::Path(path) => match read(&path) {
                Ok(read) if read.is_empty() => {
                    let message = "there is no file named *.yaml, *.yml or *.json";
                    problems.push(of_input(&path, Code::NoResources, message.into()));
                }
                Ok(read) => files.extend(read),
                Err(error) => problems.push(of_input(&path, Code::UnreadableFile, error.to_string())),
            },
        }
    }
    let mut definitions = Definitions::default();
    let update = |(path, text): (&PathBuf, &Result<String, String>)| FileUpdate {
        path: path.clone(),
        parsed: Some(text.clone().map(|text| ParsedText::of(&text, &DocumentCache::default()))),
        completeness: Completeness::Complete,
    };
    let changes = definitions.update(files.iter().map(update).collect());
    let mut builder = MeshBuilder::default();
    builder.apply(changes.into_iter().map(|change| (change.id, change.resource)));
    let mut documents = Documents::new(&files);
    problems.extend(definitions.refusals().into_iter().map(|refusal| documents.refusal(refusal)));
    problems.extend(builder.findings().into_iter().map(|finding| documents.finding(&definitions, finding)));
    let not_handled = definitions.not_handled();
    let accepted = definitions.accepted();
    if accepted == 0 && problems.is_empty() {
        let message = match &*not_handled.keys().map(String::as_str).collect::<Vec<_>>() {
            [] => "there is no resource".to_owned(),
            kinds => format!("there is no resource that the mesh reads, only {}", kinds.join(", ")),
        };
        let file = files.keys().next().filter(|_| files.len() == 1).cloned();
        problems.push(Located { file, ..of_mesh(Problem::of(Code::NoResources, "", message)) });
    }
    problems.extend(no_endpoints(&builder).map(of_mesh));
    problems.sort_by(|a, b| (a.file.is_none(), a).cmp(&(b.file.is_none(), b)));
    Report { problems, files: files.len(), accepted, not_handled }
}

impl Report {
    /// Counts the problems of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|one| one.problem.code.severity() == severity).count()
    }
}

/// Reads a file, or all files of a directory that a control plane would read.
fn read(path: &Path) -> io::Result<Vec<(PathBuf, Result<String, String>)>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![(path.to_owned(), read_file(path))]);
    }
    let changed = Directory::new(path.to_owned()).scan(&mut WriteTracker::default(), Instant::now())?;
    let text = |file: super::directory::ChangedFile| Some((path.join(file.path), file.text?));
    Ok(changed.into_iter().filter_map(text).collect())
}

fn of_input(path: &Path, code: Code, message: String) -> Located {
    let problem = Problem::of(code, "", message);
    Located { file: Some(path.to_owned()), position: None, document: 0, resource: None, problem }
}

fn of_mesh(problem: Problem) -> Located {
    Located { file: None, position: None, document: 0, resource: None, problem }
}

/// One problem for all services: on Linux, most have no EndpointSlice.
fn no_endpoints(builder: &MeshBuilder) -> Option<Problem> {
    let names: Vec<_> =
        builder.without_slices().iter().map(|key| format!("{}/{}", key.namespace, key.name)).collect();
    let message = match &*names {
        [] => return None,
        [one] => format!(
            "Service {one} has no EndpointSlice: its endpoints are the workloads that register for it"
        ),
        several if several.len() <= 5 => {
            let names = several.join(", ");
            format!(
                "Services {names} have no EndpointSlice: their endpoints are the workloads that register for them"
            )
        }
        several => {
            let (count, some) = (several.len(), several[..3].join(", "));
            format!(
                "{count} Services ({some}, ...) have no EndpointSlice: their endpoints are the workloads that register for them"
            )
        }
    };
    let help = "outrigger-proxy --service registers a workload; a selector selects nothing here";
    Some(Problem::of(Code::NoEndpoints, "", message).help(help))
}

/// The documents of all files, in which problems are located.
struct Documents<'a> {
    /// The line at which each document begins, and its text, by file.
    texts: BTreeMap<&'a Path, Vec<(usize, &'a str)>>,
    /// Those that have problems.
    read: BTreeMap<(PathBuf, usize), Option<LocatedDocument>>,
}

impl<'a> Documents<'a> {
    fn new(files: &'a BTreeMap<PathBuf, Result<String, String>>) -> Self {
        let split = |(path, text): (&'a PathBuf, &'a Result<String, String>)| {
            let documents = document::split(text.as_ref().ok()?);
            Some((path.as_path(), documents.into_iter().map(|(_, line, text)| (line, text)).collect()))
        };
        Self { texts: files.iter().filter_map(split).collect(), read: BTreeMap::new() }
    }

    fn refusal(&mut self, Diagnostic { origin, resource, mut problem }: Diagnostic) -> Located {
        let (file, document) = match origin {
            Origin::File { path, document } => (Some(path), document),
            Origin::Object { .. } => (None, 0),
        };
        let position = match (&file, problem.code) {
            (Some(file), Code::InvalidYaml) => self.text(file, document).and_then(|(line, text)| {
                let error = document::parse(text).err()?;
                problem.message = error.reason;
                Some(Position { line: line + error.line - 1, column: error.column })
            }),
            (Some(file), _) => self.position(file, document, &problem.field),
            (None, _) => None,
        };
        Located { file, position, document, resource, problem }
    }

    fn finding(&mut self, definitions: &Definitions, Finding { resource, problem }: Finding) -> Located {
        let found = definitions.definition(&resource);
        let position = found.and_then(|(file, definition)| {
            self.position(file, definition.document, &field_of_item(definition.item, &problem.field))
        });
        Located {
            file: found.map(|(file, _)| file.to_owned()),
            position,
            document: found.map_or(0, |(_, definition)| definition.document),
            resource: Some(resource.to_string()),
            problem,
        }
    }

    fn position(&mut self, file: &Path, document: usize, field: &str) -> Option<Position> {
        let (line, text) = self.text(file, document)?;
        let read = self.read.entry((file.to_owned(), document));
        read.or_insert_with(|| LocatedDocument::read(text, line)).as_ref()?.position(field)
    }

    /// Returns a document, and the line at which it begins.
    fn text(&self, file: &Path, document: usize) -> Option<(usize, &'a str)> {
        self.texts.get(file)?.get(document.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests;
