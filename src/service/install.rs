//! Installs, starts, stops and uninstalls the service with launchd (macOS) or systemd (Linux).

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cdi_base::error::{Error, Kind};
use cdi_system::output_file::replace;
use cdi_system::{ask, has_program};
use plist::Value;

use super::{config, config_dir, home};

/// The service's name for launchd.
pub const LABEL: &str = "org.cdimg.cdi";
const LAUNCHD: &str = include_str!("../../launchd/org.cdimg.cdi.plist");
const SYSTEMD: &str = include_str!("../../systemd/cdi.service");

/// Timeout for the service manager: stopping waits until everything is detached.
const TIMEOUT: Duration = Duration::from_secs(90);
/// How long loading is retried: launchd does not accept a job for some time after it was unloaded.
const RELOADING: Duration = Duration::from_secs(15);

/// The service manager of this system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// launchd: the user's own agent.
    Launchd,
    /// systemd: a user unit, or a system unit if the user is root.
    Systemd {
        /// Whether it is a system unit.
        system: bool,
    },
}

/// Returns the service manager of this system.
pub fn manager() -> Result<Manager, Error> {
    let root = nix::unistd::geteuid().is_root();
    if cfg!(target_os = "macos") {
        if root {
            let error = Error::usage("the service must belong to the logged-in user, not to root");
            return Err(error.hint("run it without sudo"));
        }
        return Ok(Manager::Launchd);
    }
    if !has_program("systemctl") {
        let error = Error::new(Kind::Unavailable, "systemd not found on this system");
        return Err(error.hint("configure the service manager of this system to run: cdi service run"));
    }
    Ok(Manager::Systemd { system: root })
}

impl Manager {
    /// Returns the path of the service file.
    fn file(self) -> Result<PathBuf, Error> {
        Ok(match self {
            Manager::Launchd => home()?.join("Library/LaunchAgents").join(format!("{LABEL}.plist")),
            Manager::Systemd { system: true } => PathBuf::from("/etc/systemd/system/cdi.service"),
            Manager::Systemd { system: false } => config_dir()?.join("systemd/user/cdi.service"),
        })
    }

