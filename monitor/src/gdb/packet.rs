//! Packets of gdb's remote protocol: finds them in a stream of bytes and writes them into one; hexadecimal and escaped
//! binary.
//!
//! Pure; it must not know what packets mean. Source: gdb manual, "Overview" of the remote serial protocol, "Packet
//! Acknowledgment", "Interrupts". It finds the next whole packet after any bytes.

/// Longest packet with its frame, in bytes; `qSupported` announces it.
pub(super) const PACKET_LIMIT: usize = 0x4000;
/// Bytes around the payload of a packet.
const FRAME: usize = 4;
/// Longest payload, of a packet that comes or goes.
pub(super) const PAYLOAD_LIMIT: usize = PACKET_LIMIT - FRAME;
/// What a client sends to interrupt: a single byte, no packet.
const INTERRUPT: u8 = 3;
/// What either side sends to have a packet again.
pub(super) const NOT_ARRIVED: u8 = b'-';
/// The escape character, and the value by which an escaped byte is XORed.
const ESCAPE: u8 = b'}';
const ESCAPED: u8 = 0x20;

/// How packets begin that may carry binary data, whether they are known here or not.
const BINARY: [&[u8]; 5] = [b"X", b"vFile:", b"vFlashWrite:", b"qXfer:", b"qSearch:"];

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A packet whose sum is right.
    Packet(Vec<u8>),
    /// A packet whose sum is right and that is longer than [`PACKET_LIMIT`].
    TooLong,
    /// A packet whose sum is wrong or no number.
    Damaged,
    /// The last packet is to be sent again.
    NotArrived,
    /// The machine is to stop.
    Interrupt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Between packets.
    #[default]
    Between,
    /// In the payload.
    Payload,
    /// At the first digit of the sum.
    High,
    /// At the second one, with the value of the first; `None` if that was no digit.
    Low(Option<u8>),
}

/// Finds the packets in a stream.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    state: State,
    /// The payload so far, up to the limit.
    payload: Vec<u8>,
    /// There was more of it.
    too_long: bool,
    sum: u8,
}

impl Receiver {
    /// Takes one byte; gives what is complete with it.
    ///
    /// A `$` always begins a packet: where it is meant as data it is escaped. So a packet that was broken off costs
    /// nothing but itself. A byte between packets that is none of the protocol's is dropped.
    pub(super) fn take(&mut self, byte: u8) -> Option<Received> {
        match (self.state, byte) {
            (_, b'$') => {
                self.forget();
                self.state = State::Payload;
                None
            }
            (State::Between, INTERRUPT) => Some(Received::Interrupt),
            (State::Between, NOT_ARRIVED) => Some(Received::NotArrived),
            (State::Between, _) => None,
            (State::Payload, b'#') => {
                self.state = State::High;
                None
            }
            (State::Payload, INTERRUPT) if !self.may_be_binary() => {
                self.forget();
                Some(Received::Interrupt)
            }
            (State::Payload, _) => {
                self.sum = self.sum.wrapping_add(byte);
                self.too_long |= self.payload.len() == PAYLOAD_LIMIT;
                if !self.too_long {
                    self.payload.push(byte);
                }
                None
            }
            (State::High | State::Low(_), INTERRUPT) => {
                self.forget();
                Some(Received::Interrupt)
            }
            (State::High, _) => {
                self.state = State::Low(digit(byte));
                None
            }
            (State::Low(high), _) => {
                let told = high.zip(digit(byte)).map(|(high, low)| high << 4 | low);
                let (sum, too_long) = (self.sum, self.too_long);
                let payload = std::mem::take(&mut self.payload);
                self.forget();
                Some(match told {
                    Some(told) if told == sum && too_long => Received::TooLong,
                    Some(told) if told == sum => Received::Packet(payload),
                    _ => Received::Damaged,
                })
            }
        }
    }

    /// Drops the packet that has begun.
    pub(super) fn forget(&mut self) {
        *self = Self {
            payload: std::mem::take(&mut self.payload),
            ..Self::default()
        };
        self.payload.clear();
    }

    /// Whether the byte 3 may be data here: only in packets that carry binary data.
    fn may_be_binary(&self) -> bool {
        BINARY.iter().any(|head| self.payload.starts_with(head))
    }
}

/// A payload as a packet.
pub(super) fn framed(payload: &[u8]) -> Vec<u8> {
    let sum = payload.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
    let mut packet = Vec::with_capacity(payload.len() + FRAME);
    packet.push(b'$');
    packet.extend_from_slice(payload);
    packet.extend_from_slice(format!("#{sum:02x}").as_bytes());
    packet
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// A number: hexadecimal digits and nothing else, at least one, no more than 64 bits' worth.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &byte| {
        let digit = digit(byte)?;
        value.checked_mul(16)?.checked_add(u64::from(digit))
    })
}

