//! A client that does what other programs do not.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::SECTORS;
use crate::common::Lab;

/// A client of our own, as plain as can be.
pub struct Client(pub UnixStream);

/// A part of a reply: its flags, type, cookie and payload.
pub type Chunk = (u16, u16, u64, Vec<u8>);

impl Client {
    pub fn connect(lab: &Lab, structured: bool) -> Client {
        let mut client = Client::try_connect(lab, structured).unwrap();
        let mut export = [0; 10];
        client.0.read_exact(&mut export).unwrap();
        assert_eq!(export[..8], (SECTORS * 512).to_be_bytes());
        client
    }

    /// Returns a connection after the handshake, without its last answer; None if the server has closed it.
    pub fn try_connect(lab: &Lab, structured: bool) -> Option<Client> {
        let mut stream = UnixStream::connect(lab.path("s")).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut [0; 18]).ok()?;
        stream.write_all(&3u32.to_be_bytes()).ok()?;
        let mut client = Client(stream);
        if structured {
            client.option(8, &[]);
            let mut reply = [0; 20];
            client.0.read_exact(&mut reply).ok()?;
            assert_eq!(reply[12..16], 1u32.to_be_bytes());
        }
        client.option(1, &[]);
        Some(client)
    }

    /// One sector, read over a new connection, if there is a place for it.
    pub fn reads_at_all(lab: &Lab) -> bool {
        let Some(mut client) = Client::try_connect(lab, false) else { return false };
        let mut answer = [0; 10 + 16 + 512];
        client.try_send(0, 0, 1, 0, 512).is_ok() && client.0.read_exact(&mut answer).is_ok()
    }

    pub fn option(&mut self, option: u32, data: &[u8]) {
        let head = [b"IHAVEOPT".as_slice(), &option.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data]
            .concat();
        self.0.write_all(&head).unwrap();
    }

    pub fn send(&mut self, flags: u16, kind: u16, cookie: u64, offset: u64, len: u32) {
        self.try_send(flags, kind, cookie, offset, len).unwrap();
    }

    pub fn try_send(
        &mut self,
        flags: u16,
        kind: u16,
        cookie: u64,
        offset: u64,
        len: u32,
    ) -> std::io::Result<()> {
        let magic = 0x2560_9513u32.to_be_bytes();
        let [flags, kind] = [flags, kind].map(u16::to_be_bytes);
        let [cookie, offset] = [cookie, offset].map(u64::to_be_bytes);
        let words: [&[u8]; 6] = [&magic, &flags, &kind, &cookie, &offset, &len.to_be_bytes()];
        self.0.write_all(&words.concat())
    }

    pub fn chunk(&mut self) -> Chunk {
        let mut head = [0; 20];
        self.0.read_exact(&mut head).unwrap();
        assert_eq!(head[..4], 0x668e_33efu32.to_be_bytes());
        let u16_at = |at: usize| u16::from_be_bytes(head[at..at + 2].try_into().unwrap());
        let mut payload = vec![0; u32::from_be_bytes(head[16..20].try_into().unwrap()) as usize];
        self.0.read_exact(&mut payload).unwrap();
        (u16_at(4), u16_at(6), u64::from_be_bytes(head[8..16].try_into().unwrap()), payload)
    }
}

/// Waits until a condition is true, at most half a minute.
#[track_caller]
pub fn comes(what: &str, is_so: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed().as_secs() < 30, "waited in vain until {what}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}
