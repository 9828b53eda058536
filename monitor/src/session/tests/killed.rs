//! What is left of a run whose program is killed.

use std::time::{Duration, Instant};

use super::*;

/// Far longer than what was seen may take to its file.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn what_was_seen_is_in_the_files_soon_and_not_only_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let [recorded, traced] = ["run.rec", "events.trace"].map(|name| directory.path().join(name));
    let header = serde_json::to_vec(&config()).unwrap();
    let recording = Recording::create(output(&recorded), u64::MAX, header, Sandbox::none()).unwrap();
    let trace = Trace::create(output(&traced), &traced, u64::MAX, Sandbox::none()).unwrap();
    let session = Session::new(config(), Some(trace), Some(recording));
    scenario(&session);
    let seen = session.report(&power_off()).findings.len();
    assert!(seen > 0);
    let began = Instant::now();
    let found = |report: Result<Report, replay::ReplayError>| report.map_or(0, |report| report.findings.len());
    loop {
        let from_recording = found(replay::recording(&std::fs::read(&recorded).unwrap()[..]));
        let from_trace = found(replay::trace(&std::fs::read(&traced).unwrap()[..]));
        if (from_recording, from_trace) == (seen, seen) {
            break;
        }
        assert!(
            began.elapsed() < SOON,
            "{from_recording} and {from_trace} of {seen} violations are in the files"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    session.close(&mut power_off());
}
