//! `cdi create SOURCE IMAGE`

use serde_json::json;

use super::{End, Interrupt, guard, imaging, keeper, open_disk, plain_reads};
use crate::capture::guard::{Over, refuse_other_name};
use crate::capture::target::Target;
use crate::capture::{self, Options};
use crate::cli::{self, Create};
use crate::error::Error;
use crate::image::cdi;
use crate::image::codec::Codec;
use crate::image::facts::Facts;
use crate::parallel;
use crate::ui::Ui;
use crate::units::human;

pub(super) fn run(args: &Create, ui: &Ui) -> Result<End, Error> {
    let codec = Codec::from(args.codec);
    let (levels, default) = codec.levels();
    let level = args.level.unwrap_or(default);
    if !levels.contains(&level) {
        let what = format!("{} has levels {} to {}, not {level}", codec.name(), levels.start(), levels.end());
        return Err(Error::usage(what));
    }
    let mut options = Options {
        codec,
        level,
        chunk: args.chunk,
        physical_sector: args.physical_sector_size,
        facts: Facts {
            model: args.model.clone(),
            serial: args.serial.clone(),
            notes: args.notes.clone(),
            ..Facts::default()
        },
        threads: parallel::cores(),
        hash: !args.rescue.no_hash,
    };
    refuse_other_name(&args.image, &cdi::FORMAT)?;
    if imaging::is_meant(args) {
        return keeper::keep(ui, |interrupt| imaging::run(args, options, interrupt, ui));
    }
    let image = cli::Image { image: args.source.clone(), how: args.how.clone() };
    let source = open_disk(&image, plain_reads(), ui)?;
    let sector = u64::from(source.sector());
    if source.size() % sector != 0 {
        ui.remark(format!(
            "{} bytes are not a whole number of sectors of {sector}: the last one is short",
            source.size()
        ));
    }
    let known = source.facts().clone();
    let told = options.facts;
    options.facts = Facts {
        model: told.model.or(known.model),
        serial: told.serial.or(known.serial),
        source: Some(
            std::path::absolute(&args.source).unwrap_or_else(|_| args.source.clone()).display().to_string(),
        ),
        notes: known.notes.into_iter().chain(told.notes).collect(),
        more: known.more,
        ..Facts::default()
    };
    options.physical_sector =
        options.physical_sector.or(Some(known.physical_sector_bytes).filter(|b| *b != 0));

    let interrupt = Interrupt::new()?;
    let over = Over { force: args.force, discard_unfinished: args.discard_unfinished };
    let (mut target, file) = Target::create(&args.image, &guard(over, &image, Some(&source)))?;
    let mut progress = ui.progress("imaging", source.size());
    let made = capture::create(&source, Box::new(file), &args.image, &options, &mut |bytes| {
        progress.advance(bytes);
        target.check()?;
        interrupt.check()
    })?;
    let took = progress.finish();
    target.finish()?;

    ui.json(&json!({
        "image": args.image.display().to_string(),
        "size_bytes": source.size(),
        "image_bytes": made.image_bytes,
        "packed_bytes": made.packed_bytes,
        "shared_bytes": made.shared_bytes,
        "fill_bytes": made.fill_bytes,
        "missing_bytes": made.missing_bytes,
        "failed_bytes": made.failed_bytes,
        "facts": made.facts,
    }));
    let share = made.image_bytes as f64 * 100.0 / source.size() as f64;
    ui.say(format!(
        "{}: {} of disk in {} ({share:.1} %), {took}",
        args.image.display(),
        human(source.size()),
        human(made.image_bytes)
    ));
    if made.failed_bytes > 0 {
        ui.remark(format!(
            "{} could not be read just now and are bad in the image",
            human(made.failed_bytes)
        ));
    }
    if made.missing_bytes == 0 {
        return Ok(End::Done);
    }
    ui.say(format!("{} of the disk are missing: 'cdi map --bad' lists them", human(made.missing_bytes)));
    Ok(End::DataMissing)
}
