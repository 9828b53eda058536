//! The multi-stream file that a PDB is (MSF 7.00; Microsoft's published `microsoft-pdb`, and LLVM's "The MSF File
//! Format"): streams made of the file's blocks, in the order that a directory lists.
//!
//! Talks to an open file. It must not know what is in a stream. Streams are read when needed and not kept. Only the
//! directory is held in memory, and its size is limited.

use std::io::{self, Read, Seek, SeekFrom};

use super::PdbError;

const MAGIC: &[u8; 32] = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0";
/// The header: magic, block size, free block map, number of blocks, bytes of the directory, unknown, block map.
const HEADER: usize = 56;
/// Block sizes that linkers use, in bytes, each a power of two.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 512..=32768;
/// The largest file, in bytes. The PDBs of Windows' kernels have about 15 MB, those of large applications 1 GB.
const MAX_FILE: u64 = 4 << 30;
/// The largest directory, in bytes: 4 for each stream and for each block of the file.
const MAX_DIRECTORY: u32 = 16 << 20;
/// More streams than this no file has: a few, and one a compiled file.
const MAX_STREAMS: u32 = 0xffff;
/// The size that says that there is no such stream.
const NO_STREAM: u32 = u32::MAX;

/// An open file.
#[derive(Debug)]
pub(super) struct Msf<F> {
    file: F,
    block_size: u32,
    blocks: u32,
    directory: Vec<u32>,
    /// Of each stream its size and where in the directory its blocks begin.
    streams: Vec<(u32, usize)>,
}

impl<F: Read + Seek> Msf<F> {
    /// Reads header and directory.
    pub(super) fn open(mut file: F) -> Result<Self, PdbError> {
        let length = file.seek(SeekFrom::End(0))?;
        if length > MAX_FILE {
            return Err(PdbError::malformed(format!(
                "it has {length} bytes, more than {MAX_FILE} that are read of one"
            )));
        }
        let mut header = [0; HEADER];
        read_at(&mut file, 0, &mut header)?;
        if !header.starts_with(MAGIC) {
            return Err(PdbError::malformed("it does not start as a PDB (MSF 7.00)"));
        }
        let field = |at: usize| u32_at(&header, at).unwrap_or(0);
        let (block_size, blocks, bytes, map) = (field(32), field(40), field(44), field(52));
        if !block_size.is_power_of_two() || !BLOCK_SIZES.contains(&block_size) {
            return Err(PdbError::malformed(format!("its blocks have {block_size} bytes")));
        }
        if u64::from(blocks) * u64::from(block_size) > length {
            return Err(PdbError::malformed(format!(
                "it is cut off: {blocks} blocks of {block_size} bytes do not fit in {length} bytes"
            )));
        }
        if bytes > MAX_DIRECTORY || bytes % 4 != 0 || u64::from(bytes) > length {
            return Err(PdbError::malformed(format!("a stream directory of {bytes} bytes")));
        }
        let mut msf = Self {
            file,
            block_size,
            blocks,
            directory: Vec::new(),
            streams: Vec::new(),
        };
        msf.read_directory(bytes, map)?;
        msf.list_streams()?;
        Ok(msf)
    }

    fn read_directory(&mut self, bytes: u32, map: u32) -> Result<(), PdbError> {
        let listed = bytes.div_ceil(self.block_size);
        let mut list = vec![0; listed as usize * 4];
        let start = self.block(map)?;
        self.block(map.saturating_add(listed.saturating_mul(4).div_ceil(self.block_size).saturating_sub(1)))?;
        read_at(&mut self.file, start, &mut list)?;
        let mut block = vec![0; self.block_size as usize];
        for number in words(&list) {
            let start = self.block(number)?;
            read_at(&mut self.file, start, &mut block)?;
            self.directory.extend(words(&block));
        }
        self.directory.truncate(bytes as usize / 4);
        Ok(())
    }

    fn list_streams(&mut self) -> Result<(), PdbError> {
        let short = || PdbError::malformed("its stream directory is too short for its streams");
        let (&count, rest) = self.directory.split_first().ok_or_else(short)?;
        if count > MAX_STREAMS {
            return Err(PdbError::malformed(format!("{count} streams")));
        }
        let sizes = rest.get(..count as usize).ok_or_else(short)?;
        let mut first = 1 + sizes.len();
        let all = u64::from(self.blocks) * u64::from(self.block_size);
        for (number, &size) in sizes.iter().enumerate() {
            let size = if size == NO_STREAM { 0 } else { size };
            if u64::from(size) > all {
                return Err(PdbError::malformed(format!(
                    "stream {number} of {size} bytes in a file of {all}"
                )));
            }
            self.streams.push((size, first));
            first += size.div_ceil(self.block_size) as usize;
        }
        if first > self.directory.len() {
            return Err(short());
        }
        Ok(())
    }

    /// Where a block begins.
    fn block(&self, number: u32) -> Result<u64, PdbError> {
        if number >= self.blocks {
            return Err(PdbError::malformed(format!(
                "block {number} is named, there are {}",
                self.blocks
            )));
        }
        Ok(u64::from(number) * u64::from(self.block_size))
    }

    /// Bytes of a stream; 0 if there is none of that number.
    pub(super) fn size(&self, stream: u16) -> u32 {
        self.streams.get(usize::from(stream)).map_or(0, |&(size, _)| size)
    }

    /// Fills `buffer` from a stream's bytes from `offset` on.
    pub(super) fn read(&mut self, stream: u16, offset: u32, buffer: &mut [u8]) -> Result<(), PdbError> {
        let ends = || {
            PdbError::malformed(format!(
                "stream {stream} ends before offset {offset:#x} plus what is there"
            ))
        };
        let &(size, first) = self.streams.get(usize::from(stream)).ok_or_else(ends)?;
        let length = u32::try_from(buffer.len()).map_err(|_| ends())?;
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(ends());
        }
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let inside = at % self.block_size;
            let number = self.directory.get(first + (at / self.block_size) as usize);
            let start = self.block(*number.ok_or_else(ends)?)? + u64::from(inside);
            let (now, later) = rest.split_at_mut(rest.len().min((self.block_size - inside) as usize));
            read_at(&mut self.file, start, now)?;
            at += now.len() as u32;
            rest = later;
        }
        Ok(())
    }

    /// A whole stream, if it has `limit` bytes at most.
    pub(super) fn whole(&mut self, stream: u16, limit: u32, what: &str) -> Result<Vec<u8>, PdbError> {
        let size = self.size(stream);
        if size > limit {
            return Err(PdbError::malformed(format!("{what} of {size} bytes")));
        }
        let mut bytes = vec![0; size as usize];
        self.read(stream, 0, &mut bytes)?;
        Ok(bytes)
    }
}

fn read_at(file: &mut (impl Read + Seek), at: u64, buffer: &mut [u8]) -> Result<(), PdbError> {
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            PdbError::malformed(format!("it ends before offset {:#x}", at + buffer.len() as u64))
        }
        _ => error.into(),
    })
}

pub(super) fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).filter_map(|word| u32_at(word, 0))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
