//! Tests of the recording format.

use super::*;
use proptest::prelude::*;

fn stop() -> RecordedStop {
    let mut registers = Registers::default();
    for (i, r) in registers.gpr.iter_mut().enumerate() {
        *r = 0x1000 + i as u64;
    }
    RecordedStop {
        vcpu: 3,
        reason: Some(CpuStop::Breakpoint(7)),
        registers,
        special: SpecialRegisters {
            cr8: 2,
            gs_base: 0xffff_f800_0000_1000,
            idt_limit: 0xfff,
            ..Default::default()
        },
        reads: vec![
            RecordedRead {
                address: 0x10,
                length: 3,
                physical: Some(0x7010),
                result: Ok(vec![1, 2, 3]),
            },
            RecordedRead {
                address: 0x20,
                length: 8,
                physical: None,
                result: Err(ReadError::NotMapped(0x20)),
            },
        ],
        arms: vec![None, Some("too many".to_owned())],
    }
}

fn file() -> Vec<u8> {
    let mut out = Vec::new();
    write_start(&mut out).unwrap();
    write_frame(&mut out, &Frame::Header(b"{}".to_vec())).unwrap();
    write_frame(&mut out, &Frame::Stop(Box::new(stop()))).unwrap();
    write_frame(&mut out, &Frame::Fault(7)).unwrap();
    write_frame(&mut out, &Frame::End(b"{}".to_vec())).unwrap();
    out
}

fn read_all(bytes: &[u8]) -> (Vec<Frame>, Option<RecordingError>) {
    let mut frames = Vec::new();
    let mut reader = match Reader::new(bytes) {
        Ok(reader) => reader,
        Err(e) => return (frames, Some(e)),
    };
    loop {
        match reader.next() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(e) => return (frames, Some(e)),
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let (frames, error) = read_all(&file());
    assert!(error.is_none());
    assert_eq!(frames[1], Frame::Stop(Box::new(stop())));
    assert_eq!(frames[2], Frame::Fault(7));
    assert_eq!(frames.len(), 4);
}

#[test]
fn the_version_before_is_read_and_any_other_refused() {
    for (version, is_read) in [(0u32, false), (1, true), (2, true), (3, false)] {
        let mut bytes = file();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let (frames, error) = read_all(&bytes);
        assert_eq!((frames.len() == 4, error.is_none()), (is_read, is_read), "{version}");
        if let Some(error) = error {
            assert!(error.to_string().contains("reads versions 1 to 2"), "{error}");
        }
    }
}

/// Frames that are whole, with values that no run can have.
#[test]
fn values_that_cannot_be_are_refused_with_their_place() {
    let refused = |change: &dyn Fn(&mut RecordedStop)| {
        let mut changed = stop();
        change(&mut changed);
        let mut bytes = Vec::new();
        write_start(&mut bytes).unwrap();
        write_frame(&mut bytes, &Frame::Fault(1)).unwrap();
        write_frame(&mut bytes, &Frame::Stop(Box::new(changed))).unwrap();
        read_all(&bytes).1.map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(refused(&|_| {}), "");
    let processor = refused(&|stop| stop.vcpu = 64);
    assert_eq!(
        processor,
        "frame 1 (at byte 0x1d) of the recording is damaged: the processor's number is 0x40, and no machine has so many"
    );
    assert!(refused(&|stop| stop.special.cr8 = 16).contains("IRQL"));
    assert!(refused(&|stop| stop.special.cpl = 4).contains("privilege"));
    assert!(refused(&|stop| stop.reads[0].length = 2).contains("guest read"));
    assert!(refused(&|stop| stop.reads[0].length = 4).contains("guest read"));
}

#[test]
fn counts_beyond_the_limits_are_neither_written_nor_read() {
    let mut many = stop();
    many.reads = vec![many.reads[1].clone(); limits::READS + 1];
    assert!(write_frame(&mut Vec::new(), &Frame::Stop(Box::new(many.clone()))).is_err());
    let mut payload = vec![KIND_STOP];
    encode_stop(&mut payload, &many);
    let refused = decode::frame(&payload).unwrap_err().to_string();
    assert!(refused.contains("the number of guest reads is 0x40001"), "{refused}");
    let mut long = stop();
    long.arms = vec![Some("x".repeat(limits::ARM + 1))];
    assert!(write_frame(&mut Vec::new(), &Frame::Stop(Box::new(long))).is_err());
    let mut json = vec![KIND_HEADER];
    json.extend(b"[[\"],,,,[\\\",\"],");
    assert!(decode::frame(&json).is_ok());
    json.extend(vec![b','; limits::JSON_VALUES]);
    assert!(decode::frame(&json).unwrap_err().to_string().contains("JSON"));
}

#[test]
fn crc_is_the_well_known_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

proptest! {
    #[test]
    fn a_cut_file_yields_a_prefix_and_an_error_unless_cut_between_frames(cut in 0usize..600) {
        let whole = file();
        let cut = cut.min(whole.len());
        let (all, _) = read_all(&whole);
        let (frames, error) = read_all(&whole[..cut]);
        prop_assert!(all.starts_with(&frames));
        prop_assert!(error.is_some() || frames.len() < all.len() || cut == whole.len());
    }

    #[test]
    fn a_flipped_bit_is_never_taken_for_data(byte in 0usize..600, bit in 0u8..8) {
        let mut bytes = file();
        let byte = byte % bytes.len();
        bytes[byte] ^= 1 << bit;
        let (all, _) = read_all(&file());
        let (frames, error) = read_all(&bytes);
        prop_assert!(error.is_some());
        prop_assert!(all.starts_with(&frames));
    }

    #[test]
    fn arbitrary_payloads_do_not_panic(payload in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode::frame(&payload);
    }
}
