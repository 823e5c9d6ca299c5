//! Uprobes on the entry points of a process's allocator: `malloc` and its like, in the program itself or in the C library.
//!
//! They are created in tracefs, count only where perf has switched them on, and are removed when dropped. A program that has its own
//! allocator but no symbol table (Envoy) cannot be counted: its C++ operators are entry points without names.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};

const EVENTS: &str = "/sys/kernel/tracing/uprobe_events";
const ENTRIES: [&str; 9] = [
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "pvalloc",
];
/// Mangled prefixes of C++'s `operator new` and `operator new[]`.
const OPERATORS: [&str; 2] = ["_Znw", "_Zna"];

/// Probes that exist.
pub(super) struct Probes {
    group: String,
    count: usize,
}

impl Drop for Probes {
    fn drop(&mut self) {
        for number in 0..self.count {
            // One that cannot be removed counts nothing without perf.
            let _ = command(&format!("-:{}/a{number}", self.group));
        }
    }
}

impl Probes {
    /// Creates a probe at each entry point of the allocators of these processes. Returns why they cannot be counted.
    pub(super) fn install(processes: &[u32]) -> Result<Self, String> {
        let files: BTreeSet<_> = processes.iter().map(|pid| allocator(*pid)).collect::<Result<_, _>>()?;
        let mut probes = Self { group: format!("benches_{}", std::process::id()), count: 0 };
        for file in files {
            for offset in entries(&file)? {
                let probe = format!("p:{}/a{} {}:{offset:#x}", probes.group, probes.count, file.display());
                command(&probe)?;
                probes.count += 1;
            }
        }
        Ok(probes)
    }

    /// Their names for perf.
    pub(super) fn events(&self) -> Vec<String> {
        (0..self.count).map(|number| format!("{}:a{number}", self.group)).collect()
    }
}

fn command(line: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("uprobes: {error}");
    let mut events = OpenOptions::new().append(true).open(EVENTS).map_err(failed)?;
    events.write_all(line.as_bytes()).map_err(failed)
}

/// The file with the allocator of a process: its program if that defines `malloc`, else its C library.
fn allocator(pid: u32) -> Result<PathBuf, String> {
    let ended = |error: std::io::Error| format!("process {pid}: {error}");
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).map_err(ended)?;
    if defines_malloc(&program)? {
        return Ok(program);
    }
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).map_err(ended)?;
    let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(PathBuf::from);
    mapped
        .into_iter()
        .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libc.so")))
        .ok_or_else(|| "no allocator found".into())
}

fn defines_malloc(file: &Path) -> Result<bool, String> {
    with_file(file, |object| {
        Ok(symbols(object).any(|symbol| symbol.is_definition() && symbol.name() == Ok("malloc")))
    })
}

/// File offsets of the allocator's entry points. Aliases are one.
fn entries(file: &Path) -> Result<BTreeSet<u64>, String> {
    with_file(file, |object| {
        let program = object.kind() != object::ObjectKind::Dynamic || !is_library(file);
        if program && object.symbols().next().is_none() {
            return Err("stripped, with an allocator of its own".into());
        }
        let wanted =
            |name: &str| ENTRIES.contains(&name) || OPERATORS.iter().any(|new| name.starts_with(new));
        let named =
            symbols(object).filter(|symbol| symbol.is_definition() && symbol.name().is_ok_and(wanted));
        Ok(named.filter_map(|symbol| offset(object, symbol.address())).collect())
    })
}

/// A program may be of the same kind as a library (PIE).
fn is_library(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"))
}

fn symbols<'data, 'file>(
    object: &'file object::File<'data>,
) -> impl Iterator<Item = object::Symbol<'data, 'file>> {
    object.symbols().chain(object.dynamic_symbols())
}

/// Returns the file offset of what is loaded at `address`. Returns None if it is in no segment.
fn offset(object: &object::File<'_>, address: u64) -> Option<u64> {
    object.segments().find_map(|segment| {
        let (begin, length) = segment.file_range();
        let into = address.checked_sub(segment.address())?;
        (into < length).then_some(begin + into)
    })
}

fn with_file<T>(file: &Path, take: impl FnOnce(&object::File<'_>) -> Result<T, String>) -> Result<T, String> {
    let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let object = object::File::parse(&*bytes).map_err(|error| format!("{}: {error}", file.display()))?;
    take(&object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allocator_of_this_process_is_found_with_its_entry_points() {
        let file = allocator(std::process::id()).unwrap();
        let entries = entries(&file).unwrap();
        assert!(entries.len() >= 4 && !entries.contains(&0), "{}: {entries:?}", file.display());
    }
}