    /// Returns the path of the service file that a package installs.
    fn packaged(self) -> Option<&'static Path> {
        match self {
            Manager::Launchd => None,
            Manager::Systemd { system: true } => Some(Path::new("/usr/lib/systemd/system/cdi.service")),
            Manager::Systemd { system: false } => Some(Path::new("/usr/lib/systemd/user/cdi.service")),
        }
    }

    /// Returns the content of the service file.
    fn text(self, program: &Path, config: &Path, log: &Path) -> Result<Vec<u8>, Error> {
        match self {
            Manager::Launchd => launchd(program, config, log),
            Manager::Systemd { system } => systemd(program, config, system).map(String::into_bytes),
        }
    }

    /// Writes the service file, and an empty configuration if there is none, and returns the paths of both. If it
    /// fails, everything is left as it was before.
    pub fn install(self, config: &Path) -> Result<(PathBuf, PathBuf), Error> {
        let mut written = Written::default();
        self.install_files(config, &mut written).inspect_err(|_| written.undo()).map_err(|e| {
            if matches!(self, Manager::Systemd { .. }) && !self.is_running() {
                e.hint("systemd is not running (in a container?): start the service some other way: cdi service run")
            } else {
                e
            }
        })
    }

    fn install_files(self, config: &Path, written: &mut Written) -> Result<(PathBuf, PathBuf), Error> {
        let program = std::env::current_exe()
            .map_err(|e| Error::failed("cannot find the path of the cdi executable").because(e))?;
        let config = std::path::absolute(config).map_err(|e| Error::io("is not a path", config, e))?;
        if config.exists() {
            config::read(&config)?;
        } else {
            written.write(&config, config::EMPTY.as_bytes())?;
        }
        let log =
            if self == Manager::Launchd { home()?.join("Library/Logs/cdi.log") } else { PathBuf::new() };
        let file = self.file()?;
        let text = self.text(&program, &config, &log)?;
        if self == Manager::Launchd && is_loaded() && fs::read(&file).ok().as_deref() != Some(&text[..]) {
            // launchd keeps the old property list until the job is unloaded; 'start' then loads the new one.
            self.stop()?;
        }
        written.write(&file, &text)?;
        let file = file.canonicalize().map_err(|e| Error::io("cannot resolve", &file, e))?;
        match self {
            Manager::Launchd => {
                ask(Command::new("plutil").arg("-lint").arg(&file), TIMEOUT, "it is a part of macOS")?;
            }
            Manager::Systemd { .. } => {
                self.systemctl(&["daemon-reload"])?;
                self.systemctl(&["enable", "cdi.service"])?;
            }
        }
        Ok((file, config))
    }

    /// Stops the service and removes its file, but not the configuration. Returns the path of the file, if there was
    /// one.
    pub fn uninstall(self) -> Result<Option<PathBuf>, Error> {
        let file = self.file()?;
        if !file.exists() {
            // The job may still be loaded without its file.
            return if self == Manager::Launchd { self.stop().map(|()| None) } else { Ok(None) };
        }
        // If systemd is not running, its commands fail, and there is nothing to stop.
        let unless_off = |result: Result<(), Error>| match result {
            Err(_) if matches!(self, Manager::Systemd { .. }) && !self.is_running() => Ok(()),
            result => result,
        };
        unless_off(self.stop())?;
        if let Manager::Systemd { .. } = self {
            unless_off(self.systemctl(&["disable", "cdi.service"]))?;
        }
        fs::remove_file(&file).map_err(|e| Error::io("cannot remove", &file, e))?;
        if let Manager::Systemd { .. } = self {
            unless_off(self.systemctl(&["daemon-reload"]))?;
        }
        Ok(Some(file))
    }

    /// Returns whether systemd is running: in a container it may not be, although its programs are installed.
    fn is_running(self) -> bool {
        let mut systemctl = self.systemctl_command();
        let output = systemctl.arg("is-system-running").stdin(Stdio::null()).stderr(Stdio::null()).output();
        // systemctl(1): a running manager prints something, and neither "offline" nor "unknown".
        output.is_ok_and(|output| !matches!(output.stdout.trim_ascii(), b"" | b"offline" | b"unknown"))
    }

    /// Starts the service.
    pub fn start(self) -> Result<(), Error> {
        let file = self.file()?;
        if !file.exists() && !self.packaged().is_some_and(Path::exists) {
            return Err(
                Error::usage("the service is not installed").hint("install it with: cdi service install")
            );
        }
        match self {
            Manager::Launchd => {
                let _ = launchctl(&["enable", &target()]);
                if is_loaded() {
                    return launchctl(&["kickstart", &target()]);
                }
                // For some seconds after a job was unloaded, loading it again fails.
                let start = Instant::now();
                loop {
                    match launchctl(&["bootstrap", &domain(), &file.to_string_lossy()]) {
                        Ok(()) => return Ok(()),
                        Err(_) if is_loaded() => return Ok(()),
                        Err(e) if start.elapsed() > RELOADING => return Err(e),
                        Err(_) => sleep(Duration::from_secs(1)),
                    }
                }
            }
            Manager::Systemd { .. } => self.systemctl(&["start", "cdi.service"]),
        }
    }

    /// Stops the service. Succeeds if it is not running.
    pub fn stop(self) -> Result<(), Error> {
        match self {
            Manager::Launchd => {
                // launchctl returns before the job has ended, even with an error; what counts is that it has ended.
                let mut answer = Ok(());
                let start = Instant::now();
                while is_loaded() {
                    if start.elapsed() > TIMEOUT {
                        return answer.and(Err(Error::failed("launchd does not unload the service")));
                    }
                    answer = launchctl(&["bootout", &target()]);
                    sleep(Duration::from_millis(500));
                }
                Ok(())
            }
            Manager::Systemd { .. } => self.systemctl(&["stop", "cdi.service"]),
        }
    }

    fn systemctl_command(self) -> Command {
        let mut systemctl = Command::new("systemctl");
        if self == (Manager::Systemd { system: false }) {
            systemctl.arg("--user");
        }
        systemctl
    }

    fn systemctl(self, args: &[&str]) -> Result<(), Error> {
        ask(self.systemctl_command().args(args), TIMEOUT, "").map(|_| ())
    }
}

/// The files and directories that an installation has written, with the previous content of the files.
#[derive(Default)]
struct Written {
    files: Vec<(PathBuf, Option<Vec<u8>>)>,
    dirs: Vec<PathBuf>,
}

