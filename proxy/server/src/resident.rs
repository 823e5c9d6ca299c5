//! What of the program stays in memory once it runs.
//!
//! Parsing flags, asking for a certificate and reading a first configuration touch more than half of the program's text,
//! and most of it is not needed again. The life of the process calls [`release_startup_text`] once, some seconds after
//! the start; failure changes nothing but the resident size.

use std::fs;
use std::io;

/// Unmaps this program's own text and constants; what is needed comes back from the page cache, 64 KiB a fault.
///
/// Returns how many bytes of address space were released. On anything but Linux that is 0.
pub(crate) fn release_startup_text() -> io::Result<usize> {
    if cfg!(not(target_os = "linux")) {
        return Ok(0);
    }
    let program = fs::read_link("/proc/self/exe")?;
    let mut released = 0;
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        if let Some(mapping) = constant_mapping(line, &program.to_string_lossy()) {
            release(mapping)?;
            released += mapping.length;
        }
    }
    Ok(released)
}

/// A mapped part of the program's file that nobody has ever written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ConstantMapping {
    start: usize,
    length: usize,
}

/// Reads a line of `/proc/self/maps` (proc(5)): `start-end permissions offset device inode path`.
///
/// Taken are the segment with the program's text and the one at the start of the file, which holds constants and what
/// the loader reads. Of the others none is: those that are read-only now (`PT_GNU_RELRO`) were written to by the loader.
fn constant_mapping(line: &str, program: &str) -> Option<ConstantMapping> {
    let mut words = line.strip_suffix(program)?.split_ascii_whitespace();
    let (range, permissions, offset) = (words.next()?, words.next()?, words.next()?);
    let first = u64::from_str_radix(offset, 16).ok()? == 0;
    let constant = permissions == "r-xp" || (permissions == "r--p" && first);
    if !constant || words.count() != 2 {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let length = usize::from_str_radix(end, 16).ok()?.checked_sub(start)?;
    Some(ConstantMapping { start, length })
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn release(mapping: ConstantMapping) -> io::Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(mapping.start);
    // SAFETY: the range is one private mapping of this program's file, and nothing has written to it: it is not
    // writable, and position-independent code has no relocations in it. The kernel fills its pages again from the same
    // file, whose bytes cannot change under a running program (ETXTBSY), so no reader can see a difference (madvise(2)).
    unsafe { rustix::mm::madvise(start, mapping.length, rustix::mm::Advice::LinuxDontNeed)? };
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn release(_: ConstantMapping) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "/usr/bin/outrigger-proxy";

    #[test]
    fn text_and_the_start_of_the_file_are_constant() {
        let text = "5570aa67a000-5570aa67c000 r-xp 006d6000 fe:00 12345    /usr/bin/outrigger-proxy";
        let mapping = ConstantMapping { start: 0x5570_aa67_a000, length: 0x2000 };
        assert_eq!(constant_mapping(text, PROGRAM), Some(mapping));
        let head = "1000-3000 r--p 00000000 fe:00 12345    /usr/bin/outrigger-proxy";
        assert_eq!(constant_mapping(head, PROGRAM), Some(ConstantMapping { start: 0x1000, length: 0x2000 }));
    }

    #[test]
    fn what_the_loader_wrote_to_and_what_is_not_the_program_stays() {
        for line in [
            "1000-3000 r--p 015ff000 fe:00 12345    /usr/bin/outrigger-proxy",
            "1000-3000 rw-p 00000000 fe:00 12345    /usr/bin/outrigger-proxy",
            "1000-3000 r-xp 00026000 fe:00 777      /usr/lib/libc.so.6",
            "1000-3000 r-xp 00000000 00:00 0        [vdso]",
            "1000-3000 rw-p 00000000 00:00 0",
            "1000-3000 r-xp 00000000 fe:00 12345    /opt /usr/bin/outrigger-proxy",
            "1000 r-xp 0 fe:00 12345 /usr/bin/outrigger-proxy",
            "",
        ] {
            assert_eq!(constant_mapping(line, PROGRAM), None, "{line}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_program_runs_on_when_its_text_was_released() {
        assert!(release_startup_text().unwrap() > 1 << 20);
        assert!(format!("{:?}", PROGRAM.parse::<std::net::IpAddr>()).contains("AddrParseError"));
    }
}
