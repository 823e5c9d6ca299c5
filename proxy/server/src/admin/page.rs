//! A page: a path, a line for the index, and handlers for reading and writing.

use http::{HeaderMap, StatusCode};

use super::response::PageResponse;
use crate::app_probes::AppProbes;

/// Handles GET and HEAD, given the header fields.
pub(crate) type Read = Box<dyn Fn(&HeaderMap) -> PageResponse + Send + Sync>;

/// Handles POST, given the query and the body.
pub(crate) type Action = Box<dyn Fn(&str, &[u8]) -> PageResponse + Send + Sync>;

/// The page of one path.
pub(crate) struct Page {
    path: &'static str,
    about: &'static str,
    /// The handler of GET and HEAD.
    pub(super) read: Option<Read>,
    /// The handler of POST.
    pub(super) write: Option<Action>,
}

impl Page {
    /// Returns a page that supports GET and HEAD.
    pub(crate) fn read(
        path: &'static str,
        about: &'static str,
        read: impl Fn() -> PageResponse + Send + Sync + 'static,
    ) -> Self {
        Self::negotiated(path, about, move |_| read())
    }

    /// Returns a page that supports GET and HEAD, and depends on header fields of the request.
    pub(crate) fn negotiated(
        path: &'static str,
        about: &'static str,
        read: impl Fn(&HeaderMap) -> PageResponse + Send + Sync + 'static,
    ) -> Self {
        Self { path, about, read: Some(Box::new(read)), write: None }
    }

    /// Returns a page that supports POST only.
    pub(crate) fn write(
        path: &'static str,
        about: &'static str,
        write: impl Fn(&str, &[u8]) -> PageResponse + Send + Sync + 'static,
    ) -> Self {
        Self { path, about, read: None, write: Some(Box::new(write)) }
    }

    /// Adds a handler of POST.
    pub(crate) fn and_write(
        mut self,
        write: impl Fn(&str, &[u8]) -> PageResponse + Send + Sync + 'static,
    ) -> Self {
        self.write = Some(Box::new(write));
        self
    }

    /// Returns the text that lists the supported methods.
    pub(super) fn methods(&self) -> &'static str {
        match (&self.read, &self.write) {
            (Some(_), Some(_)) => "this page supports GET and POST",
            (Some(_), None) => "this page supports only GET",
            (None, _) => "this page supports only POST",
        }
    }
}

/// The pages of one address.
pub(crate) struct Pages {
    pages: Vec<Page>,
    /// Whether only requests of local programs are accepted.
    pub(super) local: bool,
    /// The probes that are performed for the kubelet.
    pub(super) app_probes: Option<AppProbes>,
}

impl Pages {
    /// Returns the pages of a loopback address: `pages`, in their order, and an index of them.
    pub(crate) fn new(mut pages: Vec<Page>) -> Self {
        let lines: String = pages
            .iter()
            .map(|page| {
                let method = if page.read.is_none() { "POST " } else { "" };
                format!("{:<14} {method}{}\n", page.path, page.about)
            })
            .collect();
        let index = format!("Outrigger proxy {}\n\n{lines}", env!("CARGO_PKG_VERSION"));
        pages.push(Page::read("/", "this list", move || PageResponse::text(StatusCode::OK, &index)));
        Self { pages, local: true, app_probes: None }
    }

    /// Returns the pages of an address that other machines reach, without an index.
    pub(crate) fn public(pages: Vec<Page>, app_probes: Option<AppProbes>) -> Self {
        Self { pages, local: false, app_probes }
    }

    /// Returns the page with exactly this path.
    pub(super) fn find(&self, path: &str) -> Option<&Page> {
        self.pages.iter().find(|page| page.path == path)
    }
}
