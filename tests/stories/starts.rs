//! Promise: what docs/http.md gives to copy and paste works as it stands there.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use crate::stage::eventually;
use crate::stage::hall::Hall;

const PAGE: &str = include_str!("../../docs/http.md");

/// The blocks of a language, with the address of a hall in place of theirs.
fn blocks(language: &str, hall: &Hall) -> Vec<String> {
    let fence = format!("```{language}\n");
    let all = PAGE.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    all.map(|block| block.replace("localhost:8080", &hall.address().to_string())).collect()
}

/// A shell that runs a block; it ends with this, and so does what it has started.
struct Shell {
    child: Child,
    out: Arc<Mutex<String>>,
}

impl Shell {
    fn runs(block: &str) -> Shell {
        let mut command = Command::new("bash");
        command.args(["-c", block]).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().expect("bash is there");
        let (out, stdout) = (Arc::new(Mutex::new(String::new())), child.stdout.take().expect("piped"));
        let copy = out.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut text = copy.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        });
        Shell { child, out }
    }

    fn text(&self) -> String {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn prints(&self, what: &str) {
        eventually(what, || async { self.text().contains(what).then_some(()) }).await;
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It may have ended by itself.
        let group = format!("-{}", self.child.id());
        Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn the_lines_for_a_shell_do_what_the_page_says() {
    let hall = Hall::open().await;
    let all = blocks("sh", &hall);
    let [stream, send, poll, log] = all.as_slice() else { panic!("four blocks are expected: {all:#?}") };
    let (stream, poll) = (Shell::runs(stream), Shell::runs(poll));
    stream.prints("\"t\":\"live\"").await;
    poll.prints("\"t\":\"live\"").await;
    let sent = Shell::runs(send);
    sent.prints("{\"t\":\"ack\",\"r\":\"lobby\",\"s\":1,\"id\":\"bob-1\"").await;
    stream.prints("data: {\"t\":\"msg\",\"r\":\"lobby\",\"s\":1,\"id\":\"bob-1\",\"u\":\"bob\"").await;
    poll.prints("{\"t\":\"msg\",\"r\":\"lobby\",\"s\":1,\"id\":\"bob-1\",\"u\":\"bob\"").await;
    Shell::runs(log).prints("\"d\":\"hi all\"}],\"more\":false}").await;
    let times = |shell: &Shell| shell.text().matches("\"id\":\"bob-1\"").count();
    assert_eq!((times(&stream), times(&poll)), (1, 1), "each once");
}
