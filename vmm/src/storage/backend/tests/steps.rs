//! A user of a disk that follows a plan, and what the disk may hold after that user was killed at any moment: in each
//! block what it had at the last flush, or anything written there since.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::*;

/// Bytes of a block, which holds the number of the step that wrote it last, again and again; 0 if it was discarded.
const BLOCK: u64 = 512;

/// What is done to a disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Steps from one flush to the next; 0: there is none.
    pub(super) flush_every: u64,
    /// Numbers of earlier users end here.
    pub(super) base: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Blocks, from the first on.
    Write(u64, u64),
    Discard(u64, u64),
    Zero(u64, u64),
    Flush,
}

impl Plan {
    /// What step `number`, counted from 1, is.
    pub(super) fn step(&self, number: u64) -> Step {
        if self.flush_every > 0 && number.is_multiple_of(self.flush_every) {
            return Step::Flush;
        }
        let mut random = ChaCha8Rng::seed_from_u64((self.seed << 24) ^ number);
        let blocks = self.size / BLOCK;
        // Every second one near the beginning, so that places are used again.
        let range = if random.next_u32() % 2 == 0 {
            blocks
        } else {
            blocks / 16
        };
        let first = random.next_u64() % range;
        let longest = if random.next_u32() % 8 == 0 { 512 } else { 40 };
        let count = (1 + random.next_u64() % longest).min(blocks - first);
        match random.next_u32() % 8 {
            0 | 1 => Step::Discard(first / 8 * 8, count.max(8).min(blocks - first / 8 * 8)),
            2 => Step::Zero(first, count),
            _ => Step::Write(first, count),
        }
    }

    /// Does step `number`.
    pub(super) fn act(&self, disk: &mut ImageBackend, number: u64) -> Result<(), BackendError> {
        match self.step(number) {
            Step::Write(first, count) => {
                let mut data = (self.base + number).to_le_bytes().repeat((count * BLOCK / 8) as usize);
                // A guest's memory takes another way than our own.
                if number % 2 == 0 {
                    disk.write(first * BLOCK, &data)
                } else {
                    disk.write_from(first * BLOCK, &pieces(&mut data))
                }
            }
            Step::Discard(first, count) => disk.discard(first * BLOCK, count * BLOCK),
            Step::Zero(first, count) => disk.write_zeroes(first * BLOCK, count * BLOCK, false),
            Step::Flush => disk.flush(),
        }
    }
}

/// What each block may hold.
#[derive(Debug, Clone)]
pub(super) struct Model {
    flushed: Vec<u64>,
    since: Vec<Vec<u64>>,
}

impl Model {
    /// A disk that holds `bytes`, which are safe.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let number = |block: &[u8]| u64::from_le_bytes(block[..8].try_into().unwrap());
        let flushed: Vec<u64> = bytes.chunks(BLOCK as usize).map(number).collect();
        Self {
            since: vec![Vec::new(); flushed.len()],
            flushed,
        }
    }

    /// Step `number` has begun.
    pub(super) fn begin(&mut self, plan: &Plan, number: u64) {
        let (first, count, holds) = match plan.step(number) {
            Step::Write(first, count) => (first, count, plan.base + number),
            Step::Discard(first, count) | Step::Zero(first, count) => (first, count, 0),
            Step::Flush => return,
        };
        for block in &mut self.since[first as usize..(first + count) as usize] {
            block.push(holds);
        }
    }

    /// A step has failed, and the disk holds `bytes` now.
    pub(super) fn look(&mut self, bytes: &[u8]) {
        for (since, holds) in self.since.iter_mut().zip(Self::new(bytes).flushed) {
            since.push(holds);
        }
    }

    /// A flush has ended.
    pub(super) fn flush(&mut self) {
        for (flushed, since) in self.flushed.iter_mut().zip(&mut self.since) {
            if let Some(last) = since.pop() {
                *flushed = last;
                since.clear();
            }
        }
    }

    /// Fails if the disk cannot hold `bytes`.
    pub(super) fn check(&self, bytes: &[u8], what: &str) {
        for (block, content) in bytes.chunks(BLOCK as usize).enumerate() {
            let number = u64::from_le_bytes(content[..8].try_into().unwrap());
            let (flushed, since) = (self.flushed[block], &self.since[block]);
            assert!(
                flushed == number || since.contains(&number),
                "{what}: block {block} holds {number}, flushed {flushed}, then {since:?}"
            );
            assert!(
                content.chunks(8).all(|piece| piece == &content[..8]),
                "{what}: block {block} is torn"
            );
        }
    }
}

