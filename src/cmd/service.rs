//! `cdi service install|uninstall|start|stop|status|run`: manages the service, or runs it.

use cdi_base::error::Error;
use serde_json::json;

use super::End;
use crate::cli::{Service, ServiceVerb};
use crate::report::exit_code;
use crate::service::state::{Phase, State};
use crate::service::{config, config_path, install, supervisor};
use crate::ui::{Ui, printable};

pub(super) fn run(args: &Service, ui: &Ui) -> Result<End, Error> {
    let path = || args.config.clone().map_or_else(config_path, Ok);
    match args.verb {
        ServiceVerb::Run => {
            // The log is the only output of a service.
            if log::max_level() < log::LevelFilter::Info && !ui.quiet {
                log::set_max_level(log::LevelFilter::Info);
            }
            supervisor::run(&path()?)?;
        }
        ServiceVerb::Install => {
            let (file, config) = install::manager()?.install(&path()?)?;
            if !ui
                .json(&json!({ "file": file.display().to_string(), "config": config.display().to_string() }))
            {
                ui.message(format!("installed as {}", file.display()));
                ui.message(format!("configuration: {}", config.display()));
                ui.message("add your images to it, then run: cdi service start");
            }
        }
        ServiceVerb::Uninstall => {
            let file = install::manager()?.uninstall()?;
            if !ui.json(&json!({ "file": file.as_ref().map(|file| file.display().to_string()) })) {
                match file {
                    Some(file) => ui.message(format!("removed {} (the configuration stays)", file.display())),
                    None => ui.message("the service is not installed"),
                }
            }
        }
        ServiceVerb::Start => {
            let path = path()?;
            config::read(&path)?;
            let running = supervisor::reload()?;
            if !running {
                install::manager()?.start()?;
            }
            if !ui.json(&json!({ "config": path.display().to_string(), "was_running": running })) {
                let what = if running { "already running; it reloads its configuration" } else { "started" };
                ui.message(format!("{what}; see 'cdi service status'"));
            }
        }
        ServiceVerb::Stop => {
            install::manager()?.stop()?;
            if !ui.json(&json!({})) {
                ui.message("stopped");
            }
        }
        ServiceVerb::Status => return status(ui),
    }
    Ok(End::Done)
}

fn status(ui: &Ui) -> Result<End, Error> {
    let state = State::read()?;
    let healthy = state
        .as_ref()
        .is_some_and(|s| s.config_error.is_none() && s.images.iter().all(|i| i.phase == Phase::Up));
    let end = if healthy { End::Done } else { End::Code(exit_code(cdi_base::error::Kind::Failed)) };
    if ui.json(&json!({ "running": state.is_some(), "service": state })) {
        return Ok(end);
    }
    let Some(state) = state else {
        ui.message("the service is not running");
        return Ok(end);
    };
    ui.data(format!("running (pid {}) with {}", state.pid, printable(&state.config.display().to_string())));
    if let Some(error) = &state.config_error {
        ui.data(format!("the changed configuration has an error: {}", printable(error)));
    }
    for image in &state.images {
        let at = image.device.as_ref().or(image.mountpoint.as_ref()).map_or("-", |at| at);
        let why = image.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let line = format!("{:<10} {at:<12} {}{why}", image.phase.name(), image.image.display());
        ui.data(printable(&line).replace('\n', " "));
    }
    Ok(end)
}
