//! Decides which night it is: a new one, or an earlier one that was killed and goes on.
//!
//! Talks to the history.

use super::{Digests, RunnerError, now};
use crate::run::spec::RunSpec;
use crate::stress::history::{History, HistoryError, NewNight, NightKey, ShardRecord, ShardState};
use crate::stress::planning::{Job, Shard};

/// What the user asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// This night.
    pub night: Option<u64>,
    /// A new one, even if the last did not come to its end.
    pub(crate) anew: bool,
    /// This share of it.
    pub shard: Shard,
}

/// A night that has begun, or goes on.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    /// The night.
    pub night: NightKey,
    /// This machine's share.
    pub shard: ShardRecord,
    /// It goes on after a kill or an interruption.
    pub resumed: bool,
    /// There is nothing left to do.
    pub complete: bool,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Decides which night it is, and begins it.
///
/// # Errors
/// [`RunnerError`] if the night that is asked for is another job's, or is shared out in another way.
pub(crate) fn begin(
    history: &mut History,
    job: &Job,
    digests: &Digests,
    run: &RunSpec,
    host: &str,
    wish: Wish,
) -> Result<Begun, RunnerError> {
    let path = history.path().display().to_string();
    decide(history, job, digests, run, host, wish).map_err(|error| match error {
        HistoryError::Conflict(what) => RunnerError::Usage(what),
        error => RunnerError::History(path, error),
    })
}

fn decide(
    history: &mut History,
    job: &Job,
    digests: &Digests,
    run: &RunSpec,
    host: &str,
    wish: Wish,
) -> Result<Begun, HistoryError> {
    let mut notes = Vec::new();
    let number = match wish.night {
        Some(number) => number,
        None => next_number(history, job, digests, wish, &mut notes)?,
    };
    let night = history.begin(&NewNight {
        job: job.name.clone(),
        number,
        identity: digests.identity.clone(),
        setup: digests.setup.clone(),
        definition: job.identity().to_string(),
        driver: digests.driver(run),
    })?;
    if night.identity != digests.identity {
        return Err(HistoryError::Conflict(format!(
            "night {number} of {} was begun with another job or other files: ask for another night, or for none",
            job.name
        )));
    }
    let shards = history.shards(night.id)?;
    check_division(&shards, wish.shard).map_err(HistoryError::Conflict)?;
    let old = shards.into_iter().find(|shard| shard.shard == wish.shard.to_string());
    let (resumed, complete) = (
        old.is_some(),
        old.as_ref().is_some_and(|shard| shard.state == ShardState::Complete),
    );
    let began = now();
    let mut shard = old.unwrap_or_else(|| ShardRecord {
        shard: wish.shard.to_string(),
        host: host.to_owned(),
        state: ShardState::Running,
        ended: String::new(),
        started_at: began,
        ended_at: began,
        active_ms: 0,
    });
    if !complete {
        shard.state = ShardState::Running;
        host.clone_into(&mut shard.host);
        history.set_shard(night.id, &shard)?;
    }
    Ok(Begun {
        night,
        shard,
        resumed: resumed && !complete,
        complete,
        notes,
    })
}

/// The number of the last night if it goes on, else the one after it.
fn next_number(
    history: &History,
    job: &Job,
    digests: &Digests,
    wish: Wish,
    notes: &mut Vec<String>,
) -> Result<u64, HistoryError> {
    let Some(last) = history.last_night(&job.name)? else {
        return Ok(0);
    };
    let shards = history.shards(last.id)?;
    let mine = shards.iter().find(|shard| shard.shard == wish.shard.to_string());
    let ended = if let Some(shard) = mine {
        shard.state == ShardState::Complete
    } else {
        // Another share of it, or a night that was cut in another way and is over.
        let over = shards.iter().all(|shard| shard.state == ShardState::Complete);
        over && check_division(&shards, wish.shard).is_err()
    };
    let same = last.identity == digests.identity;
    if !ended && !wish.anew && same {
        return Ok(last.number);
    }
    if !ended && !same {
        notes.push(format!(
            "night {} did not come to its end, and the job or one of its files has changed since: a new night begins",
            last.number
        ));
    }
    Ok(last.number + 1)
}

/// Shares of a night are cut in one way.
fn check_division(shards: &[ShardRecord], mine: Shard) -> Result<(), String> {
    let others = shards.iter().filter_map(|shard| shard.shard.parse::<Shard>().ok());
    let other = others
        .into_iter()
        .find(|other| (other.way, other.total) != (mine.way, mine.total));
    match other {
        None => Ok(()),
        Some(other) => Err(format!(
            "this night was begun with shard {other}, and {mine} is another way to cut it: use the same shards, or begin a \
             new night by --new"
        )),
    }
}
