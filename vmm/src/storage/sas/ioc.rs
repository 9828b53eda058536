//! Messages about the IOC and its port: IOC Facts, IOC Init, Port Facts, Port Enable, SAS I/O Unit Control.

use super::config::SasConfig;
use super::controller::Controller;
use super::message::{DEFAULT_REPLY, FRAME_SIZE, Frame, Reply};
use super::registers::{GLOBAL_CREDITS, HIGH_PRIORITY_DEPTH, REPLY_QUEUE_DEPTH};
use super::sgl::MAX_CHAIN_DEPTH;
use super::spec::{
    HEADER_VERSION, PRODUCT_ID, VERSION, ioc_state, ioc_status, iocfacts_capability, portfacts, sas_op, who_init,
};
use super::state::Initialisation;

/// Bytes of the replies.
const IOC_FACTS_REPLY: usize = 0x50;
const PORT_FACTS_REPLY: usize = 0x28;
/// BlockSize: request frames are fetched by 64 bytes.
const BLOCK_SIZE: u8 = 16;
/// FWVersion: 1.33.0.0, major in the highest byte; drivers of the family ask for 1.x.
const FIRMWARE_VERSION: u32 = 0x0121_0000;

impl Controller {
    /// IOC Facts.
    pub(super) fn ioc_facts(&mut self, frame: &Frame) -> Reply {
        let known = &self.state.initialisation;
        let listens = self.state.events.listener.is_some();
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
            .put(0x2e, &[self.device_limit(), 1])
            .put(0x34, &iocfacts_capability::HIGH_PRI_Q.to_le_bytes())
            .put(0x38, &FIRMWARE_VERSION.to_le_bytes())
            .put(0x3c, &HIGH_PRIORITY_DEPTH.to_le_bytes())
    }

    /// Target identifiers that there can be.
    pub(super) fn device_limit(&self) -> u8 {
        SasConfig::phys(self.disks.len()) as u8
    }

    /// IOC Init: from READY to OPERATIONAL.
    pub(super) fn ioc_init(&mut self, frame: &Frame) -> Reply {
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
        if !known || usize::from(told.reply_frame_size) < DEFAULT_REPLY || told.max_devices > self.device_limit() {
            return reply.status(ioc_status::INVALID_FIELD);
        }
        self.state.initialisation = told;
        (registers.ioc_state, registers.who_init) = (ioc_state::OPERATIONAL, told.who_init);
        reply
    }

    /// Port Facts.
    pub(super) fn port_facts(&mut self, frame: &Frame) -> Reply {
        let reply = Reply::to(frame, PORT_FACTS_REPLY);
        if frame.u8(0x06) != 0 {
            return reply.status(ioc_status::INVALID_FIELD);
        }
        let devices = u16::from(self.device_limit()).to_le_bytes();
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

    /// SAS I/O Unit Control: links and mappings. Mappings cannot be forgotten: a disk has the identifier of its phy.
    pub(super) fn sas_io_unit_control(&mut self, frame: &Frame) -> Reply {
        let phy = usize::from(frame.u8(0x0e));
        let status = match frame.u8(0x00) {
            sas_op::PHY_LINK_RESET | sas_op::PHY_HARD_RESET if phy >= self.device_limit().into() => {
                ioc_status::INVALID_FIELD
            }
            sas_op::CLEAR_NOT_PRESENT
            | sas_op::CLEAR_ALL_PERSISTENT
            | sas_op::PHY_CLEAR_ERROR_LOG
            | sas_op::PHY_LINK_RESET
            | sas_op::REMOVE_DEVICE => ioc_status::SUCCESS,
            sas_op::PHY_HARD_RESET => {
                self.reset_disk(phy);
                ioc_status::SUCCESS
            }
            _ => ioc_status::INVALID_FIELD,
        };
        Reply::with_status(frame, status)
    }
}
