//! One version of a remote file: it is opened once, and every answer must be of that version.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::fault::Fault;
use super::runtime::Threads;
use super::store::Store;
use super::watch::is_ended;

/// How long to wait before a fetch is repeated, at first and at most.
const WAIT: Range<Duration> = Duration::from_millis(200)..Duration::from_secs(5);
/// How many failed fetches of a file are logged.
const LOGGED: u64 = 16;

/// How a fetch waits.
pub(super) struct Waiting<'a> {
    /// Gives up after this time.
    pub(super) limit: Duration,
    /// The threads that fetch.
    pub(super) threads: Threads,
    /// Returns why it must not wait any longer.
    pub(super) stops: &'a (dyn Fn() -> Option<Fault> + Sync),
    /// Called when bytes come.
    pub(super) heard: &'a (dyn Fn() + Sync),
}

/// One version of a remote file.
pub(super) struct Object {
    store: Arc<Store>,
    key: Key,
    url: PathBuf,
    version: Version,
    /// Whether another version was seen.
    changed: AtomicBool,
    failed: AtomicU64,
}

/// What is known about a version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// The length in bytes.
    pub(super) len: u64,
    /// The server's name of the version.
    pub(super) etag: Option<String>,
    /// When it was modified; the start of 1970 if that is unknown.
    pub(super) modified: SystemTime,
}

impl Version {
    /// Returns what a server says about a file.
    pub(super) fn of(meta: &ObjectMeta) -> Result<Version, Fault> {
        if i64::try_from(meta.size).is_err() {
            return Err(Fault::Wrong(format!(
                "the server says that it has {} bytes, which cannot be",
                meta.size
            )));
        }
        // Azure's lists have names without quotation marks.
        let quoted = |tag: &String| if tag.ends_with('"') { tag.clone() } else { format!("\"{tag}\"") };
        let etag = meta.e_tag.as_ref().map(quoted);
        Ok(Version { len: meta.size, etag, modified: meta.last_modified.into() })
    }

    /// Returns whether two answers are of one version. If the server names versions, that decides: the time may be that
    /// of a copy on another server.
    fn is(&self, other: &Version) -> bool {
        self.len == other.len
            && match (&self.etag, &other.etag) {
                (Some(one), Some(two)) => one.trim_start_matches("W/") == two.trim_start_matches("W/"),
                (None, None) => self.modified == other.modified,
                _ => false,
            }
    }

    /// Returns the name with which a server is to compare: a weak one never matches.
    fn condition(&self) -> Option<String> {
        self.etag.clone().filter(|etag| !etag.starts_with("W/"))
    }

    /// Returns whether another version differs from it in more than its length.
    pub(super) fn is_known(&self) -> bool {
        self.etag.is_some() || self.modified > SystemTime::UNIX_EPOCH
    }
}

impl Object {
    /// Returns the object of which this version is known.
    pub(super) fn known(store: &Arc<Store>, key: Key, url: &Path, version: Version) -> Object {
        Object {
            store: Arc::clone(store),
            key,
            url: url.to_owned(),
            version,
            changed: AtomicBool::new(false),
            failed: AtomicU64::new(0),
        }
    }

    /// Opens a file: fetches its first `len` bytes, or all of it if it is shorter, with one request.
    pub(super) fn open(
        store: &Arc<Store>,
        key: Key,
        url: &Path,
        len: u64,
        limit: Duration,
    ) -> Result<(Object, Vec<u8>), Fault> {
        let end = Instant::now() + limit;
        let stops = || is_ended().then_some(Fault::Interrupted);
        let (version, start) = store.wait(Threads::Any, &stops, async |client| {
            let first = || get(client, &key, 0..len, None, &|| ());
            // Without a connection the address is wrong, most likely.
            match repeated(end, first, |fault| matches!(fault, Fault::Failed(_))).await {
                // No range fits an empty file.
                Err(fault @ Fault::Failed(_)) => match in_time(end, head(client, &key)).await {
                    Ok(version) if version.len == 0 => Ok((version, Vec::new())),
                    _ => Err(fault),
                },
                other => other,
            }
        })?;
        Ok((Object::known(store, key, url, version), start))
    }