/// Bytes written as two digits each.
pub(super) fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Bytes as two digits each.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Binary data without its escapes; `None` if one is at the end.
pub(super) fn unescape(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(data.len());
    let mut data = data.iter();
    while let Some(&byte) = data.next() {
        bytes.push(match byte {
            ESCAPE => data.next()? ^ ESCAPED,
            plain => plain,
        });
    }
    Some(bytes)
}

/// Escapes data: only the characters that would break a packet.
pub(super) fn escape(data: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(data.len());
    for &byte in data {
        if matches!(byte, b'$' | b'#' | ESCAPE) {
            escaped.extend([ESCAPE, byte ^ ESCAPED]);
        } else {
            escaped.push(byte);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Vec<Received> {
        let mut receiver = Receiver::default();
        bytes.iter().filter_map(|byte| receiver.take(*byte)).collect()
    }

    fn packet(payload: &[u8]) -> Received {
        Received::Packet(payload.to_vec())
    }

    #[test]
    fn packets_are_found_among_whatever_else_there_is() {
        assert_eq!(all(b"+++abc\r\n#00$g#67++"), [packet(b"g")]);
        assert_eq!(all(b"$#00"), [packet(b"")]);
        assert_eq!(all(b"$g#67$?#3f"), [packet(b"g"), packet(b"?")]);
        assert_eq!(all(b"-$g#67"), [Received::NotArrived, packet(b"g")]);
        for damaged in [&b"$g#00"[..], b"$g#zz", b"$g#6 ", b"$g#+7"] {
            assert_eq!(all(damaged), [Received::Damaged], "{damaged:?}");
        }
        for broken_off in [&b"$m10"[..], b"$m10#", b"$m10#6"] {
            assert_eq!(all(&[broken_off, b"$g#67"].concat()), [packet(b"g")], "{broken_off:?}");
        }
    }

    #[test]
    fn an_interrupt_is_heard_everywhere_but_in_binary_data() {
        for before in [&b""[..], b"$m10", b"$m10#", b"$m10#6", b"$g#67", b"+", b"abc"] {
            let heard = all(&[before, &[INTERRUPT], b"$g#67"].concat());
            assert!(heard.contains(&Received::Interrupt), "{before:?}");
            assert_eq!(heard.last(), Some(&packet(b"g")), "{before:?}");
        }
        let data = b"X10,1:\x03";
        assert_eq!(all(&framed(data)), [packet(data)]);
    }

    #[test]
    fn a_packet_may_be_as_long_as_was_told_and_a_longer_one_ends_where_it_ends() {
        let longest = vec![b'a'; PAYLOAD_LIMIT];
        assert_eq!(framed(&longest).len(), PACKET_LIMIT);
        assert_eq!(all(&framed(&longest)), [packet(&longest)]);
        let longer = [framed(&vec![b'a'; 1 << 20]), framed(b"g")].concat();
        assert_eq!(all(&longer), [Received::TooLong, packet(b"g")]);
        let mut receiver = Receiver::default();
        for byte in std::iter::once(b'$').chain(std::iter::repeat_n(b'a', 1 << 20)) {
            receiver.take(byte);
        }
        assert!(receiver.payload.capacity() <= 2 * PACKET_LIMIT);
    }

    #[test]
    fn numbers_and_bytes_are_digits_and_nothing_else() {
        assert_eq!(number(b"00000000000000000fF"), Some(0xff));
        assert_eq!(number(b"ffffffffffffffff"), Some(u64::MAX));
        for no in [&b""[..], b"10000000000000000", b"+1", b"-1", b"0x1", b" 1", b"xx", b"g"] {
            assert_eq!(number(no), None, "{no:?}");
        }
        assert_eq!(unhex(b"00fF"), Some(vec![0, 0xff]));
        assert_eq!(
            (unhex(b""), unhex(b"0"), unhex(b"0x"), unhex(b"xx")),
            (Some(vec![]), None, None, None)
        );
        assert_eq!(unescape(b"}\x03}]"), Some(b"#}".to_vec()));
        assert_eq!(unescape(b"a}"), None);
    }

    proptest! {
        #[test]
        fn what_is_framed_and_escaped_comes_back(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let escaped = escape(&data);
            let mut payload = b"X0,0:".to_vec();
            payload.extend_from_slice(&escaped);
            prop_assert_eq!(all(&framed(&payload)), [packet(&payload)]);
            prop_assert_eq!(unescape(&escaped), Some(data.clone()));
            prop_assert_eq!(unhex(hex(&data).as_bytes()), Some(data));
        }

        #[test]
        fn the_next_packet_is_found_behind_any_bytes(before in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = [before, framed(b"m10,4")].concat();
            prop_assert_eq!(all(&bytes).pop(), Some(packet(b"m10,4")));
        }
    }
}