/// What an image is like before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Empty,
    /// Its content is in another image below it.
    Backed,
    Compressed,
    /// A snapshot within the image has the same content.
    Snapshot,
}

/// Kinds of images: what `qemu-img create` is told, and the content.
pub(super) const KINDS: [(&str, Origin); 14] = [
    ("cluster_size=512", Origin::Empty),
    ("cluster_size=65536", Origin::Empty),
    ("cluster_size=4096", Origin::Snapshot),
    ("cluster_size=4096", Origin::Backed),
    ("cluster_size=4096", Origin::Compressed),
    ("cluster_size=512,refcount_bits=64", Origin::Empty),
    ("cluster_size=4096,refcount_bits=1", Origin::Empty),
    ("cluster_size=4096,preallocation=metadata", Origin::Empty),
    ("cluster_size=1024,refcount_bits=8", Origin::Snapshot),
    ("cluster_size=512", Origin::Backed),
    ("cluster_size=16384,refcount_bits=4", Origin::Empty),
    ("cluster_size=65536", Origin::Snapshot),
    ("cluster_size=2048,lazy_refcounts=on", Origin::Compressed),
    ("cluster_size=2M", Origin::Backed),
];

/// An image of that kind and what is on it.
pub(super) fn image(directory: &Path, (options, origin): (&str, Origin), size: u64) -> (PathBuf, Vec<u8>) {
    let path = directory.join("disk.qcow2");
    let source = directory.join("source.img");
    let mut content = vec![0; size as usize];
    if origin != Origin::Empty {
        for (block, bytes) in content
            .chunks_mut(BLOCK as usize)
            .enumerate()
            .filter(|(block, _)| block % 5 != 0)
        {
            bytes.copy_from_slice(&(1 << 60 | block as u64).to_le_bytes().repeat(BLOCK as usize / 8));
        }
        fs::write(&source, &content).unwrap();
    }
    let (size, create) = (size.to_string(), ["create", "-q", "-f", "qcow2", "-o", options]);
    let convert = ["convert", "-O", "qcow2", "-o", options];
    match origin {
        Origin::Empty => qemu_img(&[&create[..], &[text(&path), &size]].concat()),
        Origin::Backed => qemu_img(&[&create[..], &["-b", "source.img", "-F", "raw", text(&path)]].concat()),
        Origin::Compressed => qemu_img(&[&convert[..], &["-c", text(&source), text(&path)]].concat()),
        Origin::Snapshot => qemu_img(&[&convert[..], &[text(&source), text(&path)]].concat()),
    };
    if origin == Origin::Snapshot {
        qemu_img(&["snapshot", "-c", "before", text(&path)]);
    }
    (path, content)
}

/// Fails if `qemu-img check` finds more than leaked clusters. Returns whether it finds those.
pub(super) fn is_leaked(path: &Path, what: &str) -> bool {
    let began = Instant::now();
    loop {
        let check = Command::new("qemu-img").args(["check", text(path)]).output().unwrap();
        let said = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
        match check.status.code() {
            Some(0) => return false,
            // Clusters are leaked, nothing is corrupt (qemu-img(1)).
            Some(3) => return true,
            // See `settled`.
            _ => assert!(said.contains("lock") && began.elapsed() < PATIENCE, "{what}: {said}"),
        }
    }
}

/// Fails if the snapshot within the image does not hold `content` any more.
pub(super) fn check_snapshot(path: &Path, content: &[u8], what: &str) {
    let copy = path.with_extension("snapshot");
    qemu_img(&["convert", "-l", "before", "-O", "raw", text(path), text(&copy)]);
    assert!(fs::read(copy).unwrap() == content, "{what}: the snapshot has changed");
}
