//! Tests of what is on the medium after the host stopped in the middle of its writes, and whether the next user can
//! work with it. The copies of the image are made from a journal of the calls to the host.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::journal::Change;
use super::steps::{KINDS, Model, Origin, Plan, check_snapshot, image, is_leaked};
use super::*;

const SIZE: u64 = 2 * MEBIBYTE;

/// A directory in memory if there is such a file system: the journal makes nothing durable.
fn in_memory() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let place = if shared.is_dir() {
        shared.to_owned()
    } else {
        std::env::temp_dir()
    };
    tempfile::tempdir_in(place).unwrap()
}

/// What stops.
#[derive(Debug, Clone, Copy)]
enum Crash {
    /// The process: what it wrote before is in the file.
    Kill,
    /// The host: what was synced is in the file, and any of the sectors that were written later.
    PowerCut,
}

/// One user of an image, from its opening to its closing.
struct Life {
    before: Vec<u8>,
    journal: Vec<Change>,
    /// The model after so many calls.
    models: Vec<(usize, Model)>,
}

impl Life {
    fn lead(path: &Path, plan: &Plan, steps: u64) -> Self {
        let before = fs::read(path).unwrap();
        let mut disk = writable(path);
        let mut model = Model::new(&all(&mut disk));
        journal::begin();
        let mut models = Vec::new();
        for number in 1..=steps {
            let flush = matches!(plan.step(number), steps::Step::Flush);
            model.begin(plan, number);
            models.push((journal::length(), model.clone()));
            plan.act(&mut disk, number).unwrap();
            if flush {
                model.flush();
                models.push((journal::length(), model.clone()));
            }
        }
        disk.close().unwrap();
        model.flush();
        models.push((journal::length(), model));
        Self {
            before,
            journal: journal::end(),
            models,
        }
    }

    /// The file if the host stops after `calls`, and what the disk may hold then.
    fn cut(&self, calls: usize, crash: Crash, random: &mut ChaCha8Rng) -> (Vec<u8>, &Model) {
        let is_sync = |change: &Change| matches!(change, Change::Sync);
        let synced = self.journal[..calls]
            .iter()
            .rposition(is_sync)
            .map_or(0, |last| last + 1);
        let (mut file, odds) = (self.before.clone(), 1 + random.next_u32() % 3);
        for (index, change) in self.journal[..calls].iter().enumerate() {
            let safe = index < synced || matches!(crash, Crash::Kill);
            change.apply(&mut file, || safe || random.next_u32() % 4 < odds);
        }
        let model = self.models.iter().rev().find(|(length, _)| *length <= calls);
        (file, &model.unwrap_or(&self.models[0]).1)
    }
}

/// Has users of an image follow each other, each of whom is cut off; tries further moments of each life on copies.
fn crash(kind: (&str, Origin), seed: u64, tries: usize) -> usize {
    // In memory if there is such a file system: the journal makes nothing durable.
    let shared = Path::new("/dev/shm");
    let place = if shared.is_dir() {
        shared.to_owned()
    } else {
        std::env::temp_dir()
    };
    let directory = tempfile::tempdir_in(place).unwrap();
    let (path, content) = image(directory.path(), kind, SIZE);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut leaks = 0;
    for life in 0..3 {
        let flush_every = [0, 6, 13][random.next_u32() as usize % 3];
        let plan = Plan {
            seed: seed * 3 + life,
            size: SIZE,
            flush_every,
            base: (life + 1) << 32,
        };
        let led = Life::lead(&path, &plan, 40);
        let mut moments: Vec<usize> = (0..tries)
            .map(|_| random.next_u32() as usize % (led.journal.len() + 1))
            .collect();
        // The first table is entered early.
        moments.push(random.next_u32() as usize % led.journal.len().min(12));
        for calls in moments {
            let crash = if random.next_u32() % 2 == 0 {
                Crash::Kill
            } else {
                Crash::PowerCut
            };
            let what = format!(
                "{kind:?}, seed {seed}, life {life}, {crash:?} after {calls} of {} calls",
                led.journal.len()
            );
            let (file, model) = led.cut(calls, crash, &mut random);
            fs::write(&path, file).unwrap();
            leaks += usize::from(is_leaked(&path, &what));
            model.check(&all(&mut opened(&path, &read_only())), &what);
            model.check(&all(&mut writable(&path)), &what);
            // The repair leaves no leaks.
            assert!(!is_leaked(&path, &what) || calls == 0, "{what}: repaired");
            if kind.1 == Origin::Snapshot {
                check_snapshot(&path, &content, &what);
            }
        }
    }
    leaks
}

#[test]
fn an_image_is_sound_whenever_its_user_is_cut_off() {
    for (seed, kind) in KINDS.into_iter().enumerate() {
        crash(kind, seed as u64, 2);
    }
}

#[test]
#[ignore = "takes minutes"]
fn an_image_is_sound_whenever_its_user_is_cut_off_at_length() {
    let mut leaks = 0;
    for seed in 0..6 {
        for kind in KINDS {
            leaks += crash(kind, 1000 + seed, 20);
        }
    }
    println!(
        "{leaks} of {} images had leaked clusters, none was corrupt",
        6 * 14 * 3 * 21
    );
}

/// Has one call to the host fail in the life of an image's user, who goes on. Returns whether the life was long enough.
fn fail(path: &Path, plan: &Plan, calls: usize, what: &str) -> bool {
    let mut disk = writable(path);
    let mut model = Model::new(&all(&mut disk));
    journal::fail_after(calls);
    for number in 1..=30 {
        model.begin(plan, number);
        let done = plan.act(&mut disk, number);
        match (plan.step(number), done) {
            (steps::Step::Flush, Ok(())) => model.flush(),
            (_, Ok(())) => {}
            (_, Err(BackendError::NoSpace)) => model.look(&all(&mut disk)),
            (_, Err(error)) => panic!("{what}: {error}"),
        }
    }
    let come = !journal::fail_no_more();
    // What no flush has promised may be lost, but no more than that: the program is killed here.
    let cut = path.with_extension("cut.qcow2");
    fs::copy(path, &cut).unwrap();
    is_leaked(&cut, what);
    model.check(&all(&mut writable(&cut)), what);
    disk.close().unwrap();
    model.flush();
    drop(disk);
    is_leaked(path, what);
    model.check(&all(&mut opened(path, &read_only())), what);
    come
}

#[test]
fn a_call_that_fails_costs_nothing_that_a_later_flush_promises() {
    for (seed, kind) in [KINDS[0], KINDS[1], KINDS[2], KINDS[5]].into_iter().enumerate() {
        let directory = in_memory();
        let (path, _) = image(directory.path(), kind, SIZE);
        let before = fs::read(&path).unwrap();
        let plan = Plan {
            seed: 77 + seed as u64,
            size: SIZE,
            flush_every: 7,
            base: 1 << 32,
        };
        let come = (0..300).step_by(3).take_while(|&calls| {
            fs::write(&path, &before).unwrap();
            fail(&path, &plan, calls, &format!("{kind:?}, call {calls} fails"))
        });
        assert!(come.count() > 5, "{kind:?}");
    }
}
