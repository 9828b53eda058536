//! The formats of a report, one file each. All show the same data.

pub mod html;
pub mod json;
pub mod junit;
pub(crate) mod machine;
mod next_step;
pub(crate) mod perfetto;
mod picture;
mod reasons;
pub mod sarif;
pub mod text;
pub(super) mod told;
mod watching;
pub(crate) mod words;

use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Report;

/// Writes a report in one format.
pub(crate) trait Renderer: Sync {
    /// Writes the report.
    ///
    /// # Errors
    /// What `out` returns.
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()>;
}

/// A number and what it counts.
fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// A format of reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For code scanning.
    Sarif,
    /// For continuous integration.
    Junit,
    /// A page for a browser.
    Html,
    /// A timeline for Perfetto's user interface.
    Perfetto,
}

impl Format {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Text,
        Self::Json,
        Self::Sarif,
        Self::Junit,
        Self::Html,
        Self::Perfetto,
    ];
    /// Those that every run leaves in its report directory, in the order in which the files are written.
    pub(crate) const OF_EVERY_RUN: &[Self] = &[Self::Text, Self::Json, Self::Html];

    /// As the command line and the description of a run have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Sarif => "sarif",
            Self::Junit => "junit",
            Self::Html => "html",
            Self::Perfetto => "perfetto",
        }
    }

    /// One line for `--help`.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::Text => "For people",
            Self::Json => "For programs; schema storlock-report/2",
            Self::Sarif => "SARIF 2.1.0, for code scanning",
            Self::Junit => "JUnit XML, for continuous integration: a test case for each rule",
            Self::Html => "A page for a browser, with a timeline and the order of locks",
            Self::Perfetto => "A timeline for Perfetto's user interface (track events)",
        }
    }

    /// The endings of file names that mean this format, the usual one first.
    #[must_use]
    pub(crate) const fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Text => &["txt"],
            Self::Json => &["json"],
            Self::Sarif => &["sarif", "sarif.json"],
            Self::Junit => &["xml"],
            Self::Html => &["html", "htm"],
            Self::Perfetto => &["pftrace", "perfetto-trace"],
        }
    }

    /// Whether people can read it on a terminal.
    #[must_use]
    pub(crate) const fn is_text(self) -> bool {
        !matches!(self, Self::Perfetto)
    }

    /// The format that a file name tells by its ending, in whatever case.
    #[must_use]
    pub fn of(file: &Path) -> Option<Self> {
        let name = file.file_name()?.to_string_lossy().to_ascii_lowercase();
        // The longest ending counts: `x.sarif.json` is SARIF.
        let endings = Self::ALL
            .iter()
            .flat_map(|format| format.endings().iter().map(move |ending| (*format, *ending)));
        let fits = endings.filter(|(_, ending)| {
            name.strip_suffix(ending)
                .is_some_and(|stem| stem.len() > 1 && stem.ends_with('.'))
        });
        fits.max_by_key(|(_, ending)| ending.len()).map(|(format, _)| format)
    }

    /// Who writes it.
    #[must_use]
    pub(crate) fn renderer(self) -> &'static dyn Renderer {
        match self {
            Self::Text => &text::Text,
            Self::Json => &json::Json,
            Self::Sarif => &sarif::Sarif,
            Self::Junit => &junit::JunitXml,
            Self::Html => &html::Html,
            Self::Perfetto => &perfetto::Perfetto,
        }
    }
}
