//! Pages are data: a path, a line for the index, and what reading or writing them does.

use http::StatusCode;

use super::answer::Answer;

/// Makes a page.
pub(crate) type Read = Box<dyn Fn() -> Answer + Send + Sync>;

/// Does what a POST asks: its query and its body.
pub(crate) type Action = Box<dyn Fn(&str, &[u8]) -> Answer + Send + Sync>;

/// One path.
pub(crate) struct Page {
    path: &'static str,
    about: &'static str,
    /// GET and HEAD.
    pub(super) read: Option<Read>,
    /// POST.
    pub(super) write: Option<Action>,
}

impl Page {
    /// A page that is only read.
    pub(crate) fn read(
        path: &'static str,
        about: &'static str,
        read: impl Fn() -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self { path, about, read: Some(Box::new(read)), write: None }
    }

    /// A page that is only posted to.
    pub(crate) fn write(
        path: &'static str,
        about: &'static str,
        write: impl Fn(&str, &[u8]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self { path, about, read: None, write: Some(Box::new(write)) }
    }

    /// The same page, posted to as well.
    pub(crate) fn and_write(mut self, write: impl Fn(&str, &[u8]) -> Answer + Send + Sync + 'static) -> Self {
        self.write = Some(Box::new(write));
        self
    }

    /// The methods that it takes.
    pub(super) fn methods(&self) -> &'static str {
        match (&self.read, &self.write) {
            (Some(_), Some(_)) => "GET and POST are possible here",
            (Some(_), None) => "only GET is possible here",
            (None, _) => "only POST is possible here",
        }
    }
}

/// All pages; the index is made of them.
pub(crate) struct Pages(Vec<Page>);

impl Pages {
    /// The pages, in the order of the index, with the index itself.
    pub(crate) fn new(mut pages: Vec<Page>) -> Self {
        let lines: String = pages
            .iter()
            .map(|page| {
                let method = if page.read.is_none() { "POST " } else { "" };
                format!("{:<14} {method}{}\n", page.path, page.about)
            })
            .collect();
        let index = format!("Outrigger proxy {}\n\n{lines}", env!("CARGO_PKG_VERSION"));
        pages.push(Page::read("/", "this list", move || Answer::text(StatusCode::OK, &index)));
        Self(pages)
    }

    /// The page at exactly this path.
    pub(super) fn find(&self, path: &str) -> Option<&Page> {
        self.0.iter().find(|page| page.path == path)
    }
}
