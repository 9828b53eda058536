//! An initiator for tests: one command at a time, with memory of its own.

use vm_memory::VolatileSlice;

use crate::storage::backend::{Backend, BackendError, MemoryBackend};
use crate::storage::scsi::{Completion, Data, Initiator, LogicalUnit, Request, Target, UnitConfig};

/// Size of the disk of [`Bench::new`] in bytes.
pub(super) const DISK: usize = 1 << 20;
pub(super) const BLOCK: usize = 512;
/// Two initiators.
pub(super) const ME: Initiator = Initiator(0x3000_0000_0000_00a0);
pub(super) const OTHER: Initiator = Initiator(0x3000_0000_0000_00b0);
/// What the initiator's memory is full of before a command.
pub(super) const UNTOUCHED: u8 = 0xa5;

/// Sense data as an initiator reads them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) key: u8,
    pub(super) code: u16,
    /// Whether it is in the command descriptor block, the byte, and the bit.
    pub(super) field: Option<(bool, u16, Option<u8>)>,
    pub(super) information: Option<u64>,
}

pub(super) struct Bench {
    pub(super) target: Target,
}

impl Bench {
    /// A disk in memory; both initiators know of the power-on.
    pub(super) fn new() -> Self {
        Self::with_backend(Box::new(MemoryBackend::new(DISK)))
    }

    pub(super) fn with_backend(backend: Box<dyn Backend>) -> Self {
        let mut bench = Self::cold(UnitConfig::default(), backend);
        for initiator in [ME, OTHER] {
            assert_eq!(bench.reason_of(initiator, &[0; 6]).unwrap().code, 0x2901);
        }
        bench
    }

    pub(super) fn cold(config: UnitConfig, backend: Box<dyn Backend>) -> Self {
        let unit = LogicalUnit::new(config, backend).unwrap();
        Self {
            target: Target::new(unit),
        }
    }

    pub(super) fn request(&mut self, initiator: Initiator, lun: u8, cdb: &[u8], data: Data<'_>) -> Completion {
        self.target.execute(&Request {
            initiator,
            lun: [0, lun, 0, 0, 0, 0, 0, 0],
            cdb,
            data,
        })
    }

    /// A command whose data, at most `room` bytes, come in two pieces of memory.
    pub(super) fn read(&mut self, cdb: &[u8], room: usize) -> (Completion, Vec<u8>) {
        self.read_as(ME, cdb, room)
    }

    pub(super) fn read_as(&mut self, initiator: Initiator, cdb: &[u8], room: usize) -> (Completion, Vec<u8>) {
        let mut memory = vec![UNTOUCHED; room];
        let whole = VolatileSlice::from(&mut memory[..]);
        let pieces = [
            whole.subslice(0, room / 3).unwrap(),
            whole.subslice(room / 3, room - room / 3).unwrap(),
        ];
        let completion = self.request(initiator, 0, cdb, Data::In(&pieces));
        (completion, memory)
    }

    /// A command that brings data along.
    pub(super) fn write_as(&mut self, initiator: Initiator, cdb: &[u8], data: &[u8]) -> Completion {
        let mut memory = data.to_vec();
        let pieces = [VolatileSlice::from(&mut memory[..])];
        let completion = self.request(initiator, 0, cdb, Data::Out(&pieces));
        assert_eq!(memory, data, "nobody writes there");
        completion
    }

    pub(super) fn write(&mut self, cdb: &[u8], data: &[u8]) -> Completion {
        self.write_as(ME, cdb, data)
    }

    /// The data of a command that succeeds, without those that it did not send.
    #[track_caller]
    pub(super) fn data(&mut self, cdb: &[u8]) -> Vec<u8> {
        let (completion, mut data) = self.read(cdb, 1 << 16);
        assert_eq!((completion.status, completion.sense), (0, vec![]));
        assert!(
            data[completion.transferred as usize..]
                .iter()
                .all(|byte| *byte == UNTOUCHED)
        );
        data.truncate(completion.transferred as usize);
        data
    }

    #[track_caller]
    pub(super) fn write_ok(&mut self, cdb: &[u8], data: &[u8]) {
        let completion = self.write(cdb, data);
        assert_eq!((completion.status, completion.sense), (0, vec![]));
    }

    /// Why a command without data is not done; `None` if it is.
    pub(super) fn reason_of(&mut self, initiator: Initiator, cdb: &[u8]) -> Option<Reason> {
        reason(&self.request(initiator, 0, cdb, Data::None))
    }
}

/// What the completion tells, in either format.
pub(super) fn reason(completion: &Completion) -> Option<Reason> {
    let sense = &completion.sense;
    if completion.status != 0x02 {
        assert!(sense.is_empty());
        return None;
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let pointer = |bytes: &[u8]| {
        let bit = (bytes[0] & 8 != 0).then_some(bytes[0] & 7);
        (bytes[0] & 0x80 != 0).then(|| (bytes[0] & 0x40 != 0, number(&bytes[1..3]) as u16, bit))
    };
    if sense[0] & 0x7f == 0x70 {
        assert_eq!((sense.len(), sense[7]), (18, 10));
        return Some(Reason {
            key: sense[2],
            code: number(&sense[12..14]) as u16,
            field: pointer(&sense[15..18]),
            information: (sense[0] & 0x80 != 0).then(|| number(&sense[3..7])),
        });
    }
    assert_eq!((sense[0], sense.len()), (0x72, 8 + usize::from(sense[7])));
    let (mut field, mut information, mut rest) = (None, None, &sense[8..]);
    while let [kind, length, ..] = *rest {
        let (descriptor, tail) = rest.split_at(2 + usize::from(length));
        match kind {
            0 => information = Some(number(&descriptor[4..12])),
            2 => field = pointer(&descriptor[4..7]),
            _ => panic!("a descriptor of kind {kind}"),
        }
        rest = tail;
    }
    Some(Reason {
        key: sense[1],
        code: number(&sense[2..4]) as u16,
        field,
        information,
    })
}

/// Expects a sense key and code.
#[track_caller]
pub(super) fn fails(completion: &Completion, key: u8, code: u16) {
    let reason = reason(completion).expect("CHECK CONDITION");
    assert_eq!((reason.key, reason.code), (key, code), "{reason:x?}");
}

/// READ(10), WRITE(10) and others of their form.
pub(super) fn cdb10(opcode: u8, flags: u8, block: u32, count: u16) -> [u8; 10] {
    let ([a, b, c, d], [high, low]) = (block.to_be_bytes(), count.to_be_bytes());
    [opcode, flags, a, b, c, d, 0, high, low, 0]
}

/// READ(16), WRITE(16) and others of their form.
pub(super) fn cdb16(opcode: u8, flags: u8, block: u64, count: u32) -> Vec<u8> {
    [
        &[opcode, flags][..],
        &block.to_be_bytes(),
        &count.to_be_bytes(),
        &[0, 0],
    ]
    .concat()
}

/// A disk that does nothing but fail.
pub(super) struct Broken {
    pub(super) read_only: bool,
    pub(super) error: fn() -> BackendError,
}

impl Backend for Broken {
    fn len(&self) -> u64 {
        DISK as u64
    }
    fn is_read_only(&self) -> bool {
        self.read_only
    }
    fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), BackendError> {
        Err((self.error)())
    }
    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), BackendError> {
        Err((self.error)())
    }
    fn flush(&mut self) -> Result<(), BackendError> {
        Err((self.error)())
    }
    fn write_zeroes(&mut self, _: u64, _: u64, _: bool) -> Result<(), BackendError> {
        Err((self.error)())
    }
}
