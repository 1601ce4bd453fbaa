//! `roomcast dead`, tried on a store without a server and against a server that answers as a door does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::cli::FINE;
use crate::store::archive::Archive;
use crate::store::record::{Item, Record};
use crate::store::sqlite::SqliteArchive;

/// A store with three letters, oldest first; the second was pushed by PUBLISH.
fn store() -> (TempDir, SqliteArchive) {
    let folder = tempfile::tempdir().unwrap();
    let mut archive = SqliteArchive::open(&folder.path().join("roomcast.db")).unwrap();
    let letters = [
        ("d1", "door:jobs", &b"\xff\x00\x1b[31mone"[..]),
        ("d2", "door:publish", b"two"),
        ("d3", "door:jobs", b"three\nlines"),
    ];
    let items: Vec<Item> = (1..)
        .zip(letters)
        .map(|(lsn, (id, source, item))| {
            let reason = "not-json:\n\u{202e}no value".into();
            let item = Bytes::copy_from_slice(item);
            let record =
                Record::Dead(Letter { id: id.into(), ts: lsn * 1000, source: source.into(), reason, item });
            Item { lsn, record, with_next: false }
        })
        .collect();
    archive.append(&items).unwrap();
    (folder, archive)
}

/// The exit code and what was printed.
fn roomcast(folder: &Path, line: &str) -> (i32, Vec<u8>) {
    let config = folder.join("config.toml");
    let arguments = ["roomcast", "--config", config.to_str().unwrap()].into_iter().chain(line.split(' '));
    let mut out = Vec::new();
    let code = crate::cli::run_with(arguments.map(Into::into), Vec::new(), &mut out);
    (code, out)
}

fn configure(folder: &Path, door: &str) {
    let database = folder.join("roomcast.db");
    let text = format!(
        "store.url = \"sqlite://{}\"\n[queue]\nlist = \"jobs\"\ndoor.listen = \"{door}\"\ndoor.password = \"s3cret\"\n",
        database.display()
    );
    std::fs::write(folder.join("config.toml"), text).unwrap();
}

fn text(printed: Vec<u8>) -> String {
    String::from_utf8(printed).unwrap()
}

fn ids(folder: &Path) -> Vec<String> {
    let (code, printed) = roomcast(folder, "dead list");
    assert_eq!(code, FINE);
    text(printed).lines().map(|line| line.split("  ").next().unwrap().to_owned()).collect()
}

/// A door for one client that gives these answers; what it was asked, word by word.
fn door(answers: &'static [&'static str]) -> (String, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = std::thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let mut words = Vec::new();
        for answer in answers {
            words.extend(command(&mut stream));
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
        }
        words
    });
    (address, served)
}

fn command(stream: &mut BufReader<TcpStream>) -> Vec<Vec<u8>> {
    let mut number = |start: char| -> usize {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        line.trim_end().strip_prefix(start).unwrap().parse().unwrap()
    };
    let count = number('*');
    let mut words = Vec::new();
    for _ in 0..count {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let mut word = vec![0; line.trim_end()[1..].parse::<usize>().unwrap() + 2];
        stream.read_exact(&mut word).unwrap();
        words.push(word[..word.len() - 2].to_vec());
    }
    words
}

#[test]
fn a_line_neither_breaks_nor_colours_a_terminal() {
    let (folder, _server) = store();
    configure(folder.path(), "");
    assert_eq!(ids(folder.path()), ["d3", "d2", "d1"]);
    let (code, printed) = roomcast(folder.path(), "dead list -n 1");
    let expected =
        "d3  1970-01-01T00:00:03.000Z  door:jobs  not-json:\\n\\u{202e}no value  three\\nlines (11 bytes)\n";
    assert_eq!((code, text(printed)), (FINE, expected.to_owned()));
    let (_, all) = roomcast(folder.path(), "dead list");
    assert!(all.iter().all(|byte| *byte == b'\n' || (b' '..=b'~').contains(byte)));
}

