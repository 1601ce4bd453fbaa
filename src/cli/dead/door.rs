//! Pushes one item through the RESP door of a running server, as a backend would. Knows four kinds of answers.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::cli::{FAILED, Failure, UNAVAILABLE, WRONG_USE};
use crate::sources::settings::DoorSettings;

/// How long connecting and each answer may take. The door answers when the item is kept.
const WAIT: Duration = Duration::from_secs(10);

/// What the door says when it has kept an item as a dead letter under a new id.
const DEAD_AGAIN: &str = "kept in the dead letters";

/// What became of an item that the server has taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was said.
    Said,
    /// It can still not be said: it is a new dead letter, as these words of the door tell.
    DeadAgain(String),
}

/// Returns when the server has taken the item.
pub(super) fn push(door: &DoorSettings, list: &str, item: &[u8]) -> Result<Taken, Failure> {
    if door.listen.is_empty() {
        return Err(Failure::new(
            WRONG_USE,
            "queue.door.listen is empty: the server's door is closed; open it, items of the store go back through it",
        ));
    }
    let unavailable = |error: std::io::Error| {
        let address = &door.listen;
        Failure::new(
            UNAVAILABLE,
            format!(
                "no server answers at {address} (queue.door.listen): {error}; start it, then requeue again"
            ),
        )
    };
    let stream = connect(&door.listen).map_err(unavailable)?;
    let mut answers = BufReader::new(stream);
    if !door.password.is_empty() {
        let answer = ask(&mut answers, &[b"AUTH", door.password.as_bytes()]).map_err(unavailable)?;
        if answer != "+OK" {
            let text =
                format!("the door at {} does not take queue.door.password: it says {answer}", door.listen);
            return Err(Failure::new(FAILED, text));
        }
    }
    let answer = ask(&mut answers, &[b"LPUSH", list.as_bytes(), item]).map_err(unavailable)?;
    if answer.starts_with(':') {
        return Ok(Taken::Said);
    }
    if answer.contains(DEAD_AGAIN) {
        return Ok(Taken::DeadAgain(answer));
    }
    Err(Failure::new(FAILED, format!("the door at {} did not take the item: it says {answer}", door.listen)))
}

fn connect(listen: &str) -> std::io::Result<TcpStream> {
    let mut last = None;
    for mut address in listen.to_socket_addrs()? {
        if address.ip().is_unspecified() {
            let own: IpAddr =
                if address.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
            address = SocketAddr::new(own, address.port());
        }
        match TcpStream::connect_timeout(&address, WAIT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(WAIT))?;
                stream.set_write_timeout(Some(WAIT))?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::other("the address names no machine")))
}

/// One command, and the line of its answer, escaped.
fn ask(answers: &mut BufReader<TcpStream>, words: &[&[u8]]) -> std::io::Result<String> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    answers.get_mut().write_all(&command)?;
    let mut line = Vec::new();
    if answers.read_until(b'\n', &mut line)? == 0 {
        return Err(std::io::Error::other("it hung up"));
    }
    Ok(line.trim_ascii_end().escape_ascii().to_string())
}
