//! `cdi serve`.

use std::process::{Child, Stdio};

use super::{Lab, run};

/// `cdi serve disk.cdimg`, ended with the test.
pub struct Server {
    pub child: Child,
    pub url: String,
}

impl Server {
    pub fn start(lab: &Lab, options: &[&str]) -> Server {
        Server::of(lab, &[&["disk.cdimg"], options].concat())
    }

    /// Starts a server with these arguments.
    pub fn of(lab: &Lab, words: &[&str]) -> Server {
        let mut command = lab.command();
        command.args(["-q", "serve"]).args(words);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut url)
            .unwrap();
        Server { child, url: url.trim().into() }
    }

    pub fn end(mut self) -> i32 {
        run("kill", ["-TERM".to_owned(), self.child.id().to_string()]);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
