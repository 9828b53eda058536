//! `storlock history`: the state of a job's findings over all nights.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;

use super::options::ListFormat;
use super::output;
use crate::run::Failure;
use crate::stress::history::{self, History, JobView, SignatureView};
use crate::stress::triage::rate::Rate;

/// Options of `storlock history`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Output directory of a job, or its database
    #[arg(value_name = "DIR|FILE", default_value = "storlock-stress")]
    pub place: PathBuf,
    /// Only this job
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,
    /// How the history is printed
    #[arg(long, value_enum, default_value_t = ListFormat::Text)]
    pub format: ListFormat,
}

/// Prints the history.
///
/// # Errors
/// [`Failure`] if there is none, or it cannot be read.
pub fn execute(arguments: &Arguments) -> Result<u8, Failure> {
    let path = database(&arguments.place);
    if !path.exists() {
        return Err(Failure::usage(anyhow!(
            "{} is no output directory of a job, and no history",
            arguments.place.display()
        )));
    }
    let what = || format!("the history {}", path.display());
    let history = History::open_existing(&path)
        .with_context(what)
        .map_err(Failure::infrastructure)?;
    let mut jobs = history.jobs().with_context(what).map_err(Failure::infrastructure)?;
    if let Some(wanted) = &arguments.job {
        jobs.retain(|job| job == wanted);
        if jobs.is_empty() {
            return Err(Failure::usage(anyhow!(
                "no job in {} is called {wanted}",
                path.display()
            )));
        }
    }
    let views: Vec<JobView> = jobs
        .iter()
        .map(|job| history.view(job))
        .collect::<Result<_, _>>()
        .with_context(what)
        .map_err(Failure::infrastructure)?;
    let text = match arguments.format {
        ListFormat::Text => views.iter().map(text).collect(),
        ListFormat::Json => crate::report::json::text(&views).map_err(Failure::infrastructure)?,
    };
    output::print(&text)?;
    Ok(0)
}

fn database(place: &Path) -> PathBuf {
    if place.is_dir() {
        place.join(history::FILE)
    } else {
        place.to_owned()
    }
}

fn text(view: &JobView) -> String {
    let mut out = format!("job {}, {} nights\n", view.job, view.nights.len());
    for night in &view.nights {
        let complete = if night.complete { "" } else { ", not complete" };
        let driver = night
            .driver_sha256
            .as_deref()
            .and_then(|hash| hash.get(..12))
            .unwrap_or("unknown");
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "  night {:<4} {}  {} iterations, {} findings, {} of {} lock call sites reached, driver {driver}{complete}",
            night.night, night.started, night.iterations, night.findings, night.sites_reached, night.sites
        );
    }
    if let Some(coverage) = &view.coverage {
        let _ = writeln!(out, "this driver: {}", coverage.sentence());
        for site in &coverage.not_reached {
            let _ = writeln!(out, "    not reached: {site}");
        }
    }
    for finding in &view.findings {
        one(finding, &mut out);
    }
    out
}

fn one(finding: &SignatureView, out: &mut String) {
    let flaky = if finding.flaky { ", flaky" } else { "" };
    let all = finding
        .nights
        .iter()
        .fold(Rate::default(), |all, night| all.and(night.rate));
    let _ = writeln!(
        out,
        "{} {}{flaky}: {}\n    first seen in night {} ({}), last in night {} ({}); in {} iterations of {} nights",
        finding.signature,
        finding.status.text(),
        finding.title,
        finding.first_night,
        finding.first_seen,
        finding.last_night,
        finding.last_seen,
        all,
        finding.nights.len()
    );
}
