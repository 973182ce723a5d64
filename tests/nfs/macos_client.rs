//! A model of macOS's NFS client: when it repeats a call, when it gives one up, and when it takes the server for dead.
//! Its timers are those of its published source: apple-oss-distributions/NFS, version NFS-339, kext/nfs_socket.c. The
//! lines in the comments are of that file. It was not compared with a Mac.
//!
//! The options and the server's times are those of the program, so a change of them that a Mac would not bear fails
//! here.

use cdi_serve::nfs::{HUNG, MACOS_TIMERS, TIMEOUT};

/// Ticks of the client's timer in a second (NFS_HZ).
const HZ: u64 = 100;
/// The longest time until a request is late, in ticks (NFS_MAXTIMEO).
const MAX_TIMEO: u64 = 60 * HZ;
/// The first delay after "try again later", in seconds (NFS_TRYLATERDEL), and the last.
const FIRST_DELAY: u64 = 4;
const LAST_DELAY: u64 = 30;
/// After how many seconds a request that goes on is reported first, and again (NFS_TPRINTF_INITIAL_DELAY,
/// NFS_TPRINTF_DELAY).
const FIRST_REPORT: u64 = 5;
const REPORTS: u64 = 30;
/// The time that a server which answers at once teaches the client (lines 246 and 4167), in ticks.
const LEARNT: u64 = 3;

/// What mount_nfs was told about time.
#[derive(Debug, Clone, Copy)]
struct Timers {
    /// In ticks.
    timeo: u64,
    dumb: bool,
    retrans: u64,
    mute_jukebox: bool,
    /// In seconds.
    dead: u64,
}

