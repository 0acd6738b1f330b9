//! The examples as processes of their own: started, listened to, and waited for.

use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A program that runs; dropped, it is killed.
pub(crate) struct Program {
    name: String,
    child: Child,
    begun: Instant,
    out: Lines,
    err: Lines,
    /// They read to the end of what it says.
    listeners: Vec<JoinHandle<()>>,
}

/// What a program came to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// From its start to its exit.
    pub(crate) took: Duration,
    /// From its last line on standard output to its exit.
    pub(crate) silent: Duration,
    pub(crate) out: Vec<String>,
    pub(crate) err: Vec<String>,
}

impl Program {
    /// Starts the example `name`.
    pub(crate) fn start(name: &str, args: &[&str]) -> Program {
        let mut command = Command::new(example(name));
        command.args(args);
        Program::run(name, command)
    }

    /// Starts a command that ends in an example.
    pub(crate) fn run(name: &str, mut command: Command) -> Program {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn().expect("an example that starts");
        let (out, err) = (Lines::default(), Lines::default());
        let listeners = vec![
            out.hear(child.stdout.take().expect("it is piped")),
            err.hear(child.stderr.take().expect("it is piped")),
        ];
        Program { name: name.to_owned(), child, begun, out, err, listeners }
    }

    /// Where it is typed into; dropped, that ends.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("nobody took it yet")
    }

    /// The line of its standard output that has this in it, once it comes.
    #[track_caller]
    pub(crate) fn says(&self, what: &str) -> String {
        let line = self.out.wait_for(what);
        line.unwrap_or_else(|| panic!("{} did not say {what:?}: {:?}", self.name, self.err))
    }

    /// The same of its standard error.
    #[track_caller]
    pub(crate) fn warns(&self, what: &str) -> String {
        let line = self.err.wait_for(what);
        line.unwrap_or_else(|| panic!("{} did not warn of {what:?}: {:?}", self.name, self.err))
    }

    /// The address that it tells the other side.
    #[track_caller]
    pub(crate) fn address(&self) -> String {
        let line = self.says("/p2p/");
        line.split(' ').find(|word| word.contains("/p2p/")).expect("it was found").to_owned()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a process of ours");
    }

    /// Waits for its exit.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        // What is not typed now never will be.
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("a process of ours");
        let exit = Instant::now();
        for listener in self.listeners.drain(..) {
            listener.join().expect("it only listens");
        }
        let (out, last) = self.out.taken();
        let (err, _) = self.err.taken();
        let silent = exit.saturating_duration_since(last.unwrap_or(self.begun));
        Ended { status, took: exit - self.begun, silent, out, err }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn code(&self, code: i32) -> &Ended {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self
    }
}

/// The lines that have come so far.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<(Mutex<Heard>, Condvar)>);

#[derive(Debug, Default)]
struct Heard {
    lines: Vec<String>,
    last: Option<Instant>,
    ended: bool,
}

impl Lines {
    fn hear(&self, from: impl Read + Send + 'static) -> JoinHandle<()> {
        let heard = self.0.clone();
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let (lines, came) = &*heard;
            loop {
                let line = line(&mut from);
                let mut heard = lines.lock().expect("nobody panics with it");
                match line {
                    Ok(Some(line)) => {
                        heard.lines.push(line);
                        heard.last = Some(Instant::now());
                    }
                    _ => heard.ended = true,
                }
                came.notify_all();
                if heard.ended {
                    return;
                }
            }
        })
    }

    /// `None`: it ended without, or is late.
    fn wait_for(&self, what: &str) -> Option<String> {
        let (lines, came) = &*self.0;
        let until = Instant::now() + PATIENCE;
        let mut heard = lines.lock().expect("nobody panics with it");
        loop {
            if let Some(line) = heard.lines.iter().find(|line| line.contains(what)) {
                return Some(line.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if heard.ended || left.is_zero() {
                return None;
            }
            heard = came.wait_timeout(heard, left).expect("nobody panics with it").0;
        }
    }

    fn taken(&self) -> (Vec<String>, Option<Instant>) {
        let mut heard = self.0.0.lock().expect("nobody panics with it");
        (std::mem::take(&mut heard.lines), heard.last)
    }
}

fn line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned()))
}

/// The example `name` of the profile and the features that this test was built with.
/// `cargo test --test NAME` does not build it, and what an earlier build left may be of
/// another source: so it is built, which costs nothing where that is done.
fn example(name: &str) -> PathBuf {
    static PROFILE: OnceLock<PathBuf> = OnceLock::new();
    let profile = PROFILE.get_or_init(|| {
        let this = std::env::current_exe().expect("this program");
        let profile = this.ancestors().nth(2).expect("target, profile, deps").to_owned();
        let profile_name = match profile.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let features = [
            ("lz4", cfg!(feature = "lz4")),
            ("progress", cfg!(feature = "progress")),
            ("zstd", cfg!(feature = "zstd")),
        ];
        let features = features.iter().filter(|feature| feature.1).map(|feature| feature.0);
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--quiet", "--offline", "--examples", "--profile", profile_name])
            .args(["--features", &features.collect::<Vec<_>>().join(" ")])
            .arg("--target-dir")
            .arg(profile.parent().expect("target"));
        // What cargo tells a test of its package would have build scripts run again.
        let told = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        for name in told.filter(|name| TOLD.iter().any(|told| name.starts_with(told))) {
            cargo.env_remove(name);
        }
        let built = cargo.status().expect("cargo runs");
        assert!(built.success(), "the examples do not build");
        profile
    });
    profile.join("examples").join(name)
}

const TOLD: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"];

/// How long a line may take that has to come: longer than any test.
const PATIENCE: Duration = Duration::from_secs(30);
