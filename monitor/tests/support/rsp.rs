//! A client of gdb's remote protocol, for tests: it sends what gdb does not send, or sends it at another moment.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "a test that cannot go on has failed; each test program uses a part"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Nothing takes that long.
const LIMIT: Duration = Duration::from_secs(120);

/// A connection.
pub struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects; tries until somebody listens.
    pub fn connect(address: &str) -> Self {
        let began = Instant::now();
        loop {
            if let Some(client) = Self::connect_once(address) {
                return client;
            }
            assert!(began.elapsed() < LIMIT, "nobody listens at {address}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Connects if somebody listens.
    pub fn connect_once(address: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Some(Self { stream })
    }

    /// Sends bytes as they are to one who may not want them all.
    pub fn raw_or_closed(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next `+` or `-`.
    pub fn acknowledgement(&mut self) -> u8 {
        loop {
            let byte = self.byte().unwrap();
            if matches!(byte, b'+' | b'-') {
                return byte;
            }
        }
    }

    /// Sends a packet.
    pub fn send(&mut self, packet: &[u8]) {
        self.raw(&framed(packet));
    }

    /// The next packet; `None` when the connection is closed.
    pub fn receive(&mut self) -> Option<String> {
        while self.byte()? != b'$' {}
        let mut packet = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => packet.push(byte),
            }
        }
        self.byte()?;
        self.byte()?;
        self.stream.write_all(b"+").ok()?;
        Some(String::from_utf8(packet).unwrap())
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(1) => Some(byte[0]),
            Ok(_) => None,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// Sends a packet and gives the answer.
    pub fn ask(&mut self, packet: &str) -> String {
        self.send(packet.as_bytes());
        self.receive().unwrap_or_else(|| panic!("no answer to {packet}"))
    }

    /// As [`Client::ask`], but `None` if the connection is closed: the run may be over at any time.
    pub fn ask_if_there(&mut self, packet: &str) -> Option<String> {
        self.raw_or_closed(&framed(packet.as_bytes()));
        self.receive()
    }

    /// A `monitor` command's output.
    pub fn monitor(&mut self, command: &str) -> String {
        self.send(format!("qRcmd,{}", hex(command.as_bytes())).as_bytes());
        let mut text = String::new();
        loop {
            let answer = self.receive().unwrap();
            match answer.strip_prefix('O') {
                Some(part) if answer != "OK" => text.push_str(&String::from_utf8_lossy(&unhex(part))),
                _ => {
                    assert_eq!(answer, "OK", "{command}");
                    return text;
                }
            }
        }
    }

    /// A whole object read by `qXfer`, in pieces.
    pub fn transfer(&mut self, object: &str, annex: &str) -> String {
        let mut text = String::new();
        loop {
            let answer = self.ask(&format!("qXfer:{object}:read:{annex}:{:x},80", text.len()));
            text.push_str(&answer[1..]);
            match answer.as_bytes()[0] {
                b'l' => return text,
                b'm' => {}
                _ => panic!("{object}: {answer}"),
            }
        }
    }

    /// The program counter of a processor.
    pub fn pc(&mut self, cpu: u32) -> u64 {
        assert_eq!(self.ask(&format!("Hg{:x}", cpu + 1)), "OK");
        let value = unhex(&self.ask("p10"));
        u64::from_le_bytes(value.try_into().unwrap())
    }
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let sum = packet.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let mut bytes = vec![b'$'];
    bytes.extend_from_slice(packet);
    bytes.extend_from_slice(format!("#{sum:02x}").as_bytes());
    bytes
}

pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
