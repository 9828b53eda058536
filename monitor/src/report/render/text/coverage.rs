//! Which lock call sites of the driver were reached.

use std::fmt::Write as _;

use super::summary::field;
use crate::escape::Escaped;
use crate::report::{Coverage, CoverageTotals, CoveredSite, SiteFound, SiteState};

/// Sites that are listed. All are in the JSON.
const SHOWN: usize = 20;

/// A few lines, and one for each site that was not reached, or only after a fault.
pub(super) fn coverage(text: &mut String, coverage: &Coverage) {
    field(text, "coverage", &sentence(&coverage.totals));
    let notable = |site: &&CoveredSite| site.state != SiteState::Reached || site.calls == site.after_fault;
    let notable: Vec<&CoveredSite> = coverage.sites.iter().filter(notable).collect();
    let width = notable
        .iter()
        .take(SHOWN)
        .map(|site| site.routine.to_string().len())
        .max();
    let width = width.unwrap_or(0);
    for site in notable.iter().take(SHOWN) {
        line!(
            *text,
            "    {:<18} {:<width$}  {}{}",
            state(site),
            site.routine.to_string(),
            site.place,
            remarks(site)
        );
    }
    if notable.len() > SHOWN {
        let more = format!("and {} more; report.json has all", notable.len() - SHOWN);
        field(text, "", &more);
    }
    for open in &coverage.open {
        let why = match open.reason {
            Some(reason) => reason.to_string(),
            None => "the driver's code was not looked at".to_owned(),
        };
        field(text, "", &format!("{} may have further calls: {why}", open.export));
    }
}

/// How many sites there are, and what was seen of them.
pub(in crate::report::render) fn sentence(totals: &CoverageTotals) -> String {
    let mut sentence = format!("{} of {} lock call sites reached", totals.reached, totals.sites);
    for (count, what) in [
        (totals.only_after_fault, "only after an injected fault"),
        (
            totals.not_watched,
            "not seen, because the routine was not watched all the time",
        ),
        (totals.not_told, "jumps of which a call cannot be told"),
        (totals.perhaps, "further calls that may be lock calls"),
        (totals.not_kept, "calls from further places"),
    ] {
        if count > 0 {
            let _ = write!(sentence, ", {count} {what}");
        }
    }
    sentence
}

/// What is known of a site, in a few words.
pub(in crate::report::render) fn state(site: &CoveredSite) -> &'static str {
    match site.state {
        SiteState::Reached if site.calls == site.after_fault => "after a fault only",
        SiteState::Reached => "reached",
        SiteState::NotReached => "not reached",
        SiteState::NotWatched => "not watched",
        SiteState::NotTold => "cannot be told",
    }
}

/// What else there is to say of a site.
fn remarks(site: &CoveredSite) -> String {
    let mut remarks = String::new();
    if site.tail {
        remarks.push_str(", a jump");
    }
    if site.found == SiteFound::Run {
        remarks.push_str(", not found in the code");
    }
    let callbacks = site.callbacks();
    if !callbacks.is_empty() {
        let _ = write!(remarks, ", from {}", callbacks.join(", "));
    }
    remarks
}
