//! What an image is like after its user was killed, and on a full file system. What must be apart from other tests runs in
//! a child: this program once more, told what to do by environment variables.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::*;

const TASK: &str = "STORLOCK_DISK_TASK";
const IMAGE: &str = "STORLOCK_DISK_IMAGE";

/// The image that the killed process writes: its blocks hold the number of the step that wrote them last.
const KILLED_SIZE: u64 = 4 * MEBIBYTE;
const BLOCKS: u64 = KILLED_SIZE / 512;
/// Steps between two flushes.
const FLUSH_STEPS: u64 = 8;

fn child(task: &str, image: &Path) -> Command {
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
        "fill" => fill_the_file_system(Path::new(&image)),
        seed => write_until_killed(Path::new(&image), seed.parse().unwrap()),
    }
}

/// The blocks that a step changes: even ones are written, odd ones written or discarded.
fn step(seed: u64, number: u64) -> (u64, bool) {
    let choice = ChaCha8Rng::seed_from_u64((seed << 40) ^ number).next_u64();
    (choice % BLOCKS, (choice >> 32) % 4 == 0)
}

fn write_until_killed(path: &Path, seed: u64) {
    let mut disk = writable(path);
    let mut out = std::io::stdout();
    for number in 1.. {
        let (block, discard) = step(seed, number);
        if discard && block % 2 == 1 {
            // Whole clusters, so that some are freed; the even blocks among them are spared.
            disk.discard(block * 512, 512).unwrap();
            if block % 64 == 1 {
                disk.discard(KILLED_SIZE / 2, 65536).unwrap();
            }
        } else if block * 512 < KILLED_SIZE / 2 || block * 512 >= KILLED_SIZE / 2 + 65536 {
            disk.write(block * 512, &number.to_le_bytes().repeat(64)).unwrap();
        } else {
            disk.write(KILLED_SIZE / 2, &vec![1; 65536]).unwrap();
        }
        if number % FLUSH_STEPS == 0 {
            disk.flush().unwrap();
            writeln!(out, "\nflushed {number}").unwrap();
        }
    }
}

/// Starts the writer, kills it after a while, and looks at what it has left. Returns whether clusters were leaked.
fn kill_once(path: &Path, seed: u64) -> bool {
    let mut writer = child(&seed.to_string(), path).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let flushed = |line: String| {
        line.strip_prefix("flushed ")
            .and_then(|number| number.parse::<u64>().ok())
    };
    let mut last = lines.by_ref().find_map(flushed).unwrap();
    std::thread::sleep(Duration::from_micros(step(seed, 0).0 * 20));
    writer.kill().unwrap();
    writer.wait().unwrap();
    last = lines.filter_map(flushed).last().unwrap_or(last);

    let check = Command::new("qemu-img").args(["check", text(path)]).output().unwrap();
    // 3: clusters are leaked, nothing is corrupt (qemu-img(1)).
    let code = check.status.code();
    assert!(
        matches!(code, Some(0 | 3)),
        "seed {seed}: {}",
        String::from_utf8_lossy(&check.stdout)
    );
    let bytes = all(&mut opened(path, &read_only()));
    let mut promised = vec![0; BLOCKS as usize];
    for number in 1..=last {
        let (block, _) = step(seed, number);
        promised[block as usize] = number;
    }
    for (block, content) in bytes.chunks(512).enumerate().step_by(2) {
        let place = block as u64 * 512;
        if (KILLED_SIZE / 2..KILLED_SIZE / 2 + 65536).contains(&place) {
            continue;
        }
        let stamp = u64::from_le_bytes(content[..8].try_into().unwrap());
        assert!(
            content == stamp.to_le_bytes().repeat(64),
            "seed {seed}: block {block} is torn"
        );
        let newer = stamp > last && step(seed, stamp).0 == block as u64;
        let kept = stamp == promised[block];
        assert!(
            kept || newer,
            "seed {seed}: block {block} holds {stamp}, flushed {last}, {}",
            promised[block]
        );
    }
    code == Some(3)
}

#[test]
fn a_killed_writer_leaves_a_sound_image_with_all_that_was_flushed() {
    let directory = directory();
    for seed in 0..4 {
        kill_once(&qcow2(directory.path(), KILLED_SIZE), seed);
    }
}

#[test]
#[ignore = "takes minutes"]
fn a_hundred_killed_writers_leave_sound_images() {
    let directory = directory();
    let leaked = (100..200)
        .filter(|&seed| kill_once(&qcow2(directory.path(), KILLED_SIZE), seed))
        .count();
    println!("{leaked} of 100 images had leaked clusters, none was corrupt");
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
    let check = Command::new("qemu-img").args(["check", text(&path)]).output().unwrap();
    assert!(
        matches!(check.status.code(), Some(0 | 3)),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
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