    /// Finds out whether there is a file, and its version.
    pub(super) fn find(
        store: &Arc<Store>,
        key: Key,
        url: &Path,
        limit: Duration,
        stops: &(dyn Fn() -> Option<Fault> + Sync),
    ) -> Result<Object, Fault> {
        let end = Instant::now() + limit;
        let version = store.wait(Threads::Any, stops, async |client| {
            match in_time(end, head(client, &key)).await {
                // Its first byte says the same.
                Err(Fault::NoHead) => {
                    in_time(end, get(client, &key, 0..1, None, &|| ())).await.map(|(version, _)| version)
                }
                other => other,
            }
        })?;
        Ok(Object::known(store, key, url, version))
    }

    /// Returns the version.
    pub(super) fn version(&self) -> &Version {
        &self.version
    }

    /// Returns the address.
    pub(super) fn url(&self) -> &Path {
        &self.url
    }

    /// Returns whether another version was seen: then nothing is fetched any more.
    pub(super) fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Fetches a range that is within the file.
    pub(super) fn fetch(&self, range: Range<u64>, waiting: &Waiting<'_>) -> Result<Vec<u8>, Fault> {
        if self.is_changed() {
            return Err(Fault::Changed);
        }
        let fetched = self.try_fetch(&range, waiting);
        if let Err(fault) = &fetched {
            // What is missing may come back, and it shows then whether it is the same file.
            if *fault == Fault::Changed {
                self.changed.store(true, Ordering::Relaxed);
            }
            let is_told = *fault == Fault::Interrupted;
            if !is_told && self.failed.fetch_add(1, Ordering::Relaxed) < LOGGED {
                let (url, Range { start, end }) = (self.url.display(), range);
                log::warn!("{url}: bytes {start} to {end} cannot be read: {fault}");
            }
        }
        fetched
    }

    fn try_fetch(&self, range: &Range<u64>, waiting: &Waiting<'_>) -> Result<Vec<u8>, Fault> {
        let end = Instant::now() + waiting.limit;
        let (version, bytes) = self.store.wait(waiting.threads, waiting.stops, async |client| {
            let get = || get(client, &self.key, range.clone(), Some(&self.version), waiting.heard);
            repeated(end, get, Fault::may_pass).await
        })?;
        if version.is(&self.version) { Ok(bytes) } else { Err(Fault::Changed) }
    }
}

/// Repeats `work` until it succeeds, fails with a fault that cannot pass, or the time is over.
async fn repeated<T, F: Future<Output = Result<T, Fault>>>(
    end: Instant,
    work: impl Fn() -> F,
    may_pass: impl Fn(&Fault) -> bool,
) -> Result<T, Fault> {
    let mut wait = WAIT.start;
    loop {
        match in_time(end, work()).await {
            Err(fault) if may_pass(&fault) => {
                if Instant::now() + wait >= end {
                    return Err(fault);
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAIT.end);
            }
            other => return other,
        }
    }
}

pub(super) async fn in_time<T>(
    end: Instant,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    tokio::time::timeout_at(end.into(), work).await.unwrap_or(Err(Fault::TimedOut))
}

async fn head(client: &dyn ObjectStore, key: &Key) -> Result<Version, Fault> {
    client.head(key).await.map_err(|e| Fault::of(&e)).and_then(|meta| Version::of(&meta))
}

/// Fetches a range, of `version` if that is known. The answer is as long as the range, unless the file ends before.
async fn get(
    client: &dyn ObjectStore,
    key: &Key,
    range: Range<u64>,
    version: Option<&Version>,
    heard: &(dyn Fn() + Sync),
) -> Result<(Version, Vec<u8>), Fault> {
    let options = GetOptions {
        range: Some(GetRange::Bounded(range.clone())),
        if_match: version.and_then(Version::condition),
        ..GetOptions::default()
    };
    let answer = client.get_opts(key, options).await.map_err(|e| Fault::of(&e))?;
    let version = Version::of(&answer.meta)?;
    let wanted = range.end.min(version.len).saturating_sub(range.start);
    let wrong = || Fault::Failed("the server's answer is not as long as the range that it names".into());
    let wanted = usize::try_from(wanted).map_err(|_| wrong())?;
    let mut bytes = Vec::with_capacity(wanted);
    let mut body = answer.into_stream();
    while let Some(part) = body.next().await {
        let part = part.map_err(|e| Fault::of(&e))?;
        heard();
        if part.len() > wanted - bytes.len() {
            return Err(wrong());
        }
        bytes.extend_from_slice(&part);
    }
    if bytes.len() < wanted { Err(wrong()) } else { Ok((version, bytes)) }
}
