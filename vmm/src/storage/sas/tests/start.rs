//! The starts of drivers by others, access by access, each as its public source has it. `docs/sas-start.md` names the
//! sources and what was found.

use super::harness::*;
use crate::storage::sas::spec::{doorbell, function, his, ioc_state, offset};
use crate::storage::sas::{MAX_DISKS, SasConfig};

const READY: u32 = ioc_state::READY;
const OPERATIONAL: u32 = ioc_state::OPERATIONAL;
/// IOCStatus of a target identifier that there is no disk for.
const NOT_THERE: u16 = 0x43;

fn state(driver: &mut Driver) -> u32 {
    driver.get(offset::DOORBELL) & 0xf000_0000
}

fn cold(disks: usize) -> Driver {
    Driver::cold(SasConfig::default(), disks)
}

/// IOC Init: what the drivers tell apart.
struct Init {
    who: u8,
    devices: u8,
    buses: u8,
    reply_frame: u16,
    /// Bytes of the message.
    length: usize,
}

impl Init {
    fn message(&self) -> Vec<u8> {
        let mut init = message(function::IOC_INIT);
        (init[0], init[5], init[6]) = (self.who, self.devices, self.buses);
        init[0x0c..0x0e].copy_from_slice(&self.reply_frame.to_le_bytes());
        init.truncate(self.length);
        init
    }
}

/// A request for a page: extended ones have a kind of 10h or more. The buffer is `length` bytes at [`DATA`].
fn config(action: u8, kind: u8, number: u8, address: u32, length: usize) -> Vec<u8> {
    let mut request = message(function::CONFIG);
    request[0] = action;
    (request[6], request[0x17]) = if kind >= 0x10 { (kind, 0x0f) } else { (0, kind) };
    request[0x16] = number;
    request[0x18..0x1c].copy_from_slice(&address.to_le_bytes());
    request[0x1c..0x24].copy_from_slice(&simple(DATA, length));
    request
}

/// A page as those drivers read one: a header for `header_address`, then as many bytes as that tells.
#[track_caller]
fn page(driver: &mut Driver, kind: u8, number: u8, header_address: u32, address: u32) -> Vec<u8> {
    let header = driver.run(&config(0, kind, number, header_address, 0)).frame();
    assert_eq!(ioc_status(&header), 0, "header {kind:#x} {number}");
    let dwords = if kind >= 0x10 {
        usize::from(u16_at(&header, 4))
    } else {
        header[0x15].into()
    };
    assert_ne!(dwords, 0);
    let reply = driver.run(&config(1, kind, number, address, 4 * dwords)).frame();
    assert_eq!(ioc_status(&reply), 0, "page {kind:#x} {number} {address:#x}");
    driver.bytes(DATA, 4 * dwords)
}

/// Which disks INQUIRY finds, target by target; the first commands that each is sent.
fn scan(driver: &mut Driver, targets: u8) -> Vec<u8> {
    let mut found = Vec::new();
    for target in 0..targets {
        match driver.run(&scsi(target, &[0x12, 0, 0, 0, 36, 0], Way::In, 36)) {
            Got::Context(_) => found.push(target),
            Got::Frame(frame) => assert_eq!(ioc_status(&frame), NOT_THERE),
        }
    }
    found
}

