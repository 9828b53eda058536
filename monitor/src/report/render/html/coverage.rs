//! The part of the page that says which lock call sites of the driver were reached.

use std::fmt::Write as _;

use super::{put, text};
use crate::report::render::text::coverage::{sentence, state};
use crate::report::{Coverage, CoveredSite, SiteState};

/// The section, which is there in any case: the page links to it.
pub(super) fn section(page: &mut String, coverage: Option<&Coverage>) {
    put!(
        page,
        "<section id=\"coverage\" aria-labelledby=\"h-coverage\">\n<h2 id=\"h-coverage\">Lock call sites</h2>\n"
    );
    let Some(coverage) = coverage else {
        put!(page, "<p>The driver was not watched.</p>\n</section>\n");
        return;
    };
    put!(page, "<p>{}.</p>\n", text(&sentence(&coverage.totals)));
    if !coverage.sites.is_empty() {
        put!(
            page,
            "<div class=\"wide\"><table class=\"sortable\"><thead><tr><th scope=\"col\">Routine</th><th scope=\"col\">Called from</th>\
             <th scope=\"col\">State</th><th scope=\"col\">Calls</th><th scope=\"col\">After a fault</th>\
             <th scope=\"col\">Callbacks</th></tr></thead><tbody>\n"
        );
        for site in &coverage.sites {
            row(page, site);
        }
        put!(page, "</tbody></table></div>\n");
    }
    put!(page, "</section>\n");
}

fn row(page: &mut String, site: &CoveredSite) {
    let class = match site.state {
        SiteState::Reached => "",
        SiteState::NotReached => " class=\"bad\"",
        SiteState::NotWatched | SiteState::NotTold => " class=\"unsure\"",
    };
    put!(
        page,
        "<tr><th scope=\"row\">{}</th><td>{}</td><td{class}>{}</td><td class=\"n\" data-n=\"{}\">{}</td>\
         <td class=\"n\" data-n=\"{}\">{}</td><td>{}</td></tr>\n",
        text(&site.routine.to_string()),
        text(&site.place.to_string()),
        state(site),
        site.calls,
        site.calls,
        site.after_fault,
        site.after_fault,
        text(&site.callbacks().join(", "))
    );
}
