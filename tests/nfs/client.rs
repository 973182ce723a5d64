//! A client that guesses names, forges handles, writes and sends malformed requests.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::common::{Lab, Server};

pub const NFS: u32 = 100_003;
pub const MOUNT: u32 = 100_005;

/// A client that can say anything.
pub struct Client(pub TcpStream);

/// The head of a call: a version of RPC, a program, its version, a procedure, a credential.
pub struct Head {
    pub rpc: u32,
    pub program: u32,
    pub version: u32,
    pub procedure: u32,
    pub credential: Vec<u8>,
}

pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_be_bytes()).collect()
}

/// A byte string as XDR writes it.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = words(&[bytes.len() as u32]);
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

pub fn unix(user: u32) -> Vec<u8> {
    let body = [words(&[1]), string(b"machine"), words(&[user, user, 0])].concat();
    [words(&[1]), string(&body)].concat()
}

pub fn own() -> u32 {
    nix::unistd::getuid().as_raw()
}

pub fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl Client {
    pub fn connect(url: &str) -> Client {
        let port = url.split("nfsport=").nth(1).unwrap().split('&').next().unwrap();
        Client(TcpStream::connect(format!("127.0.0.1:{port}")).unwrap())
    }

    pub fn send(&mut self, xid: u32, head: &Head, args: &[u8]) {
        let mut call = words(&[xid, 0, head.rpc, head.program, head.version, head.procedure]);
        call.extend_from_slice(&head.credential);
        call.extend(words(&[0, 0]));
        call.extend_from_slice(args);
        // In one piece: two small ones would wait for each other.
        self.0.write_all(&[words(&[1 << 31 | call.len() as u32]), call].concat()).unwrap();
    }

    pub fn reply(&mut self) -> Vec<u8> {
        let mut mark = [0; 4];
        self.0.read_exact(&mut mark).unwrap();
        let mut reply = vec![0; (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize];
        self.0.read_exact(&mut reply).unwrap();
        reply
    }

    pub fn call(&mut self, head: &Head, args: &[u8]) -> Vec<u8> {
        self.send(77, head, args);
        let reply = self.reply();
        assert_eq!((number(&reply, 0), number(&reply, 4)), (77, 1));
        reply[8..].to_vec()
    }

    /// The results of a procedure that was carried out.
    pub fn ask(&mut self, program: u32, procedure: u32, user: u32, args: &[u8]) -> Vec<u8> {
        let head = Head { rpc: 2, program, version: 3, procedure, credential: unix(user) };
        let reply = self.call(&head, args);
        assert_eq!(reply[..16], words(&[0, 0, 0, 0]), "accepted, carried out");
        reply[16..].to_vec()
    }

    /// The status of mounting a path, and the handle if it was given.
    pub fn mount(&mut self, path: &str) -> (u32, Vec<u8>) {
        let reply = self.ask(MOUNT, 1, own(), &string(path.as_bytes()));
        let handle =
            if number(&reply, 0) == 0 { reply[8..8 + number(&reply, 4) as usize].to_vec() } else { vec![] };
        (number(&reply, 0), handle)
    }

    pub fn lookup(&mut self, dir: &[u8], name: &str, user: u32) -> (u32, Vec<u8>) {
        let reply = self.ask(NFS, 3, user, &[string(dir), string(name.as_bytes())].concat());
        let handle =
            if number(&reply, 0) == 0 { reply[8..8 + number(&reply, 4) as usize].to_vec() } else { vec![] };
        (number(&reply, 0), handle)
    }

    pub fn read(&mut self, file: &[u8], offset: u64, len: u32, user: u32) -> Result<Vec<u8>, u32> {
        let args = [string(file), offset.to_be_bytes().to_vec(), words(&[len])].concat();
        let reply = self.ask(NFS, 6, user, &args);
        match number(&reply, 0) {
            // Attributes of 84 bytes, then count, end, and the bytes with their length.
            0 => Ok(reply[8 + 84 + 12..][..number(&reply, 8 + 84) as usize].to_vec()),
            status => Err(status),
        }
    }
}

/// A server of `disk.cdimg`, a client of it, and the handles of the folder and of the disk.
pub fn opened(lab: &Lab) -> (Server, Client, Vec<u8>, Vec<u8>) {
    let server = Server::start(lab, &["--nfs"]);
    let mut client = Client::connect(&server.url);
    let (status, root) = client.mount(path(&server.url));
    assert_eq!(status, 0);
    let (status, disk) = client.lookup(&root, "disk.raw", own());
    assert_eq!(status, 0);
    (server, client, root, disk)
}

pub fn path(url: &str) -> &str {
    url.strip_prefix("nfs://127.0.0.1").unwrap().split('?').next().unwrap()
}
