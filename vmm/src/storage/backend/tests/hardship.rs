//! Tests of an image after its user was killed, and on a full file system. What must be apart from other tests runs in
//! a child process: this test program again, told what to do by environment variables.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::steps::{KINDS, Model, Origin, Plan, Step, check_snapshot, image, is_leaked};
use super::*;

const TASK: &str = "STORLOCK_DISK_TASK";
const IMAGE: &str = "STORLOCK_DISK_IMAGE";

const SEED: &str = "STORLOCK_DISK_SEED";
const BASE: &str = "STORLOCK_DISK_BASE";

const KILLED_SIZE: u64 = 4 * MEBIBYTE;

pub(super) fn child(task: &str, image: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "storage::backend::tests::hardship::in_a_child",
        "--nocapture",
    ]);
    command.env(TASK, task).env(IMAGE, image);
    command
}

#[test]
fn in_a_child() {
    let (Ok(task), Some(image)) = (std::env::var(TASK), std::env::var_os(IMAGE)) else {
        return;
    };
    match task.as_str() {
        "read" => assert!(all(&mut opened(Path::new(&image), &read_only()))[8192..8704] == [4; 512]),
        "fill" => fill_the_file_system(Path::new(&image)),
        _ => {
            let number = |name| std::env::var(name).unwrap().parse().unwrap();
            write_until_killed(Path::new(&image), &plan(number(SEED), number(BASE)));
        }
    }
}

/// What the process that is killed does. Every third one never flushes.
fn plan(seed: u64, base: u64) -> Plan {
    Plan {
        seed,
        size: KILLED_SIZE,
        flush_every: [0, 9, 24][seed as usize % 3],
        base,
    }
}

/// Tells each step before it is done, and each flush after it.
fn write_until_killed(path: &Path, plan: &Plan) {
    let mut disk = writable(path);
    let mut out = std::io::stdout();
    // The test harness has begun the line.
    writeln!(out, "\nopen").unwrap();
    for number in 1.. {
        writeln!(out, "step {number}").unwrap();
        plan.act(&mut disk, number).unwrap();
        if matches!(plan.step(number), Step::Flush) {
            writeln!(out, "flushed {number}").unwrap();
        }
    }
}

/// Starts a writer that ends by `signal` at any moment from its first write on; what the disk may hold then.
fn kill_once(path: &Path, plan: &Plan, mut model: Model, signal: &str) -> Model {
    let mut writer = child("write", path);
    writer.env(SEED, plan.seed.to_string()).env(BASE, plan.base.to_string());
    let mut writer = writer.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(
        lines.any(|line| line == "open"),
        "the next user cannot open {}",
        path.display()
    );
    let told = thread::spawn(move || lines.collect::<Vec<_>>());
    // Half of them at once.
    let patience = ChaCha8Rng::seed_from_u64(plan.seed).next_u64();
    thread::sleep(Duration::from_micros(
        patience % if patience % 2 == 0 { 3_000 } else { 60_000 },
    ));
    let kill = Command::new("kill").args([signal, &writer.id().to_string()]).status();
    assert!(kill.unwrap().success());
    writer.wait().unwrap();
    for line in told.join().unwrap() {
        match line.split_once(' ') {
            Some(("step", number)) => model.begin(plan, number.parse().unwrap()),
            Some(("flushed", _)) => model.flush(),
            _ => panic!("{line}"),
        }
    }
    model
}