/// FreeBSD's mpt, whose SAS part reads the topology phy by phy.
#[test]
fn freebsd_finds_the_disks_by_the_topology() {
    for disks in [1, 2, MAX_DISKS] {
        let mut driver = cold(disks);
        assert_eq!(state(&mut driver), READY, "no reset is needed");
        let facts = driver.handshake(&message(function::IOC_FACTS)[..12]);
        assert_eq!((facts.len(), ioc_status(&facts)), (0x50, 0));
        let (credits, chains, ports) = (u16_at(&facts, 0x24), facts[0x14], facts[0x26]);
        assert!(credits > 32 && chains > 0 && u16_at(&facts, 0x1a) == 32);
        for _ in 0..ports {
            let port = driver.handshake(&message(function::PORT_FACTS)[..12]);
            assert_eq!((port[0x15], u16_at(&port, 0x1a) & 8), (0x30, 8), "SAS, initiator");
        }
        let init = Init {
            who: 4,
            devices: 0,
            buses: 16,
            reply_frame: REPLY_SIZE,
            length: 0x2c,
        };
        assert_eq!(ioc_status(&driver.handshake(&init.message())), 0);
        assert_eq!(state(&mut driver), OPERATIONAL);
        for frame in 0..REPLY_FRAMES {
            driver.put(offset::REPLY_QUEUE, (REPLIES + 0x100 * frame) as u32);
        }
        // Events and the port twice: when the IOC is enabled, and when the driver is.
        for _ in 0..2 {
            let mut notify = message(function::EVENT_NOTIFICATION);
            notify[0] = 1;
            let reply = driver.run(&notify).frame();
            assert_eq!((u32_at(&reply, 0x14), reply[7] & 0x80), (0x0a, 0x80), "is kept");
            driver.put(offset::HOST_INTERRUPT_MASK, 1);
            let enabled = driver.run(&message(function::PORT_ENABLE)).frame();
            assert_eq!(ioc_status(&enabled), 0);
            for number in [2, 3] {
                page(&mut driver, 1, number, 0, 0);
            }
        }
        let unit = page(&mut driver, 0x10, 0, 0, 0);
        let mut attached = Vec::new();
        for phy in 0..u32::from(unit[0x0c]) {
            let data = page(&mut driver, 0x13, 0, 0, phy);
            let own = u16_at(&unit[0x10 + 16 * phy as usize..], 0x0a);
            page(&mut driver, 0x12, 0, 0, 2 << 28 | u32::from(own));
            let handle = u16_at(&data, 0x14);
            if handle != 0 {
                let device = page(&mut driver, 0x12, 0, 0, 2 << 28 | u32::from(handle));
                assert_eq!(u16_at(&device, 0x18), handle);
                attached.push(device[0x1a]);
            }
        }
        assert_eq!(attached.len(), disks);
        assert_eq!(scan(&mut driver, facts[0x2e]), attached);
        // Task management goes by the doorbell, and its reply by the queue; a reset by the message first.
        let mut management = message(function::SCSI_TASK_MGMT);
        management[5] = 3;
        driver.send_by_doorbell(&management[..0x34]);
        assert_eq!(driver.reap().expect("a reply").frame()[4], 0);
        driver.put(offset::DOORBELL, 0x40 << 24);
        let status = driver.get(offset::HOST_INTERRUPT_STATUS);
        assert_eq!((status & his::IOP_DOORBELL_STATUS, state(&mut driver)), (0, READY));
        assert_eq!(ioc_status(&driver.handshake(&init.message())), 0);
    }
}

/// What the drivers of FreeBSD and NetBSD name as MaxDevices: 0 stands for 256.
#[test]
fn a_host_may_serve_more_devices_than_there_can_be() {
    for devices in [0, 1, 8, 16, 255] {
        let mut driver = cold(1);
        let init = Init {
            who: 4,
            devices,
            buses: 1,
            reply_frame: 128,
            length: 0x18,
        };
        assert_eq!(ioc_status(&driver.handshake(&init.message())), 0, "{devices}");
        assert_eq!(state(&mut driver), OPERATIONAL);
    }
}

/// The list that OpenBSD makes: elements of 64 bits, as many as fit into the frame and into each further part of 128 bytes;
/// all parts follow each other behind the frame.
fn openbsd_list(request: &mut Vec<u8>, frame: u64, pieces: &[(u64, u32)]) {
    let wide = |flags: u32, low: u32, address: u64| -> Vec<u8> {
        [flags << 24 | low, address as u32, (address >> 32) as u32]
            .iter()
            .flat_map(|dword| dword.to_le_bytes())
            .collect()
    };
    request.truncate(0x30);
    let (in_frame, in_part) = ((128 - 0x30) / 12, 128 / 12);
    let mut rest = pieces;
    let mut room = in_frame;
    if rest.len() > in_frame {
        request[2] = ((0x30 + 12 * (in_frame - 1)) / 4) as u8;
    }
    while !rest.is_empty() {
        let chained = rest.len() > room;
        let (now, later) = rest.split_at(if chained { room - 1 } else { rest.len() });
        for (at, (address, length)) in now.iter().enumerate() {
            let last = match (at + 1 == now.len(), chained) {
                (true, true) => 0x80,
                (true, false) => 0xc1,
                _ => 0,
            };
            request.extend(wide(0x12 | last, *length, *address));
        }
        if chained {
            let next = frame + request.len() as u64 + 12;
            let low = if later.len() > in_part {
                ((12 * (in_part as u32 - 1) / 4) << 16) | (12 * in_part as u32)
            } else {
                12 * later.len() as u32
            };
            request.extend(wide(0x32, low, next));
        }
        (rest, room) = (later, in_part);
    }
}

