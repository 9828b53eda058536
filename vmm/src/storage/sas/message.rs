//! Requests and replies as bytes: little-endian fields at the offsets of the MPI headers.
//!
//! It knows the header that all messages have, and no message.

/// Bytes of a request frame (RequestFrameSize).
pub(crate) const FRAME_SIZE: usize = 128;
/// Bytes of the shortest reply: MSG_DEFAULT_REPLY.
pub(crate) const DEFAULT_REPLY: usize = 20;

/// A request, as it was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame([u8; FRAME_SIZE]);

impl Frame {
    /// A frame of these bytes; those behind them are 0, those that do not fit are dropped.
    #[must_use]
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut frame = [0; FRAME_SIZE];
        let length = bytes.len().min(FRAME_SIZE);
        frame[..length].copy_from_slice(&bytes[..length]);
        Self(frame)
    }

    /// All of it.
    #[must_use]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.0[at..at + N]);
        field
    }

    pub(super) fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    /// Function.
    #[must_use]
    pub(crate) fn function(&self) -> u8 {
        self.u8(3)
    }

    /// MsgContext.
    #[must_use]
    pub(crate) fn context(&self) -> u32 {
        self.u32(8)
    }

    /// TargetID and Bus of SCSI I/O and task management.
    pub(super) fn target(&self) -> (u8, u8) {
        (self.u8(0), self.u8(1))
    }

    /// LUN of SCSI I/O and task management. Only its second byte counts, as for QEMU's controller: SeaBIOS sets that one
    /// alone, and means to clear the others, but its compiler's `rep stos` clears them in the caller's ES, not on its stack.
    pub(super) fn lun(&self) -> [u8; 8] {
        [0, self.0[0x0d], 0, 0, 0, 0, 0, 0]
    }

    /// CDB of SCSI I/O.
    pub(super) fn cdb(&self) -> [u8; 16] {
        self.array(0x18)
    }
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply(Vec<u8>);

impl Reply {
    /// A reply of so many bytes (a multiple of 4) that repeats the request's header, with IOCStatus SUCCESS.
    #[must_use]
    pub(super) fn to(frame: &Frame, length: usize) -> Self {
        let mut bytes = vec![0; length];
        bytes[..12].copy_from_slice(&frame.0[..12]);
        // MsgLength in dwords, instead of ChainOffset; MsgFlags are of the reply's own.
        (bytes[2], bytes[7]) = ((length / 4) as u8, 0);
        Self(bytes)
    }

    /// MSG_DEFAULT_REPLY with that IOCStatus.
    pub(super) fn with_status(frame: &Frame, status: u16) -> Self {
        Self::to(frame, DEFAULT_REPLY).status(status)
    }

    /// The same with that IOCStatus.
    pub(super) fn status(self, status: u16) -> Self {
        self.put(0x0e, &status.to_le_bytes())
    }

    /// IOCStatus.
    pub(super) fn ioc_status(&self) -> u16 {
        match self.0.get(0x0e..0x10) {
            Some(&[low, high]) => u16::from_le_bytes([low, high]),
            _ => 0,
        }
    }

    /// MsgContext, which it repeats.
    pub(super) fn context(&self) -> u32 {
        match self.0.get(8..0x0c) {
            Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
            _ => 0,
        }
    }

    /// The same with these bytes at that offset.
    pub(super) fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// All of it.
    #[must_use]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