/// Kills two users of an image, one after the other, and looks at what each has left. Returns whether clusters were leaked.
fn kill_twice(kind: (&str, Origin), seed: u64, signal: &str) -> bool {
    let directory = directory();
    let (path, content) = image(directory.path(), kind, KILLED_SIZE);
    let (mut bytes, mut leaked) = (content.clone(), false);
    for life in 0..2 {
        let what = format!("{kind:?}, seed {seed}, life {life}, kill {signal}");
        let plan = plan(2 * seed + life, (life + 1) << 32);
        let model = kill_once(&path, &plan, Model::new(&bytes), signal);
        leaked |= is_leaked(&path, &what);
        bytes = all(&mut opened(&path, &read_only()));
        model.check(&bytes, &what);
        if kind.1 == Origin::Snapshot {
            check_snapshot(&path, &content, &what);
        }
    }
    // And a third one, who is not.
    let mut disk = writable(&path);
    assert!(all(&mut disk) == bytes, "{kind:?}, seed {seed}: changed by opening");
    disk.write(0, &[9; 4096]).unwrap();
    drop(disk);
    assert!(
        !is_leaked(&path, "closed"),
        "{kind:?}, seed {seed}: leaked after it was closed"
    );
    leaked
}

#[test]
fn a_killed_writer_leaves_a_sound_image_with_all_that_was_flushed() {
    for (seed, kind) in KINDS.into_iter().take(5).enumerate() {
        kill_twice(kind, seed as u64, "-KILL");
    }
}

#[test]
#[ignore = "takes minutes"]
fn three_hundred_killed_writers_leave_sound_images() {
    let mut leaked = 0;
    for seed in 0..150 {
        let signal = ["-KILL", "-KILL", "-KILL", "-HUP", "-TERM"][seed % 5];
        leaked += usize::from(kill_twice(KINDS[seed % KINDS.len()], 100 + seed as u64, signal));
    }
    println!("{leaked} of 150 images had leaked clusters after one of two kills, none was corrupt");
}

/// Below a file system of 3 MiB: fills it, makes room, goes on.
fn fill_the_file_system(directory: &Path) {
    let path = qcow2(directory, 8 * MEBIBYTE);
    let ballast = directory.join("ballast");
    fs::write(&ballast, vec![1; MEBIBYTE as usize]).unwrap();
    let mut disk = writable(&path);
    let mut model = vec![0; 8 * MEBIBYTE as usize];
    let mut refusals = 0;
    for round in 0..96_u64 {
        let (offset, fill) = (round * 65536, round as u8 + 1);
        match disk.write(offset, &vec![fill; 65536]) {
            Ok(()) => model[offset as usize..][..65536].fill(fill),
            Err(BackendError::NoSpace) => {
                // Nothing is known of these blocks, as on a real disk; the others keep what they have.
                disk.read(offset, &mut model[offset as usize..][..65536]).unwrap();
                refusals += 1;
                if refusals == 3 {
                    fs::remove_file(&ballast).unwrap();
                }
            }
            Err(error) => panic!("{error}"),
        }
        match disk.flush() {
            Ok(()) | Err(BackendError::NoSpace) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refusals >= 3, "it was never full");
    disk.discard(0, 4 * MEBIBYTE).unwrap();
    model[..4 * MEBIBYTE as usize].fill(0);
    disk.flush().unwrap();
    assert!(all(&mut disk) == model);
    drop(disk);
    is_leaked(&path, "after it was full");
    assert!(all(&mut opened(&path, &read_only())) == model);
    println!("went on after {refusals} refusals");
}

#[test]
fn a_full_file_system_refuses_writes_and_loses_nothing() {
    let directory = directory();
    let mount = r#"mount -t tmpfs -o size=3m tmpfs "$STORLOCK_DISK_IMAGE" && exec "$@""#;
    let inner = child("fill", directory.path());
    // A mount of its own, for which nobody has to be root.
    let mut outer = Command::new("unshare");
    outer.args(["--map-root-user", "--mount", "sh", "-c", mount, "sh"]);
    outer.arg(inner.get_program()).args(inner.get_args());
    outer.env(TASK, "fill").env(IMAGE, directory.path());
    let output = outer.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if text.contains("unshare") || text.contains("mount:") {
        eprintln!("not tried: this machine lets nobody mount: {text}");
        return;
    }
    assert!(output.status.success() && text.contains("went on after"), "{text}");
}
