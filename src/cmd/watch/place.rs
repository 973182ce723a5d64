//! Where the page of a disk is: on a port of this machine, or in a file.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cdi_base::error::{Error, Kind};
use cdi_base::workers::{self, lock};
use cdi_capture::guard::{Guard, Over};
use cdi_serve::http::{Page, Site};
use serde_json::{Value, json};

use crate::ui::{Ui, page};

/// How often a file is written.
const WRITE: Duration = Duration::from_secs(10);
/// How long the server goes on at the end while somebody looks at the page, so that they see the end.
const LINGER: Duration = Duration::from_secs(6);

/// The place of the page.
pub(in crate::cmd) enum Place {
    /// It is served.
    Served(Server),
    /// It is written to a file.
    File(Writing),
}

/// A page that is served.
pub(in crate::cmd) struct Server {
    state: Arc<Mutex<Value>>,
    /// When somebody asked last, in milliseconds since the start; 0: nobody has.
    asked: Arc<AtomicU64>,
    began: Instant,
}

/// A page that is written to a file, by a thread of its own: a file system that hangs must not stop the imaging.
pub(in crate::cmd) struct Writing {
    /// States for the thread, of which it takes the newest.
    states: Sender<Value>,
    /// The thread has ended.
    ended: Receiver<()>,
    last: Option<Instant>,
}

/// Returns an error if this is no name for a page.
pub(in crate::cmd) fn check_name(path: &Path) -> Result<(), Error> {
    if path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("html")) {
        return Ok(());
    }
    let what = "neither a port (0 to 65535) nor a file name that ends in .html";
    Err(Error::usage(what).at(path))
}

/// Returns an error if there is something else than a page of ours at `path`: only that is replaced.
fn check_page(path: &Path) -> Result<(), Error> {
    let other = |what: &str| Error::new(Kind::Busy, what).at(path).hint("use another name for the page");
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(meta) if !meta.is_file() => return Err(other("is not a regular file")),
        Ok(_) => {}
    }
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
    file.take(4096).read_to_end(&mut start).map_err(|e| Error::io("cannot read", path, e))?;
    if page::is_ours(&start) { Ok(()) } else { Err(other("exists, and is not a page of cdi")) }
}

/// Writes a page, if the file is not there, or is a page of ours.
fn write_page(path: &Path, page: &str) -> Result<(), Error> {
    check_page(path)?;
    let guard = Guard::new(Over { force: true, discard_unfinished: false });
    guard.write(path, |file| file.write_all(page.as_bytes()))
}

impl Place {
    /// Prepares the place that the user wants for the page of `image`: binds a port, or checks that the file may be written.
    pub(in crate::cmd) fn new(at: &Path, image: &Path, ui: &Ui) -> Result<Place, Error> {
        let title = image.file_name().unwrap_or(image.as_os_str()).to_string_lossy().into_owned();
        if let Some(port) = at.to_str().and_then(|text| text.parse::<u16>().ok()) {
            return Ok(Place::Served(Server::start(port, title, ui)?));
        }
        check_name(at)?;
        check_page(at)?;
        Guard::new(Over { force: true, discard_unfinished: false }).check(at)?;
        let (states, received) = channel::<Value>();
        let (end, ended) = channel();
        let (path, ui) = (at.to_owned(), *ui);
        workers::spawn("page", move || {
            let mut fails = false;
            while let Ok(mut state) = received.recv() {
                while let Ok(newer) = received.try_recv() {
                    state = newer;
                }
                match write_page(&path, &page::html(&title, &state)) {
                    Ok(()) => fails = false,
                    Err(e) if !fails => {
                        fails = true;
                        ui.warning(format!("the page is not written: {e:#}"));
                    }
                    Err(_) => {}
                }
            }
            let _ = end.send(());
        })?;
        Ok(Place::File(Writing { states, ended, last: None }))
    }

    /// Shows a state; in a file not more often than every ten seconds, unless it is `last`.
    pub(in crate::cmd) fn show(&mut self, state: &Value, last: bool) {
        match self {
            Place::Served(server) => *lock(&server.state) = state.clone(),
            Place::File(writing) => {
                if !last && writing.last.is_some_and(|at| at.elapsed() < WRITE) {
                    return;
                }
                writing.last = Some(Instant::now());
                let mut state = state.clone();
                state["refresh_seconds"] = json!((!last).then_some(WRITE.as_secs()));
                let _ = writing.states.send(state);
            }
        }
    }

    /// Lets those who look at the page see the end.
    pub(in crate::cmd) fn linger(self) {
        let (asked, began) = match self {
            Place::Served(Server { asked, began, .. }) => (asked, began),
            Place::File(Writing { states, ended, .. }) => {
                drop(states);
                let _ = ended.recv_timeout(LINGER);
                return;
            }
        };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (end, ended) = (millis(began.elapsed()), Instant::now());
        loop {
            let last = asked.load(Ordering::Relaxed);
            let looks = last > 0 && end.saturating_sub(last) < millis(LINGER);
            // The page asks every two seconds.
            if !looks || last > end || ended.elapsed() > LINGER {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        // The last answer is still being sent.
        thread::sleep(Duration::from_millis(200));
    }
}

impl Server {
    fn start(port: u16, title: String, ui: &Ui) -> Result<Server, Error> {
        let site = Site::new(port, &cdi_system::random()?)?;
        let (url, live) = (site.url(), site.relative("state.json"));
        let server = Server { state: Arc::default(), asked: Arc::default(), began: Instant::now() };
        let (shown, asked, began) = (Arc::clone(&server.state), Arc::clone(&server.asked), server.began);
        workers::spawn("page", move || {
            let page = move |path: &str| {
                let mut state = lock(&shown).clone();
                state["live"] = json!(live);
                let page = match path {
                    "/" => Page {
                        kind: "text/html; charset=utf-8",
                        body: page::html(&title, &state).into_bytes(),
                    },
                    "/state.json" => Page { kind: "application/json", body: state.to_string().into_bytes() },
                    _ => return None,
                };
                let now = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                asked.store(now.max(1), Ordering::Relaxed);
                Some(page)
            };
            if let Err(e) = site.serve(page) {
                log::warn!("the page cannot be served any more: {e}");
            }
        })?;
        if !ui.event(&json!({ "event": "page", "url": url })) {
            ui.message_with_address(format!("to watch it, open {url}"));
        }
        Ok(server)
    }
}
