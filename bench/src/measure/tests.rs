//! One measurement against servers that are honest and that are not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use super::*;
use crate::client::{Pace, Speakers};
use crate::marker::Mark;
use crate::tally::Faults;
use crate::wire;

/// How often a server says what it was told, by sequence.
type Echo = fn(u32) -> usize;

/// One connection of a server that answers each message to its own speaker only, as often as `echo` says.
fn serve_one(mut stream: TcpStream, echo: Echo) {
    let (mut inbox, mut buffer, mut offset) = (vec![], [0; 4096], 0);
    let answer =
        format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {}\r\n\r\n", wire::ACCEPT);
    let mut upgraded = false;
    loop {
        let Ok(length @ 1..) = stream.read(&mut buffer) else {
            return;
        };
        inbox.extend_from_slice(&buffer[..length]);
        if !upgraded {
            let Some(end) = memchr::memmem::find(&inbox, b"\r\n\r\n") else {
                continue;
            };
            inbox.drain(..end + 4);
            stream.write_all(answer.as_bytes()).expect("the client is there");
            upgraded = true;
        }
        while let Some(frame) = wire::next_frame(&inbox) {
            let mut body = inbox[frame.body_start..frame.end].to_vec();
            inbox.drain(..frame.end);
            wire::apply_mask(&mut body, frame.mask.expect("clients mask"));
            let mut out = vec![];
            match Mark::find(&body) {
                None => {
                    wire::server_frame(&mut out, wire::TEXT, b"{\"t\":\"live\",\"r\":\"room-1\",\"s\":0}")
                }
                Some(mark) => {
                    for _ in 0..echo(mark.sequence) {
                        offset += 1;
                        let said =
                            String::from_utf8_lossy(&body[memchr::memchr(b'~', &body).expect("a mark")..]);
                        let line = format!("{{\"t\":\"msg\",\"r\":\"room-1\",\"s\":{offset},\"d\":\"{said}");
                        wire::server_frame(&mut out, wire::TEXT, line.as_bytes());
                    }
                }
            }
            if stream.write_all(&out).is_err() {
                return;
            }
        }
    }
}

fn faults_of(echo: Echo) -> (Faults, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound listener").port();
    let server: JoinHandle<()> = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("one client");
        serve_one(stream, echo);
    });
    let plan = Plan {
        target: SocketAddrV4::new([127, 0, 0, 1].into(), port),
        also: vec![],
        since: None,
        rooms: 1,
        listeners: 1,
        speakers: Speakers::Members,
        pace: Pace::Rate(1000.0),
        payload_bytes: 64,
        stalled: 0,
        acknowledged: false,
        threads: 1,
        connecting_max: 1,
        run: 9,
    };
    let timing = Timing {
        warm_up: Duration::from_millis(50),
        measured: Duration::from_millis(50),
        counted: Duration::ZERO,
    };
    let figures = run(plan, timing, &Subject::default(), &Progress::new("test")).expect("a whole run");
    server.join().expect("the server's checks hold");
    (figures.faults, figures.deliveries)
}

#[test]
fn an_honest_server_has_no_faults() {
    let (faults, deliveries) = faults_of(|_| 1);
    assert_eq!(faults, Faults::default());
    assert!(deliveries > 0);
}

#[test]
fn a_server_that_loses_and_doubles_is_found_out() {
    // Losses during the warm-up count as well as later ones.
    let (faults, _) = faults_of(|sequence| match sequence {
        3 | 8 => 0,
        5 | 6 | 10 => 2,
        _ => 1,
    });
    assert_eq!(faults, Faults { lost: 2, doubled: 3, ..Faults::default() });
}