impl Written {
    /// Writes a file atomically, and creates its parent directories.
    fn write(&mut self, path: &Path, text: &[u8]) -> Result<(), Error> {
        let dir = path.parent().unwrap_or(path);
        let missing = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists());
        self.dirs.extend(missing.map(Path::to_owned));
        fs::create_dir_all(dir).map_err(|e| Error::io("cannot create", dir, e))?;
        self.files.push((path.to_owned(), fs::read(path).ok()));
        replace(path, text)
    }

    /// Restores everything as it was before.
    fn undo(&self) {
        for (path, before) in self.files.iter().rev() {
            let _ = match before {
                Some(text) => fs::write(path, text),
                None => fs::remove_file(path),
            };
        }
        let mut dirs: Vec<_> = self.dirs.iter().collect();
        dirs.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
        for dir in dirs {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Returns the launchd domain of the user's graphical session.
fn domain() -> String {
    format!("gui/{}", nix::unistd::getuid())
}

fn target() -> String {
    format!("{}/{LABEL}", domain())
}

fn is_loaded() -> bool {
    launchctl(&["print", &target()]).is_ok()
}

fn launchctl(args: &[&str]) -> Result<(), Error> {
    ask(Command::new("launchctl").args(args), TIMEOUT, "").map(|_| ())
}

/// Returns launchd's property list. launchd expands neither `~` nor variables, so all paths are absolute.
fn launchd(program: &Path, config: &Path, log: &Path) -> Result<Vec<u8>, Error> {
    let text = |path: &Path| {
        let text =
            path.to_str().ok_or_else(|| Error::usage("path is not UTF-8, as launchd requires").at(path));
        text.map(|t| Value::String(t.into()))
    };
    let wrong = |e: plist::Error| Error::failed("cannot write the property list").because(e);
    let mut list = Value::from_reader_xml(Cursor::new(LAUNCHD)).map_err(wrong)?;
    let dict = list.as_dictionary_mut().ok_or_else(|| Error::failed("not a valid property list"))?;
    let args = ["service", "run", "--config"].map(|word| Value::String(word.into()));
    let arguments = [text(program)?].into_iter().chain(args).chain([text(config)?]);
    dict.insert("ProgramArguments".into(), Value::Array(arguments.collect()));
    dict.insert("StandardErrorPath".into(), text(log)?);
    let mut out = Vec::new();
    list.to_writer_xml(&mut out).map_err(wrong)?;
    Ok(out)
}

fn systemd(program: &Path, config: &Path, system: bool) -> Result<String, Error> {
    let quoted = |path: &Path| {
        let text = path.to_str().filter(|t| !t.contains(char::is_control));
        let text = text.ok_or_else(|| Error::usage("path cannot be written in a systemd unit").at(path))?;
        // systemd.service(5), "Command lines": quoted, quotes and backslashes escaped, other special characters
        // doubled.
        let mut out = String::from("\"");
        for c in text.chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '%' | '$' => out.extend([c, c]),
                c => out.push(c),
            }
        }
        out.push('"');
        Ok::<_, Error>(out)
    };
    let command = format!("ExecStart={} service run --config {}", quoted(program)?, quoted(config)?);
    // For ~ in the configuration; system services have no home directory.
    let home = if system { format!("Environment=HOME={}\n", quoted(&home()?)?) } else { String::new() };
    let target = if system { "WantedBy=multi-user.target" } else { "WantedBy=default.target" };
    let line = |line: &str| match line.split_once('=') {
        Some(("ExecStart", _)) => format!("{home}{command}"),
        Some(("WantedBy", _)) => target.to_owned(),
        _ => line.to_owned(),
    };
    // The comments before the first section are for readers of the source.
    let unit = SYSTEMD.lines().skip_while(|l| !l.starts_with('['));
    Ok(unit.map(|l| line(l) + "\n").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_property_list_has_absolute_paths_and_the_required_keys() {
        let list = launchd(
            Path::new("/opt/a & b/cdi"),
            Path::new("/Users/me/c<d>.json"),
            Path::new("/Users/me/l.log"),
        );
        let list = Value::from_reader_xml(Cursor::new(list.unwrap())).unwrap();
        let dict = list.as_dictionary().unwrap();
        let args: Vec<_> =
            dict["ProgramArguments"].as_array().unwrap().iter().map(|v| v.as_string().unwrap()).collect();
        assert_eq!(args, ["/opt/a & b/cdi", "service", "run", "--config", "/Users/me/c<d>.json"]);
        assert_eq!(dict["Label"].as_string(), Some(LABEL));
        assert_eq!(dict["StandardErrorPath"].as_string(), Some("/Users/me/l.log"));
        assert_eq!(dict["ProcessType"].as_string(), Some("Interactive"));
        assert_eq!(dict["ExitTimeOut"].as_unsigned_integer(), Some(60));
        assert_eq!(dict["AbandonProcessGroup"].as_boolean(), Some(true));
        assert_eq!(dict["LimitLoadToSessionType"].as_string(), Some("Aqua"));
        assert_eq!(dict["KeepAlive"].as_dictionary().unwrap()["SuccessfulExit"].as_boolean(), Some(false));
    }

    #[test]
    fn paths_in_the_systemd_unit_are_escaped() {
        let unit = systemd(Path::new("/opt/a b/cdi"), Path::new("/home/me/%h $x \"y\".json"), true).unwrap();
        assert!(unit.contains(
            "\nExecStart=\"/opt/a b/cdi\" service run --config \"/home/me/%%h $$x \\\"y\\\".json\"\n"
        ));
        assert!(unit.contains("\nEnvironment=HOME=\""));
        assert!(unit.starts_with("[Unit]\n") && unit.contains("\nWantedBy=multi-user.target\n"));
        assert!(systemd(Path::new("/a\nb"), Path::new("/c"), false).is_err());
    }
}
