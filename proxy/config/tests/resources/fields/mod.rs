//! Every field of every message that is decoded: honoured, refused by its name, or harmless, as `docs/xds-fields.md` lists them.
//!
//! The fields come from the descriptors of the API. The test sets each one: the resource is refused and the refusal names the
//! field, or the compiled resource changes, or nothing changes and the table says why that is harmless. A field that is new
//! in the API, or that is accepted without effect and without a reason, fails the test.

mod authentication;
mod claims;
mod clusters;
pub mod descriptors;
mod endpoints;
mod ext_authz;
mod filters;
mod hashing;
mod health_checks;
mod hosts;
mod listeners;
mod managers;
mod place;
mod rate_limits;
mod routes;
mod sessions;
mod slow_start;
mod tls;
mod upstream_http;

use std::collections::BTreeSet;
use std::fmt::Write;

use prost_reflect::Kind;

use place::{Place, Verdict};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/xds-fields.md");

/// Set to regenerate the page.
const WRITE: &str = "OUTRIGGER_WRITE_DOCS";

const HEAD: &str = "# xDS, field by field

Each field of each message that the proxy decodes. *Honoured*: it has its effect. *Refused*: the resource is refused by the field's name, and its last good
version stays. Anything else is accepted and changes nothing, for the reason that is given. Wrappers (`BoolValue` and the like) count as their values; a default that is sent counts as
absent. This page is written by a test of `proxy/config` (`tests/resources/fields`), which sets each field in turn: `OUTRIGGER_WRITE_DOCS=1 cargo test -p
outrigger-config --test resources fields` regenerates it.
";

/// Messages that are plain values, whose fields are always read.
const VALUES: [&str; 4] = [
    "envoy.type.v3.Int32Range",
    "envoy.type.v3.Int64Range",
    "envoy.type.v3.Percent",
    "envoy.config.core.v3.RuntimeDouble",
];

fn places() -> Vec<Place> {
    let listeners = [listeners::places(), hosts::places(), managers::places()];
    let filters = [
        filters::places(),
        authentication::places(),
        ext_authz::places(),
        rate_limits::places(),
        sessions::places(),
        tls::places(),
    ];
    let upstream = [
        routes::places(),
        clusters::places(),
        hashing::places(),
        slow_start::places(),
        health_checks::places(),
        upstream_http::places(),
        endpoints::places(),
    ];
    listeners.into_iter().chain(filters).chain(upstream).flatten().collect()
}

#[test]
fn every_field_of_every_message_is_honoured_refused_or_harmless() {
    let places = places();
    let known: BTreeSet<&str> = places.iter().map(|place| place.message).collect();
    let (mut page, mut wrong) = (HEAD.to_owned(), Vec::new());
    for place in &places {
        write!(page, "\n## {}\n\n`{}`\n\n| field | |\n|---|---|\n", place.title, place.message).unwrap();
        let mut bare = true;
        for (field, verdict) in place.rows() {
            bare = false;
            let name = format!("{}.{}", place.title, field.name());
            let verdict = match verdict {
                Ok(verdict) => verdict,
                Err(why) => {
                    wrong.push(format!("{name}: {why}"));
                    continue;
                }
            };
            if let (Kind::Message(of), Verdict::Honoured | Verdict::HonouredBut(_)) = (field.kind(), &verdict)
            {
                let empty = of.fields().len() == 0;
                let of = of.full_name();
                let value =
                    empty || of.starts_with("google.protobuf.") || field.is_map() || VALUES.contains(&of);
                if !value && !known.contains(of) {
                    wrong.push(format!("{name}: nothing is said of the fields of {of}"));
                }
            }
            let text = match verdict {
                Verdict::Honoured => "honoured".to_owned(),
                Verdict::HonouredBut(but) => format!("honoured; {but}"),
                Verdict::Refused => "refused".to_owned(),
                Verdict::Harmless(why) => why.to_owned(),
                Verdict::HarmlessBut(why, but) => format!("{why}; {but}"),
            };
            writeln!(page, "| `{}` | {text} |", field.name()).unwrap();
        }
        if bare {
            page.truncate(page.len() - "| field | |\n|---|---|\n".len());
            page.push_str("Has no fields.\n");
        }
    }
    assert!(wrong.is_empty(), "{} fields:\n{}", wrong.len(), wrong.join("\n"));
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(written == page, "docs/xds-fields.md is not current: regenerate it with {WRITE}=1");
}
