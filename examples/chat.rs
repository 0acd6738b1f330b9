//! A room where everybody reads what everybody writes: a thread per connection,
//! and blocking reads.

mod common;

use common::{Args, Result};
use pointsub::{Conn, Host, Listener, PeerId};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const PROTOCOL: &str = "/chat/1.0.0";

const USAGE: &str = "
A room where everybody reads what everybody writes.

    cargo run --example chat [-- --listen IP:PORT]    opens a room
    cargo run --example chat -- ADDRESS               enters it

ADDRESS is what the room prints.";

fn main() -> ExitCode {
    common::run(USAGE, |mut args: Args| {
        if let Some(address) = args.first() {
            args.positional(0)?;
            return enter(&address);
        }
        let host = common::listening_host(&mut args)?;
        args.positional(0)?;
        open(&host)
    })
}

/// Who is in the room.
#[derive(Default)]
struct Room {
    guests: Mutex<HashMap<PeerId, Conn>>,
}

impl Room {
    fn admit(&self, peer: PeerId, conn: Conn) {
        self.lock().insert(peer, conn);
        self.say(&format!("* {peer} came"));
    }

    fn dismiss(&self, peer: &PeerId) {
        self.lock().remove(peer);
        self.say(&format!("* {peer} left"));
    }

    /// Tells everybody. Who takes nothing for a second is thrown out.
    fn say(&self, line: &str) {
        let line = common::plain(line);
        println!("{line}");
        self.lock().retain(|_, conn| {
            let told = writeln!(conn, "{line}").is_ok();
            if !told {
                let _ = conn.shutdown(Shutdown::Both);
            }
            told
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PeerId, Conn>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(host: &Host) -> Result {
    let listener = Listener::bind(host, PROTOCOL)?;
    common::print_other_side(host, |address| format!("cargo run --example chat -- {address}"));
    let room = Arc::<Room>::default();
    loop {
        let (conn, peer) = listener.accept()?;
        let room = room.clone();
        thread::spawn(move || {
            if let Err(error) = listen_to(&room, peer, conn) {
                println!("{peer}: {error}");
            }
            room.dismiss(&peer);
        });
    }
}

fn listen_to(room: &Room, peer: PeerId, conn: Conn) -> io::Result<()> {
    conn.set_write_timeout(Some(Duration::from_secs(1)))?;
    room.admit(peer, conn.try_clone()?);
    for line in BufReader::new(conn).lines() {
        room.say(&format!("{peer}: {}", line?));
    }
    Ok(())
}

fn enter(address: &str) -> Result {
    let host = Host::new()?;
    let conn = Conn::connect(&host, address, PROTOCOL)?;
    common::tell_of_losses(&host);
    println!("you are {}; type lines, leave with Ctrl-D", host.peer_id());
    let heard = BufReader::new(conn.try_clone()?);
    thread::spawn(move || {
        if let Err(error) = speak(conn) {
            eprintln!("error: {error}");
        }
    });
    for line in heard.lines() {
        println!("{}", common::plain(&line?));
    }
    // The thread that waits for lines has the conn too.
    host.shutdown();
    Ok(())
}

fn speak(mut conn: Conn) -> io::Result<()> {
    for line in io::stdin().lines() {
        writeln!(conn, "{}", line?)?;
    }
    conn.shutdown(Shutdown::Write)
}