impl Timers {
    fn of(words: &str) -> Timers {
        let number = |name: &str| {
            words.split(',').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
        };
        let has = |name: &str| words.split(',').any(|word| word == name);
        Timers {
            timeo: number("timeo").unwrap() * HZ / 10,
            dumb: has("dumbtimer"),
            retrans: number("retrans").unwrap(),
            mute_jukebox: has("mutejukebox"),
            dead: number("deadtimeout").unwrap(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Data,
    Later,
    Error,
}

/// A server in trouble. Times are in ticks.
#[derive(Debug, Clone, Copy)]
enum Server {
    /// The source of the disk hangs until this time; without `hung`, the client is told to try again forever.
    Hangs { until: u64, hung: Option<u64> },
    /// The process stands still until this time, and answers nothing.
    Silent { until: u64 },
}

impl Server {
    /// Returns the reply to a read that was sent at `sent`, and first at `first`, and when it comes.
    fn reply(self, first: u64, sent: u64) -> (u64, Reply) {
        match self {
            Server::Silent { until } => (until.max(sent + 1), Reply::Data),
            Server::Hangs { until, .. } if until <= sent + TIMEOUT.as_secs() * HZ => {
                (until.max(sent + 1), Reply::Data)
            }
            Server::Hangs { hung, .. } => {
                let at = sent + TIMEOUT.as_secs() * HZ;
                let failed = hung.is_some_and(|hung| at - first >= hung);
                (at, if failed { Reply::Error } else { Reply::Later })
            }
        }
    }
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Data,
    /// The server's error: EIO.
    Error,
    /// ETIMEDOUT.
    TimedOut,
    /// The mount is dead: ENXIO.
    Dead,
}

#[derive(Debug)]
struct Request {
    /// Whether a process waits for it. Others are read ahead; they are never given up (R_NOINTR, lines 4375, 4887 and
    /// 5818).
    waited_for: bool,
    first: u64,
    sent: u64,
    reply: (u64, Reply),
    /// The ticks since it was sent or was last late (r_rtt).
    ticks: u64,
    /// How often it was late or sent again (r_rexmit).
    late: u64,
    /// In seconds (r_delay).
    delay: u64,
    /// When it is sent again, while it waits for that.
    sleeps_until: Option<u64>,
    last_report: u64,
    end: Option<(End, u64)>,
}

/// The client's state of the mount.
struct Client {
    timers: Timers,
    server: Server,
    requests: Vec<Request>,
    /// How many timeouts there were since the last reply (nm_timeouts).
    timeouts: u64,
    last_reply: u64,
    timed_out: bool,
    jukebox: bool,
    dead_clock: Option<u64>,
    dead: Option<u64>,
    now: u64,
}

impl Client {
    fn new(timers: Timers, server: Server) -> Client {
        Client {
            timers,
            server,
            requests: Vec::new(),
            timeouts: 0,
            last_reply: 0,
            timed_out: false,
            jukebox: false,
            dead_clock: None,
            dead: None,
            now: 0,
        }
    }

    fn send(&mut self, waited_for: bool) {
        let now = self.now;
        self.requests.push(Request {
            waited_for,
            first: now,
            sent: now,
            reply: self.server.reply(now, now),
            ticks: 0,
            late: 0,
            delay: 0,
            sleeps_until: None,
            last_report: (now / HZ).saturating_sub(REPORTS - FIRST_REPORT),
            end: None,
        });
    }

    fn is_unresponsive(&self) -> bool {
        self.timed_out || (self.jukebox && !self.timers.mute_jukebox)
    }

    /// nfs_down, line 6627.
    fn down(&mut self, now: u64, timed_out: bool, may_bury: bool) {
        let was = self.is_unresponsive();
        self.timed_out |= timed_out;
        self.jukebox |= !timed_out;
        if self.is_unresponsive() {
            if !was {
                self.dead_clock = Some(now / HZ);
            } else if may_bury && self.dead_clock.is_some_and(|since| now / HZ - since > self.timers.dead) {
                self.bury(now);
            }
        }
    }

    /// nfs_up, line 6690.
    fn up(&mut self, timed_out: bool) {
        let was = self.is_unresponsive();
        if timed_out {
            self.timed_out = false;
        } else {
            self.jukebox = false;
        }
        if was && !self.is_unresponsive() {
            self.dead_clock = None;
        }
    }

    /// nfs_mount_check_dead_timeout, line 2401.
    fn is_due(&self) -> bool {
        self.dead_clock.is_some_and(|since| self.now / HZ - since >= self.timers.dead)
    }

    fn bury(&mut self, now: u64) {
        self.dead = Some(now);
        for request in &mut self.requests {
            request.end.get_or_insert((End::Dead, now));
        }
    }

    /// A reply, lines 4120 and 4700.
    fn receive(&mut self, n: usize, now: u64) {
        self.timeouts = 0;
        self.up(true);
        match self.requests[n].reply.1 {
            Reply::Later => {
                let request = &mut self.requests[n];
                request.delay =
                    if request.delay == 0 { FIRST_DELAY } else { request.delay * 2 }.min(LAST_DELAY);
                let (delay, waited_for) = (request.delay, request.waited_for);
                if delay >= FIRST_REPORT {
                    self.down(now, false, true);
                }
                let request = &mut self.requests[n];
                if delay == LAST_DELAY && waited_for {
                    request.end.get_or_insert((End::TimedOut, now));
                } else {
                    request.sleeps_until = Some(now + delay * HZ);
                }
            }
            reply => {
                self.last_reply = now;
                self.up(false);
                let end = if reply == Reply::Data { End::Data } else { End::Error };
                self.requests[n].end.get_or_insert((end, now));
            }
        }
    }

    /// nfs_request_timer, line 5598.
    fn tick(&mut self, n: usize, now: u64) {
        let seconds = now / HZ;
        self.requests[n].ticks += 1;
        // Line 5659.
        let heard = (self.last_reply / HZ).saturating_sub(REPORTS - FIRST_REPORT);
        if self.requests[n].late > 2 && heard.max(self.requests[n].last_report) + REPORTS < seconds {
            self.requests[n].last_report = seconds;
            self.down(now, true, false);
        }
        // Line 5688.
        let most = MAX_TIMEO / (self.timeouts + 1) / 2;
        let mut timeo = if self.timers.dumb { self.timers.timeo } else { LEARNT };
        while 16 * timeo < HZ {
            timeo *= 2;
        }
        if self.timeouts > 0 {
            timeo <<= self.timeouts;
        }
        if self.requests[n].ticks <= timeo.min(most) {
            return;
        }
        self.timeouts = (self.timeouts + 1).min(8);
        if self.is_due() {
            return self.bury(now);
        }
        // Line 5802.
        let request = &self.requests[n];
        let start = heard.max(request.sent / HZ);
        if request.late >= self.timers.retrans || (seconds - start) * HZ > most {
            let waited_for = request.waited_for;
            self.down(now, true, false);
            if waited_for {
                self.requests[n].end = Some((End::TimedOut, now));
            }
            return;
        }
        let request = &mut self.requests[n];
        (request.late, request.ticks) = (request.late + 1, 0);
    }

    /// Lets time pass until nobody waits for a request, and with `ahead` until all have ended. With `stats`, a process
    /// asks for attributes every second, which the server answers if it answers anything.
    fn run(&mut self, stats: bool, ahead: bool) {
        while self.requests.iter().any(|r| r.end.is_none() && (ahead || r.waited_for)) {
            self.now += 1;
            let now = self.now;
            assert!(now < NEVER, "a request never ends");
            for n in 0..self.requests.len() {
                let request = &mut self.requests[n];
                if request.end.is_some() {
                    continue;
                }
                match request.sleeps_until {
                    Some(until) if now < until => {}
                    Some(_) => {
                        (request.sleeps_until, request.sent, request.ticks) = (None, now, 0);
                        request.late += 1;
                        request.reply = self.server.reply(request.first, now);
                    }
                    None if now >= request.reply.0 => self.receive(n, now),
                    None => self.tick(n, now),
                }
            }
            // The mount's own thread, line 2314.
            if now.is_multiple_of(HZ) && self.is_due() {
                self.bury(now);
            }
            if stats
                && now.is_multiple_of(HZ)
                && matches!(self.server, Server::Hangs { .. })
                && self.dead.is_none()
            {
                self.timeouts = 0;
                self.last_reply = now;
                self.up(true);
            }
        }
    }
}

/// What reads at the same time: `ahead` requests that are read ahead, and before or after them one that a process waits
/// for.
fn read(timers: &str, server: Server, ahead: usize, stats: bool) -> (End, u64, Client) {
    let mut client = Client::new(Timers::of(timers), server);
    (0..ahead).for_each(|_| client.send(false));
    client.send(true);
    client.run(stats, false);
    let (end, at) = client.requests[ahead].end.unwrap();
    (end, at, client)
}

/// The options of before: the time of reads is learnt, and "try again later" has no end.
const BEFORE: &str = "timeo=100,retrans=3,deadtimeout=45";
const NEVER: u64 = 100_000 * HZ;

tests!(
    /// The numbers of the client's timer loop replayed by somebody else.
    fn the_model_gives_known_numbers() {
        let dumb = &format!("{BEFORE},dumbtimer");
        for (timers, ahead, expect) in [
            (BEFORE, 0, 184),
            (BEFORE, 4, 530),
            (BEFORE, 16, 430),
            (dumb, 0, 2500),
            (dumb, 4, 1500),
            (dumb, 16, 1500),
        ] {
            let (end, at, _) = read(timers, Server::Silent { until: NEVER }, ahead, false);
            assert_eq!(end, End::TimedOut);
            assert!(at.abs_diff(expect) <= 5, "{timers}, {ahead} read ahead: {at} and not {expect}");
        }
        // A source that hangs cost the mount.
        let dumb = format!("{BEFORE},dumbtimer");
        let (_, _, mut client) = read(&dumb, Server::Hangs { until: NEVER, hung: None }, 4, false);
        client.run(false, true);
        assert_eq!(client.dead.map(|at| at / HZ), Some(61));
    }

    /// What a reader gets while the source hangs: the data as soon as it is there or is asked for again, or after half a
    /// minute an error; never a false error of good sectors before that, and never the loss of the mount.
    fn a_source_that_hangs_is_an_error_after_half_a_minute_and_costs_no_mount() {
        let hung = Some(HUNG.as_secs() * HZ);
        for seconds in [1, 3, 6, 7, 10, 12, 20, 24, 29, 30, 31, 40, 60, 300, 3000] {
            for (ahead, stats) in [(0, false), (4, false), (16, false), (127, false), (0, true), (16, true)] {
                let server = Server::Hangs { until: seconds * HZ, hung };
                let (end, at, mut client) = read(MACOS_TIMERS, server, ahead, stats);
                let expect = if seconds <= 30 { End::Data } else { End::Error };
                let what =
                    format!("hangs for {seconds} s, {ahead} read ahead, stat {stats}: {end:?} at {at}");
                assert_eq!(end, expect, "{what}");
                assert!(at <= 31 * HZ && (end == End::Error || at >= seconds * HZ), "{what}");
                // Those read ahead end, too.
                client.run(stats, true);
                assert_eq!(client.dead, None, "{what}");
            }
        }
    }

    fn a_dead_server_is_an_error_within_45_seconds() {
        for ahead in [0, 4, 16, 127] {
            for seconds in [3, 9] {
                let server = Server::Silent { until: seconds * HZ };
                let (end, at, _) = read(MACOS_TIMERS, server, ahead, false);
                assert_eq!((end, at), (End::Data, seconds * HZ), "{ahead} read ahead");
            }
            let (end, at, _) = read(MACOS_TIMERS, Server::Silent { until: NEVER }, ahead, false);
            assert!(matches!(end, End::TimedOut | End::Dead) && at <= 45 * HZ, "{ahead}: {end:?} at {at}");
        }
    }
);
