//! A web server for pages about what this program does: on this machine only, for those who have its URL.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use cdi_base::error::{Error, Kind};

use super::net::{Limits, Listener, Peer, Stream, Until, accept_connections};

/// The maximum length of a request in bytes, and of its headers.
const MAX_REQUEST: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// Timeout for a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum number of simultaneous connections: each is closed after its answer.
const CONNECTIONS: Limits = Limits { known: 16, strangers: 16, idle: Some(Duration::from_secs(10)) };

/// An answer: its media type, and its bytes.
pub struct Page {
    /// The media type.
    pub kind: &'static str,
    /// The contents.
    pub body: Vec<u8>,
}

/// A web server that is about to serve.
pub struct Site {
    listener: TcpListener,
    address: SocketAddr,
    token: String,
}

impl Site {
    /// Binds a port of the loopback address, 0 for any. `token` is the secret in the URL.
    pub fn new(port: u16, token: &[u8; 32]) -> Result<Site, Error> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::AddrInUse => Error::new(Kind::Busy, format!("port {port} is in use")),
            _ => Error::failed(format!("cannot listen on port {port}")).because(e),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let token = token.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Ok(Site { listener, address, token })
    }

    /// Returns the URL of the first page.
    pub fn url(&self) -> String {
        format!("http://{}/?token={}", self.address, self.token)
    }

    /// Returns the URL of another page, relative to the first.
    pub fn relative(&self, path: &str) -> String {
        format!("{path}?token={}", self.token)
    }

    /// Answers requests: `page` returns what is at a path. Returns only if the listener fails.
    pub fn serve(self, page: impl Fn(&str) -> Option<Page> + Send + Sync + 'static) -> io::Result<()> {
        let Site { listener, address, token } = self;
        accept_connections(&Listener::Tcp(listener), "http", CONNECTIONS, move |stream, peer| {
            connection(stream, peer, &token, address, &page)
        })
    }
}

fn connection(
    mut stream: Box<dyn Stream>,
    peer: &Peer,
    token: &str,
    address: SocketAddr,
    page: &dyn Fn(&str) -> Option<Page>,
) -> io::Result<()> {
    let request = read_request(&mut Until::new(&mut stream, TIMEOUT))?;
    let (status, found) = match answer(&request, token, address) {
        Ok((path, has_body)) => match page(path) {
            Some(page) => {
                peer.introduce()?;
                ("200 OK", Some((page, has_body)))
            }
            None => ("404 Not Found", None),
        },
        Err(status) => (status, None),
    };
    let text = |kind, body: Vec<u8>| Page { kind, body };
    let (page, has_body) = found
        .unwrap_or_else(|| (text("text/plain; charset=utf-8", format!("{status}\n").into_bytes()), true));
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
         connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\r\n",
        page.kind,
        page.body.len()
    );
    let body: &[u8] = if has_body && !request.starts_with(b"HEAD ") { &page.body } else { &[] };
    peer.write(&mut *stream, &[head.as_bytes(), body], || false)
}

/// Reads the head of a request.
fn read_request(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let len = stream.read(&mut part)?;
        if len == 0 || request.len() + len > MAX_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        request.extend_from_slice(&part[..len]);
    }
    Ok(request)
}

/// Returns the path that a request asks for, and whether it wants the contents; or the status of a refusal.
fn answer<'a>(request: &'a [u8], token: &str, address: SocketAddr) -> Result<(&'a str, bool), &'static str> {
    const BAD: &str = "400 Bad Request";
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    if !parsed.parse(request).is_ok_and(|status| status.is_complete()) {
        return Err(BAD);
    }
    // A page of another site, under a name that resolves to this address, must not get it.
    let host = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case("host"));
    let is_ours = |host: &[u8]| {
        let local = format!("localhost:{}", address.port());
        host == address.to_string().as_bytes() || host.eq_ignore_ascii_case(local.as_bytes())
    };
    if !host.is_some_and(|host| is_ours(host.value)) {
        return Err("403 Forbidden");
    }
    let has_body = match parsed.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return Err("405 Method Not Allowed"),
    };
    let (path, query) = parsed.path.ok_or(BAD)?.split_once('?').ok_or("403 Forbidden")?;
    let given = query.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
    // Takes as long whatever the first wrong character is.
    let differs = given.bytes().zip(token.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
    if given.len() != token.len() || differs != 0 {
        return Err("403 Forbidden");
    }
    Ok((path, has_body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_have_the_url_get_an_answer() {
        let address: SocketAddr = "127.0.0.1:8000".parse().unwrap();
        let answer =
            |text: &str| answer(text.as_bytes(), "abc", address).map(|(path, body)| (path.to_owned(), body));
        let host = "Host: 127.0.0.1:8000\r\n\r\n";
        assert_eq!(answer(&format!("GET /?token=abc HTTP/1.1\r\n{host}")), Ok(("/".into(), true)));
        assert_eq!(answer(&format!("HEAD /x?a=1&token=abc HTTP/1.1\r\n{host}")), Ok(("/x".into(), false)));
        assert!(answer("GET /?token=abc HTTP/1.1\r\nHost: LOCALHOST:8000\r\n\r\n").is_ok());
        for wrong in [
            format!("GET / HTTP/1.1\r\n{host}"),
            format!("GET /?token=abd HTTP/1.1\r\n{host}"),
            format!("GET /?token=abcd HTTP/1.1\r\n{host}"),
            format!("GET /?token= HTTP/1.1\r\n{host}"),
            format!("POST /?token=abc HTTP/1.1\r\n{host}"),
            "GET /?token=abc HTTP/1.1\r\nHost: evil.example:8000\r\n\r\n".into(),
            "GET /?token=abc HTTP/1.1\r\n\r\n".into(),
            "nonsense\r\n\r\n".into(),
        ] {
            assert!(answer(&wrong).is_err(), "{wrong}");
        }
    }
}
