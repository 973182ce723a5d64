//! `cdi stats [TARGET]`: shows read statistics of mounted images.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cdi_base::error::{Error, Kind};
use cdi_base::units::{human, plural};
use cdi_image::disk::stats::Stats;
use serde_json::json;

use super::End;
use super::unmount::not_mounted;
use crate::cli;
use crate::mount::record::{MountRecord, find, records};
use crate::ui::{Ui, printable};

/// The timeout for the answer of a daemon.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum length of an answer in bytes.
const MAX_LEN: u64 = 64 << 10;

pub(super) fn run(args: &cli::Stats, ui: &Ui) -> Result<End, Error> {
    let found = match &args.target {
        Some(target) => find(target)?,
        None => records()?,
    };
    if let Some(target) = args.target.as_ref().filter(|_| found.is_empty()) {
        return Err(not_mounted(target));
    }
    let mut all = Vec::new();
    for record in &found {
        match ask(record) {
            Ok(stats) => all.push((record, stats)),
            // A named mount must answer; of all mounts, those that answer are shown.
            Err(e) if args.target.is_some() => return Err(e),
            Err(e) => ui.warning(e),
        }
    }
    let value = |(record, stats): &(&MountRecord, Stats)| {
        let mut value = serde_json::to_value(stats).unwrap_or_default();
        value["image"] = json!(record.image.display().to_string());
        value["mountpoint"] = json!(record.mountpoint.display().to_string());
        value["device"] = json!(record.device.as_ref().map(|d| d.display().to_string()));
        value["pid"] = json!(record.pid);
        value
    };
    if ui.json(&json!({ "stats": all.iter().map(value).collect::<Vec<_>>() })) {
        return Ok(End::Done);
    }
    for (record, s) in &all {
        let place = record.device.as_ref().unwrap_or(&record.mountpoint);
        ui.data(printable(&place.display().to_string()).replace('\n', "\u{fffd}"));
        ui.data(format!("  reads     {} ({}), {} failed", s.reads, human(s.read_bytes), s.read_errors));
        ui.data(format!(
            "  latency   p50 {}, p90 {}, p99 {}, max {}",
            time(s.p50_us),
            time(s.p90_us),
            time(s.p99_us),
            time(s.max_us)
        ));
        ui.data(format!(
            "  chunks    {} decompressed, {} cache hits, {} damaged",
            s.chunks_decompressed, s.cache_hits, s.chunks_damaged
        ));
        if s.restored_reads > 0 {
            let bytes = human(s.restored_bytes);
            ui.data(format!(
                "  parity    {} restored ({bytes}): the image is damaged",
                plural(s.restored_reads, "read")
            ));
        }
        ui.data(format!("  cache     {}", human(s.cache_bytes)));
        if let Some(r) = s.remote {
            ui.data(format!(
                "  fetched   {} in {} requests, {} failed, {} found on disk",
                human(r.fetched_bytes),
                r.fetched,
                r.failed,
                r.cached
            ));
        }
    }
    if all.is_empty() {
        ui.message("no statistics: nothing is mounted");
    }
    Ok(End::Done)
}

/// Formats a time given in microseconds.
fn time(us: u64) -> String {
    match us {
        0 => "under 1 µs".into(),
        1..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// Asks the daemon of a mount for its statistics.
fn ask(record: &MountRecord) -> Result<Stats, Error> {
    let socket = record.stats()?;
    let silent = |e: std::io::Error| {
        let error = Error::new(Kind::Unavailable, "its daemon does not answer").at(&record.mountpoint);
        let hint =
            "'cdi list' shows whether it has died; images served by the FSKit extension have no statistics";
        error.because(e).hint(hint)
    };
    let mut stream = UnixStream::connect(&socket).map_err(silent)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(silent)?;
    let mut text = Vec::new();
    stream.by_ref().take(MAX_LEN).read_to_end(&mut text).map_err(silent)?;
    serde_json::from_slice(&text).map_err(|e| silent(e.into()))
}