#[test]
fn an_item_is_shown_byte_for_byte_and_a_dropped_one_is_gone() {
    let (folder, _server) = store();
    configure(folder.path(), "");
    assert_eq!(roomcast(folder.path(), "dead show d1"), (FINE, b"\xff\x00\x1b[31mone".to_vec()));
    assert_eq!(roomcast(folder.path(), "dead drop d1"), (FINE, b"dropped 1\n".to_vec()));
    assert_eq!(roomcast(folder.path(), "dead show d1"), (FAILED, Vec::new()));
    assert_eq!(roomcast(folder.path(), "dead drop d1").0, FAILED);
    assert_eq!(ids(folder.path()), ["d3", "d2"]);
    assert_eq!(roomcast(folder.path(), "dead drop --all"), (FINE, b"dropped 2\n".to_vec()));
    assert_eq!(ids(folder.path()), Vec::<String>::new());
    for wrong in ["dead", "dead drop", "dead drop d1 --all", "dead show"] {
        assert_eq!(roomcast(folder.path(), wrong).0, WRONG_USE, "{wrong}");
    }
}

#[test]
fn a_letter_goes_back_through_the_door_and_is_removed_after_the_answer() {
    let (folder, _server) = store();
    let (address, served) = door(&["+OK\r\n", ":1\r\n"]);
    configure(folder.path(), &address);
    assert_eq!(roomcast(folder.path(), "dead requeue d1"), (FINE, b"requeued 1\n".to_vec()));
    let words = served.join().unwrap();
    assert_eq!(words, [&b"AUTH"[..], b"s3cret", b"LPUSH", b"jobs", b"\xff\x00\x1b[31mone"]);
    assert_eq!(ids(folder.path()), ["d3", "d2"]);
}

#[test]
fn an_item_that_dies_again_is_one_letter_and_not_two() {
    let (folder, _server) = store();
    let (address, served) =
        door(&["+OK\r\n", "-ERR not-json: no value (kept in the dead letters as d9)\r\n"]);
    configure(folder.path(), &address);
    assert_eq!(roomcast(folder.path(), "dead requeue d3"), (FINE, b"requeued 1\n".to_vec()));
    served.join().unwrap();
    assert_eq!(ids(folder.path()), ["d2", "d1"], "d9 is the server's to keep");
}

#[test]
fn all_go_back_but_those_that_cannot() {
    let (folder, _server) = store();
    // A new connection each; the one of PUBLISH opens none.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    configure(folder.path(), &listener.local_addr().unwrap().to_string());
    let served = std::thread::spawn(move || {
        let serve = |_| {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            command(&mut stream);
            stream.get_mut().write_all(b"+OK\r\n").unwrap();
            let words = command(&mut stream);
            stream.get_mut().write_all(b":1\r\n").unwrap();
            words[2].clone()
        };
        (0..2).map(serve).collect::<Vec<_>>()
    });
    assert_eq!(roomcast(folder.path(), "dead requeue --all"), (FAILED, Vec::new()));
    assert_eq!(served.join().unwrap(), [&b"\xff\x00\x1b[31mone"[..], b"three\nlines"], "oldest first");
    assert_eq!(ids(folder.path()), ["d2"]);
}

#[test]
fn a_letter_stays_when_the_door_says_no_or_nobody_is_there() {
    let (folder, _server) = store();
    let (address, served) = door(&["+OK\r\n", "-BUSY try later\r\n"]);
    configure(folder.path(), &address);
    assert_eq!(roomcast(folder.path(), "dead requeue d3").0, FAILED);
    served.join().unwrap();
    // Nobody listens there any more.
    assert_eq!(roomcast(folder.path(), "dead requeue d3").0, UNAVAILABLE);
    assert_eq!(roomcast(folder.path(), "dead requeue d2").0, FAILED, "a room is no list");
    configure(folder.path(), "");
    assert_eq!(roomcast(folder.path(), "dead requeue d3").0, WRONG_USE);
    assert_eq!(ids(folder.path()), ["d3", "d2", "d1"]);
}

#[test]
fn no_store_yet_means_no_letters_and_redis_away_is_said() {
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), "");
    assert_eq!(roomcast(folder.path(), "dead list"), (FINE, Vec::new()));
    assert!(!folder.path().join("roomcast.db").exists(), "looking makes no store");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = format!("dead list --set redis.url=redis://{free}");
    assert_eq!(roomcast(folder.path(), &away), (UNAVAILABLE, Vec::new()));
}
