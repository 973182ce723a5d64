//! A web server that does what tests want of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// The path, without the slash at its start.
    pub path: String,
    /// The range of a GET.
    pub range: Option<(u64, u64)>,
    /// All of it.
    pub text: String,
}

/// What the server does with a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Deed {
    /// What it should.
    Right,
    /// Answers with this status.
    Status(&'static str),
    /// Sends this number of bytes of the body, and closes the connection.
    Cut(usize),
    /// Closes the connection without an answer.
    Closed,
    /// Waits before it answers.
    Late(Duration),
    /// Answers with this status and this body.
    Says(&'static str, &'static str),
    /// Redirects to this address.
    Redirect(String),
    /// Serves this file, whatever was asked for.
    Serves(&'static str),
    /// Sends the whole file.
    Whole,
    /// Sends a range that begins one byte later, under its name.
    Shifted,
    /// Sends more bytes than it says.
    Longer,
    /// Answers with an error that is said to be so long, and sends bytes as long as the client takes them.
    Endless(&'static str),
    /// Sends the right header, with another version's name.
    Version(&'static str),
    /// Sends no name of the version, and this time.
    Dated(&'static str),
}

type Script = dyn Fn(usize, &Request) -> Deed + Send + Sync;

struct Shared {
    dir: PathBuf,
    requests: Mutex<Vec<Request>>,
    script: Mutex<Arc<Script>>,
    ended: AtomicBool,
}

/// A server for the files in a directory.
pub struct Web {
    shared: Arc<Shared>,
    port: u16,
}

impl Web {
    /// Starts a server for the files in `dir`.
    pub fn new(dir: &Path) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            requests: Mutex::default(),
            script: Mutex::new(Arc::new(|_, _| Deed::Right)),
            ended: AtomicBool::new(false),
        });
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if server.ended.load(Ordering::SeqCst) {
                    break;
                }
                let server = Arc::clone(&server);
                std::thread::spawn(move || server.serve(stream));
            }
        });
        Web { shared, port }
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// From now on, `script` says what is done with each request; they are counted from 0.
    pub fn does(&self, script: impl Fn(usize, &Request) -> Deed + Send + Sync + 'static) {
        self.shared.requests.lock().unwrap().clear();
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    /// The requests since the last [`Web::does`].
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(request) = read_request(&mut reader) {
            let (number, script) = {
                let mut requests = self.requests.lock().unwrap();
                requests.push(request.clone());
                (requests.len() - 1, Arc::clone(&self.script.lock().unwrap()))
            };
            if self.ended.load(Ordering::SeqCst) || !self.answer(&stream, &request, script(number, &request))
            {
                return;
            }
        }
    }

    /// Answers; false: the connection ends.
    fn answer(&self, mut to: &TcpStream, request: &Request, deed: Deed) -> bool {
        let mut status = |line: &str| {
            to.write_all(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n").as_bytes()).is_ok()
        };
        match &deed {
            Deed::Status(line) => return status(line),
            Deed::Redirect(to) => return status(&format!("307 Temporary Redirect\r\nLocation: {to}")),
            Deed::Says(line, body) => {
                let head = format!("HTTP/1.1 {line}\r\nContent-Length: {}\r\n\r\n", body.len());
                let body = if request.method == "HEAD" { "" } else { body };
                return to.write_all((head + body).as_bytes()).is_ok();
            }
            Deed::Closed => return false,
            Deed::Endless(length) => {
                let head = format!("HTTP/1.1 403 Forbidden\r\n{length}Connection: close\r\n\r\n");
                let mut sent = to.write_all(head.as_bytes());
                for _ in 0..10_000 {
                    sent = sent.and_then(|()| to.write_all(&[b'x'; 64 << 10]));
                }
                return false;
            }
            Deed::Late(time) => std::thread::sleep(*time),
            _ => {}
        }
        let path = match &deed {
            Deed::Serves(name) => self.dir.join(name),
            _ => self.dir.join(decoded(&request.path)),
        };
        let Ok(file) = File::open(&path) else { return status("404 Not Found") };
        let meta = file.metadata().unwrap();
        if !meta.is_file() {
            return status("404 Not Found");
        }
        let len = meta.len();
        let tag = match &deed {
            Deed::Version(name) => (*name).to_owned(),
            _ => format!("\"{:x}-{len:x}-{:x}\"", meta.ino(), meta.mtime_nsec() + meta.mtime()),
        };
        let condition = request.text.lines().find_map(|l| l.strip_prefix("if-match: "));
        if condition.is_some_and(|wanted| wanted != tag) {
            return status("412 Precondition Failed");
        }
        let version = match &deed {
            Deed::Dated(time) => format!("Last-Modified: {time}"),
            Deed::Version(_) => format!("ETag: {tag}"),
            _ => format!("ETag: {tag}\r\nLast-Modified: Thu, 26 Nov 2026 20:00:00 GMT"),
        };
        if request.method == "HEAD" {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n{version}\r\n\r\n");
            return to.write_all(head.as_bytes()).is_ok();
        }
        let (start, end) = match request.range {
            Some((start, end)) if deed != Deed::Whole => (start, end.min(len)),
            _ => (0, len),
        };
        if start >= len && request.range.is_some() {
            return status(&format!("416 Range Not Satisfiable\r\nContent-Range: bytes */{len}"));
        }
        let (start, end) = if deed == Deed::Shifted { (start + 1, (end + 1).min(len)) } else { (start, end) };
        let mut body = vec![0; (end - start) as usize];
        file.read_exact_at(&mut body, start).unwrap();
        let kind = if request.range.is_some() && deed != Deed::Whole {
            format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{len}", end - 1)
        } else {
            "200 OK".into()
        };
        let said = if deed == Deed::Longer { body.len() + 10 } else { body.len() };
        body.resize(said, 0);
        let head = format!("HTTP/1.1 {kind}\r\nContent-Length: {said}\r\n{version}\r\n\r\n");
        if to.write_all(head.as_bytes()).is_err() {
            return false;
        }
        match deed {
            Deed::Cut(count) => {
                let _ = to.write_all(&body[..count.min(body.len())]);
                false
            }
            _ => to.write_all(&body).is_ok(),
        }
    }
}

fn read_request(from: &mut impl BufRead) -> Option<Request> {
    let mut text = String::new();
    loop {
        let before = text.len();
        if from.read_line(&mut text).ok()? == 0 {
            return None;
        }
        if text[before..].trim().is_empty() {
            break;
        }
    }
    let text = text.replace("\r\n", "\n");
    let mut words = text.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.trim_start_matches('/').to_owned());
    let range = text.lines().find_map(|l| l.strip_prefix("range: bytes=")).and_then(|r| {
        let (start, last) = r.split_once('-')?;
        Some((start.parse().ok()?, last.parse::<u64>().ok()? + 1))
    });
    Some(Request { method, path, range, text })
}

/// The path of a file by its address.
fn decoded(path: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(b) = rest.next() {
        bytes.push(match b {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap().into()
}

/// The length of all files in a directory.
pub fn size_of(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum()
}