/// OpenBSD's mpi, which asks for each target by bus and identifier.
#[test]
fn openbsd_asks_for_each_target_and_reads_by_long_chains() {
    let mut driver = cold(2);
    driver.put(offset::HOST_INTERRUPT_MASK, 9);
    assert_eq!(driver.get(offset::DOORBELL) >> 24 & 7, 0, "nobody has it");
    let facts = driver.handshake(&message(function::IOC_FACTS)[..12]);
    let init = Init {
        who: 4,
        devices: facts[0x2e],
        buses: 1,
        reply_frame: 80,
        length: 0x20,
    };
    assert_eq!(ioc_status(&driver.handshake(&init.message())), 0);
    assert_eq!(state(&mut driver), OPERATIONAL);
    for frame in 0..REPLY_FRAMES {
        driver.put(offset::REPLY_QUEUE, (REPLIES + 0x100 * frame) as u32);
    }
    let port = driver.run(&message(function::PORT_FACTS)).frame();
    assert_eq!((port[0x15], ioc_status(&port)), (0x30, 0));
    assert!(
        u16_at(&port, 0x18) >= facts[0x2e].into(),
        "the host's identifier is none of a disk"
    );
    assert_eq!(ioc_status(&driver.run(&message(function::PORT_ENABLE)).frame()), 0);
    assert_eq!(facts[0x17] & 1, 0, "no firmware has to be kept by the host");
    let targets: Vec<u8> = (0..facts[0x2e])
        .filter(|target| {
            let address = 1 << 28 | u32::from(*target);
            // The header has to be there, the page only with a disk.
            let header = driver.run(&config(0, 0x12, 0, address, 0)).frame();
            assert_eq!(ioc_status(&header), 0);
            ioc_status(&driver.run(&config(1, 0x12, 0, address, 0x24)).frame()) == 0
        })
        .collect();
    assert_eq!(targets, [0, 1]);
    assert_eq!(scan(&mut driver, facts[0x2e]), targets);
    page(&mut driver, 1, 2, 0, 0);
    driver.run(&scsi(0, &[0; 6], Way::None, 0));
    for count in [1, 6, 7, 15, 16, 25, 36] {
        let data: Vec<u8> = (0..count * BLOCK).map(|at| (at % 241 + count) as u8).collect();
        let pieces: Vec<(u64, u32)> = (0..count as u64).map(|at| (DATA + 0x1000 * at, BLOCK as u32)).collect();
        for (piece, (address, _)) in data.chunks(BLOCK).zip(&pieces) {
            driver.fill(*address, piece);
        }
        for (opcode, way) in [(0x2a, Way::Out), (0x28, Way::In)] {
            let mut request = scsi(0, &cdb10(opcode, 0, count as u16), way, count * BLOCK);
            // The frame and what follows it are in one piece.
            let frame = CHAINS;
            openbsd_list(&mut request, frame, &pieces);
            driver.fill(frame, &request);
            driver.put(offset::REQUEST_QUEUE, frame as u32);
            assert_eq!(driver.reap(), Some(Got::Context(0x0001_0007)), "{count} pieces");
            if way == Way::Out {
                (0..count as u64).for_each(|at| driver.fill(DATA + 0x1000 * at, &[0; BLOCK]));
            }
        }
        let back: Vec<u8> = pieces
            .iter()
            .flat_map(|(address, _)| driver.bytes(*address, BLOCK))
            .collect();
        assert!(back == data, "{count} pieces");
    }
}

