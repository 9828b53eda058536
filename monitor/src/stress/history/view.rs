//! What a history shows of each finding over all nights.

use serde::Serialize;

use super::{History, HistoryError};
use crate::stress::triage::SiteCoverage;
use crate::stress::triage::baseline::timestamp;
use crate::stress::triage::coverage::CoverageReport;
use crate::stress::triage::finding::FindingKind;
use crate::stress::triage::rate::Rate;

/// A job in a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobView {
    /// Its name.
    pub job: String,
    /// Its nights, by number.
    pub(crate) nights: Vec<NightView>,
    /// The lock call sites of the last night's driver, in all nights with it; nothing if none has watched it.
    pub(crate) coverage: Option<CoverageReport>,
    /// Its findings: those of the last night first.
    pub findings: Vec<SignatureView>,
}

/// A night.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NightView {
    /// Its number.
    pub night: u64,
    /// When it began, in ISO 8601.
    pub started: String,
    /// Iterations.
    pub iterations: u64,
    /// Different findings.
    pub findings: u64,
    /// Lock call sites of the driver that were reached, and that are known.
    pub(crate) sites_reached: u64,
    /// Those that are known.
    pub(crate) sites: u64,
    /// SHA-256 of the driver.
    pub(crate) driver_sha256: Option<String>,
    /// Whether all shards came to their end.
    pub complete: bool,
}

/// What has become of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ViewStatus {
    /// Seen in the last night for the first time.
    New,
    /// Seen in the last night and before.
    Open,
    /// Not seen in the last night.
    Gone,
}

impl ViewStatus {
    /// The word for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Open => "open",
            Self::Gone => "gone",
        }
    }
}

/// A finding over all nights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignatureView {
    /// Its signature.
    pub signature: String,
    /// What kind of thing.
    pub kind: FindingKind,
    /// One line.
    pub title: String,
    /// What has become of it.
    pub status: ViewStatus,
    /// It came and went although the case was the same.
    pub(crate) flaky: bool,
    /// Night in which it was seen first, and when that began.
    pub(crate) first_night: u64,
    /// When that began.
    pub(crate) first_seen: String,
    /// Night in which it was seen last.
    pub last_night: u64,
    /// When that began.
    pub(crate) last_seen: String,
    /// How often it came in each night in which it was seen.
    pub(crate) nights: Vec<NightRate>,
}

/// How often a finding came in a night.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct NightRate {
    /// The night.
    pub night: u64,
    /// How often.
    #[serde(flatten)]
    pub rate: Rate,
}

impl History {
    /// All that it says of a job.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub(crate) fn view(&self, job: &str) -> Result<JobView, HistoryError> {
        let hits = self.hits(job)?;
        let nights = self.night_views(job, &hits)?;
        let last = nights.last().map_or(0, |night| night.night);
        let began = |number: u64| {
            let night = nights.iter().find(|night| night.night == number);
            night.map(|night| night.started.clone()).unwrap_or_default()
        };
        let flaky = self.flaky(job)?;
        let mut findings: Vec<SignatureView> = Vec::new();
        for (signature, finding) in self.findings()? {
            let rates: Vec<NightRate> = hits
                .iter()
                .filter(|(one, ..)| *one == signature)
                .map(|&(_, night, hits)| NightRate {
                    night,
                    rate: Rate {
                        hits,
                        runs: nights
                            .iter()
                            .find(|one| one.night == night)
                            .map_or(0, |one| one.iterations),
                    },
                })
                .collect();
            let (Some(first), Some(latest)) = (rates.first(), rates.last()) else {
                continue;
            };
            findings.push(SignatureView {
                kind: finding.kind,
                title: finding.title,
                status: match (first.night == last, latest.night == last) {
                    (true, _) => ViewStatus::New,
                    (false, true) => ViewStatus::Open,
                    (false, false) => ViewStatus::Gone,
                },
                flaky: flaky.contains(&signature),
                first_night: first.night,
                first_seen: began(first.night),
                last_night: latest.night,
                last_seen: began(latest.night),
                nights: rates,
                signature,
            });
        }
        findings.sort_by(|a, b| (a.status, a.kind, &a.signature).cmp(&(b.status, b.kind, &b.signature)));
        Ok(JobView {
            job: job.to_owned(),
            nights,
            coverage: self.coverage_view(job)?,
            findings,
        })
    }

    /// The sites of the last night's driver. Iterations count from 0 in each night, so the growth is left out.
    fn coverage_view(&self, job: &str) -> Result<Option<CoverageReport>, HistoryError> {
        let Some(last) = self.last_night(job)? else {
            return Ok(None);
        };
        let mut all = SiteCoverage::default();
        for night in self.nights_of_driver(job, &last)? {
            all.add(self.coverage(night.id)?);
        }
        let before = self.reached_before(job, &last)?;
        let told = CoverageReport {
            growth: Vec::new(),
            ..all.told(before.as_ref())
        };
        Ok((told.sites > 0).then_some(told))
    }

    fn night_views(&self, job: &str, hits: &[(String, u64, u64)]) -> Result<Vec<NightView>, HistoryError> {
        let (sizes, times) = (self.sizes(job)?, self.times(job)?);
        let mut views = Vec::new();
        for key in self.nights(job)? {
            let night = self.new_night(job, &key)?;
            let coverage = self.coverage(key.id)?;
            views.push(NightView {
                sites_reached: coverage.reached_sites().len() as u64,
                sites: coverage.sites.len() as u64,
                night: key.number,
                started: times
                    .get(&key.number)
                    .map(|(began, _)| timestamp(*began))
                    .unwrap_or_default(),
                iterations: sizes.get(&key.number).copied().unwrap_or(0),
                findings: hits.iter().filter(|(_, number, _)| *number == key.number).count() as u64,
                driver_sha256: night.driver.and_then(|(_, hash)| hash),
                complete: super::load::missing(&self.shards(key.id)?).is_empty(),
            });
        }
        Ok(views)
    }

    /// Signatures that came and went at one case, in any night. Cases are the same from night to night only where the
    /// seeds are, so nights are looked at one by one.
    fn flaky(&self, job: &str) -> Result<Vec<String>, HistoryError> {
        let sql = "WITH runs AS (
                SELECT night, seed, cpus, faults, count(*) AS runs
                FROM iterations JOIN nights ON nights.id = night WHERE job = ?1
                GROUP BY night, seed, cpus, faults HAVING count(*) > 1)
            SELECT DISTINCT signature FROM (
                SELECT signature, count(*) AS hits, runs.runs AS runs
                FROM sightings JOIN iterations USING (night, iteration, attempt) JOIN runs USING (night, seed, cpus, faults)
                GROUP BY signature, night, seed, cpus, faults)
            WHERE hits < runs";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([job], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
