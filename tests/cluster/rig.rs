//! The rig itself: wires carry, fall silent and are closed as a story says; costs are read from diaries as they
//! are written there.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::figures;
use crate::processes::owners;
use crate::wires::{Party, Wire, Wires};

/// How long a silent wire is listened to. What it carried would come in far less.
const LISTENS: Duration = Duration::from_millis(200);

/// Somebody who says everything again, behind a wire; and the wire's other end.
async fn echo(wires: &Wires) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                // Ends with the wire.
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    });
    wires.lay(Party::Redis(0), port)
}

async fn says(stream: &mut TcpStream, word: &[u8; 4]) {
    stream.write_all(word).await.expect("the near end of a wire takes what it is given");
}

async fn hears(stream: &mut TcpStream) -> Option<[u8; 4]> {
    let mut word = [0; 4];
    let heard = timeout(Duration::from_secs(10), stream.read_exact(&mut word)).await;
    heard.expect("a wire that is whole or closed answers").ok().map(|_| word)
}

#[tokio::test]
async fn wires_fall_silent_and_are_closed() {
    let wires = Wires::new();
    let port = echo(&wires).await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the wire is there");
    says(&mut stream, b"one.").await;
    assert_eq!(hears(&mut stream).await.as_ref(), Some(b"one."));

    let pair = (Party::Redis(0), Party::Story);
    wires.cut([pair], Wire::Silent);
    says(&mut stream, b"two.").await;
    let mut byte = [0];
    assert!(timeout(LISTENS, stream.read(&mut byte)).await.is_err(), "nothing comes, and no end");
    let mut late = TcpStream::connect(("127.0.0.1", port)).await.expect("a connect is not refused");
    says(&mut late, b"late").await;
    assert!(timeout(LISTENS, late.read(&mut byte)).await.is_err(), "nor on a new one");
    wires.mend();
    assert_eq!(hears(&mut stream).await.as_ref(), Some(b"two."), "what was under way comes after all");
    assert_eq!(hears(&mut late).await.as_ref(), Some(b"late"));

    wires.cut([(Party::Redis(0), Party::Node(1))], Wire::Closed);
    says(&mut stream, b"oth.").await;
    assert_eq!(hears(&mut stream).await.as_ref(), Some(b"oth."), "another pair's cut is not ours");

    wires.cut([pair], Wire::Silent);
    says(&mut stream, b"lost").await;
    wires.cut([pair], Wire::Closed);
    assert_eq!(hears(&mut stream).await, None, "closed, and what was under way is lost");
    let mut refused = TcpStream::connect(("127.0.0.1", port)).await.expect("the relay listens");
    assert_eq!(hears(&mut refused).await, None);
    wires.mend();
    let mut again = TcpStream::connect(("127.0.0.1", port)).await.expect("the wire is there");
    says(&mut again, b"anew").await;
    assert_eq!(hears(&mut again).await.as_ref(), Some(b"anew"));
}

#[tokio::test]
async fn the_owner_of_a_connection_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
    let port = stream.local_addr().expect("connected").port();
    let own = std::process::id();
    assert_eq!(owners(&[1, own]).get(&port), Some(&own));
    assert_eq!(owners(&[1]).get(&port), None, "it is of somebody else");
    drop(stream);
    assert_eq!(owners(&[own]).get(&port), None, "it is gone");
}

#[test]
fn costs_are_read_from_diaries() {
    let folder = tempfile::tempdir().expect("temporary files can be made");
    let diary = |name: &str, lines: &[(&str, u64, &str)]| {
        let lines = lines
            .iter()
            .map(|(dir, ms, frame)| format!("{{\"dir\":\"{dir}\",\"ms\":{ms},\"frame\":{frame}}}\n"));
        let path = folder.path().join(format!("{name}.jsonl"));
        std::fs::write(&path, lines.collect::<String>()).expect("the folder can be written");
        path
    };
    let said = |id: &str| format!(r#"{{"t":"pub","r":"a","id":"{id}","d":1}}"#);
    let acked = |id: &str, s: u64| format!(r#"{{"t":"ack","r":"a","s":{s},"id":"{id}"}}"#);
    let heard =
        |id: &str, s: u64| format!(r#"{{"t":"msg","r":"a","s":{s},"id":"{id}","u":"w","ts":7,"d":1}}"#);
    let writer = diary(
        "writer-0",
        &[
            ("out", 1_000, &said("w-1")),
            ("in", 1_010, &acked("w-1", 1)),
            ("out", 1_900, &said("w-2")),
            // The fault comes at 2,000: this one was said before it, and again after it.
            ("out", 2_500, &said("w-2")),
            ("in", 2_510, &acked("w-2", 2)),
            ("out", 2_600, &said("w-3")),
            ("in", 3_000, &acked("w-3", 3)),
        ],
    );
    let reader = diary("reader-0", &[("in", 2_520, &heard("w-2", 2)), ("in", 3_700, &heard("w-3", 3))]);
    // Who only came to look is not measured.
    let asker = diary("asker-0", &[("in", 9_000, &heard("w-3", 3))]);
    let cost = figures::cost(&[writer, reader, asker], &[2_000]);
    assert_eq!((cost.pause, cost.recovery), (1_500, 1_700));
}
