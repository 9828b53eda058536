//! The IOC and its port: what the host is told of them (IOC Facts, Port Facts), and what it has told (IOC Init, Port
//! Enable). It must not know disks.

use std::sync::Arc;

use super::message::{DEFAULT_REPLY, FRAME_SIZE, Frame, Reply};
use super::registers::{GLOBAL_CREDITS, HIGH_PRIORITY_DEPTH, REPLY_QUEUE_DEPTH, RegisterFile};
use super::sgl::MAX_CHAIN_DEPTH;
use super::spec::{
    HEADER_VERSION, PRODUCT_ID, VERSION, ioc_state, ioc_status, iocfacts_capability, portfacts, who_init,
};

/// Bytes of the replies.
const IOC_FACTS_REPLY: usize = 0x50;
const PORT_FACTS_REPLY: usize = 0x28;
/// BlockSize: request frames are fetched by 64 bytes.
const BLOCK_SIZE: u8 = 16;
/// ReplyFrameSize: a frame holds MsgLength and Function at least. SeaBIOS gives frames of that size.
const SMALLEST_REPLY_FRAME: u16 = 4;
/// FWVersion: 1.33.0.0, major in the highest byte; drivers of the family ask for 1.x.
const FIRMWARE_VERSION: u32 = 0x0121_0000;

/// What IOC Init has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Initialisation {
    /// Who has initialised.
    who_init: u8,
    /// Upper halves of the addresses of requests and replies.
    host_mfa_high: u32,
    /// Upper halves of the addresses of sense buffers.
    sense_buffer_high: u32,
    /// Bytes of a reply frame.
    pub(super) reply_frame_size: u16,
    /// MaxDevices.
    max_devices: u8,
    /// MaxBuses.
    max_buses: u8,
}

impl Default for Initialisation {
    fn default() -> Self {
        Self {
            who_init: who_init::NO_ONE,
            host_mfa_high: 0,
            sense_buffer_high: 0,
            reply_frame_size: 0,
            max_devices: 0,
            max_buses: 0,
        }
    }
}

impl Initialisation {
    /// Guest-physical address of a message frame.
    pub(super) fn frame_address(&self, low: u32) -> u64 {
        u64::from(self.host_mfa_high) << 32 | u64::from(low)
    }

    /// Guest-physical address of a sense buffer.
    pub(super) fn sense_address(&self, low: u32) -> u64 {
        u64::from(self.sense_buffer_high) << 32 | u64::from(low)
    }
}

/// What there is to save of [`Ioc`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct IocState {
    initialisation: Initialisation,
    /// Port Enable was sent.
    port_enabled: bool,
}

/// The IOC and its port.
pub(super) struct Ioc {
    registers: Arc<RegisterFile>,
    /// Target identifiers that there can be.
    device_limit: u8,
    state: IocState,
}

impl Ioc {
    pub(super) fn new(registers: Arc<RegisterFile>, device_limit: u8) -> Self {
        Self {
            registers,
            device_limit,
            state: IocState::default(),
        }
    }

    /// As after power on.
    pub(super) fn reset(&mut self) {
        self.state = IocState::default();
    }

    /// What IOC Init has told.
    pub(super) fn initialisation(&self) -> &Initialisation {
        &self.state.initialisation
    }

    /// IOC Facts. `listens`: the host has turned event notification on.
    pub(super) fn facts(&self, frame: &Frame, listens: bool) -> Reply {
        let known = &self.state.initialisation;
        Reply::to(frame, IOC_FACTS_REPLY)
            .put(0x00, &VERSION.to_le_bytes())
            .put(0x04, &HEADER_VERSION.to_le_bytes())
            .put(0x14, &[MAX_CHAIN_DEPTH, known.who_init, BLOCK_SIZE, 0])
            .put(0x18, &REPLY_QUEUE_DEPTH.to_le_bytes())
            .put(0x1a, &((FRAME_SIZE / 4) as u16).to_le_bytes())
            .put(0x1e, &PRODUCT_ID.to_le_bytes())
            .put(0x20, &known.host_mfa_high.to_le_bytes())
            .put(0x24, &GLOBAL_CREDITS.to_le_bytes())
            // NumberOfPorts, EventState.
            .put(0x26, &[1, u8::from(listens)])
            .put(0x28, &known.sense_buffer_high.to_le_bytes())
            .put(0x2c, &known.reply_frame_size.to_le_bytes())
            .put(0x2e, &[self.device_limit, 1])
            .put(0x34, &iocfacts_capability::HIGH_PRI_Q.to_le_bytes())
            .put(0x38, &FIRMWARE_VERSION.to_le_bytes())
            .put(0x3c, &HIGH_PRIORITY_DEPTH.to_le_bytes())
    }

    /// IOC Init: from READY to OPERATIONAL. MaxDevices and MaxBuses are what the host is able to serve; hosts that serve more
    /// than there can be say so (the older drivers of FreeBSD and NetBSD name 16 devices, newer ones 0, which is 256).
    pub(super) fn initialise(&mut self, frame: &Frame) -> Reply {
        let reply = Reply::to(frame, DEFAULT_REPLY);
        let told = Initialisation {
            who_init: frame.u8(0x00),
            max_devices: frame.u8(0x05),
            max_buses: frame.u8(0x06),
            reply_frame_size: frame.u16(0x0c),
            host_mfa_high: frame.u32(0x10),
            sense_buffer_high: frame.u32(0x14),
        };
        let mut registers = self.registers.lock();
        if registers.ioc_state != ioc_state::READY || registers.reset.is_some() {
            return reply.status(ioc_status::INVALID_STATE);
        }
        let known = (who_init::NO_ONE + 1..=who_init::MANUFACTURER).contains(&told.who_init);
        if !known || told.reply_frame_size < SMALLEST_REPLY_FRAME {
            return reply.status(ioc_status::INVALID_FIELD);
        }
        self.state.initialisation = told;
        (registers.ioc_state, registers.who_init) = (ioc_state::OPERATIONAL, told.who_init);
        reply
    }

    /// Port Facts.
    pub(super) fn port_facts(&self, frame: &Frame) -> Reply {
        let reply = Reply::to(frame, PORT_FACTS_REPLY);
        if frame.u8(0x06) != 0 {
            return reply.status(ioc_status::INVALID_FIELD);
        }
        let devices = u16::from(self.device_limit).to_le_bytes();
        reply
            .put(0x15, &[portfacts::PORTTYPE_SAS])
            .put(0x16, &devices)
            // PortSCSIID: identifiers up to this one.
            .put(0x18, &devices)
            .put(0x1a, &portfacts::PROTOCOL_INITIATOR.to_le_bytes())
            // MaxPersistentIDs.
            .put(0x1e, &devices)
    }

    /// Port Enable: discovery is done at once.
    pub(super) fn port_enable(&mut self, frame: &Frame) -> Reply {
        let operational = self.registers.lock().is_operational();
        let status = match frame.u8(0x06) {
            0 if operational => ioc_status::SUCCESS,
            0 => ioc_status::INVALID_STATE,
            _ => ioc_status::INVALID_FIELD,
        };
        self.state.port_enabled |= status == ioc_status::SUCCESS;
        Reply::with_status(frame, status)
    }
}
