//! The manual, chapter by chapter, and a page for every code: what `ringwall help` prints.
//!
//! A chapter is a Markdown file of this folder, listed once, in `chapters!`. The pages of codes stand in `codes/*.md`, one file
//! for each range, one section `## RW-nnnn title` for each code; a test compares them with the codes that the sources
//! declare, in both directions.

/// A chapter.
#[derive(Clone, Copy, Debug)]
pub struct Chapter {
    /// What it is asked for by: the file's name without `.md`.
    pub name: &'static str,
    /// The Markdown.
    pub text: &'static str,
}

impl Chapter {
    /// Its first heading.
    pub fn title(&self) -> &'static str {
        self.text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or(self.name)
    }
}

/// Each chapter is a module, so that rustdoc shows it, and an entry of [`all`].
macro_rules! chapters {
    ($($name:ident),+ $(,)?) => {
        $(
            #[doc = include_str!(concat!(stringify!($name), ".md"))]
            pub mod $name {}
        )+

        const CHAPTERS: &[Chapter] = &[
            $(Chapter { name: stringify!($name), text: include_str!(concat!(stringify!($name), ".md")) },)+
        ];
    };
}

chapters!(
    life_of_a_request,
    configuration,
    http2,
    grpc,
    websocket,
    operations,
    outages,
    words,
    decisions,
    load_testing
);

/// The chapters, in reading order.
pub fn all() -> &'static [Chapter] {
    CHAPTERS
}

/// The page of one code.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The number of `RW-nnnn`.
    pub code: u16,
    /// The heading after the code: what is wrong; for a reason its token, a colon, and its title.
    pub title: &'static str,
    /// The whole section, heading included.
    pub text: &'static str,
}

impl Page {
    /// The token of the reason, if the page is of one.
    pub fn token(&self) -> Option<&'static str> {
        let (token, _) = self.title.split_once(": ")?;
        token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_').then_some(token)
    }
}

/// The files of pages, by range.
const CODES: &[&str] = &[
    include_str!("codes/10-syntax.md"),
    include_str!("codes/11-listen.md"),
    include_str!("codes/12-upstreams.md"),
    include_str!("codes/13-login.md"),
    include_str!("codes/14-apis.md"),
    include_str!("codes/15-allow.md"),
    include_str!("codes/16-limits.md"),
    include_str!("codes/17-schema.md"),
    include_str!("codes/18-log.md"),
    include_str!("codes/19-secrets.md"),
    include_str!("codes/20-message.md"),
    include_str!("codes/21-route.md"),
    include_str!("codes/22-admission.md"),
    include_str!("codes/23-h2.md"),
    include_str!("codes/24-websocket.md"),
    include_str!("codes/24-grpc.md"),
    include_str!("codes/30-authenticate.md"),
    include_str!("codes/31-authorize.md"),
    include_str!("codes/32-limits.md"),
    include_str!("codes/33-contract.md"),
    include_str!("codes/34-response.md"),
    include_str!("codes/40-upstream.md"),
    include_str!("codes/50-ourselves.md"),
    include_str!("codes/60-operation.md"),
];

/// All pages, by range and code.
pub fn pages() -> impl Iterator<Item = Page> {
    CODES.iter().flat_map(|file| sections(file))
}

/// The page of a code.
pub fn page(code: u16) -> Option<Page> {
    pages().find(|page| page.code == code)
}

fn sections(file: &'static str) -> impl Iterator<Item = Page> {
    let mut rest = file;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find("## RW-").filter(|&at| at == 0 || rest[..at].ends_with('\n'))?;
            let section = &rest[start..];
            let end = section[1..].find("\n## ").map_or(section.len(), |at| at + 2);
            rest = &section[end..];
            let heading = section["## RW-".len()..].lines().next().unwrap_or("");
            let (number, title) = heading.split_once(' ').unwrap_or((heading, ""));
            if let Ok(code) = number.parse() {
                return Some(Page { code, title, text: &section[..end] });
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_found_by_its_code_and_says_something() {
        let mut before = 0;
        for page in pages() {
            assert!(page.code > before, "RW-{:04} is out of order", page.code);
            before = page.code;
            assert!(page.text.len() > page.title.len() + 60, "RW-{:04} says nothing", page.code);
            assert_eq!(super::page(page.code).map(|page| page.title), Some(page.title));
        }
        assert!(before > 0);
    }

    #[test]
    fn every_chapter_has_a_title_and_ends_with_a_line_break() {
        for chapter in all() {
            assert_ne!(chapter.title(), chapter.name);
            assert!(chapter.text.ends_with('\n'), "{}", chapter.name);
        }
    }
}