/// EDK2's MptScsiDxe and SeaBIOS: no waiting, no acknowledgement of what the doorbell shows, and frames of any size.
#[test]
fn firmware_drivers_wait_for_nothing_and_read_the_doorbell_without_acknowledging() {
    for (reply_frame, length, devices) in [(4, 0x18, 8), (0x24, 0x18, 8), (0x24, 0x2c, 1)] {
        let mut driver = cold(2);
        // Between two of these writes the controller does not get to look.
        let write = |driver: &Driver, place: u64, value: u32| driver.registers.write(place, &value.to_le_bytes());
        write(&driver, offset::DOORBELL, 0x40 << 24);
        write(&driver, offset::HOST_INTERRUPT_MASK, 9);
        write(&driver, offset::HOST_INTERRUPT_STATUS, 0);
        let init = Init {
            who: 2,
            devices,
            buses: 1,
            reply_frame,
            length,
        };
        write(&driver, offset::DOORBELL, 0x42 << 24 | (length as u32 / 4) << 16);
        for word in init.message().chunks_exact(4) {
            write(&driver, offset::DOORBELL, u32_at(word, 0));
        }
        driver.settle();
        for _ in 0..10 {
            assert_ne!(driver.get(offset::DOORBELL) & doorbell::ACTIVE, 0);
        }
        driver.put(offset::HOST_INTERRUPT_STATUS, 0);
        assert_eq!(state(&mut driver), OPERATIONAL);
        driver.put(offset::REPLY_QUEUE, REPLIES as u32);
        // A context is whatever a timer shows.
        let mut request = scsi(0, &[0x12, 0, 0, 0, 36, 0], Way::In, 36);
        request[8..12].copy_from_slice(&0x6543_210f_u32.to_le_bytes());
        driver.post(&request);
        assert_ne!(
            driver.get(offset::HOST_INTERRUPT_STATUS) & his::REPLY_MESSAGE_INTERRUPT,
            0
        );
        assert_eq!(driver.get(offset::REPLY_QUEUE), 0x6543_210f);
        assert_eq!(driver.get(offset::REPLY_QUEUE), u32::MAX);
        // One that fails: the frame is no longer than was said, and is given back.
        driver.fill(REPLIES, &[0xee; 0x40]);
        driver.post(&scsi(7, &[0; 6], Way::None, 0));
        assert_eq!(driver.get(offset::REPLY_QUEUE), REPLIES as u32 >> 1 | 1 << 31);
        let frame = driver.bytes(REPLIES, 0x40);
        let written = frame.iter().rposition(|byte| *byte != 0xee).unwrap() + 1;
        assert!(written <= reply_frame.into(), "{written}");
        driver.put(offset::REPLY_QUEUE, REPLIES as u32);
        // The system's driver finds a controller in use, and resets it: EDK2's leaves it reset.
        assert_ne!(driver.get(offset::DOORBELL) & doorbell::ACTIVE, 0);
        driver.diagnostic_reset();
        assert_eq!(driver.get(offset::DOORBELL), READY);
        driver.initialise();
    }
}

/// The keys, one more bit while the register is open, and the reset itself, as FreeBSD and Linux do it.
#[test]
fn the_diagnostic_register_is_worked_through_as_drivers_do() {
    let mut driver = Driver::new();
    for key in [0xffff_ffff, 4, 0xb, 2, 7, 0xd] {
        driver.put(offset::WRITE_SEQUENCE, key);
    }
    let open = driver.get(offset::DIAGNOSTIC);
    assert_eq!(open & 0x80, 0x80);
    driver.put(offset::DIAGNOSTIC, open | 2);
    assert_eq!(
        driver.get(offset::DIAGNOSTIC) & 0x82,
        0x82,
        "the processor stands still"
    );
    driver.put(offset::DIAGNOSTIC, open | 4);
    assert_eq!(driver.get(offset::DIAGNOSTIC) & 0x86, 0, "runs, and is closed");
    driver.put(offset::WRITE_SEQUENCE, 0xffff_ffff);
    assert_eq!(state(&mut driver), READY);
    // Linux masks, acknowledges and asks for the facts again.
    driver.put(offset::HOST_INTERRUPT_MASK, 0xffff_ffff);
    driver.put(offset::HOST_INTERRUPT_STATUS, 0);
    assert_eq!(ioc_status(&driver.handshake(&message(function::IOC_FACTS)[..12])), 0);
}
