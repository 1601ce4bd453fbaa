//! Promise: a backend gets along with the description, the examples and the helper as they stand there: every curl line
//! of docs/api.md gives the answer below it, the PHP helper does what it says, and what `static/openapi.json` describes
//! is what the server does.
//!
//! Needs bash, curl, php with its curl and redis extensions, and Schemathesis in the directory of ROOMCAST_TEST_TOOLS
//! (default `target/test-tools`): `python3 -m venv venv`, `venv/bin/pip install -r tests/clients/requirements.txt`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::stage::guest::Guest;
use crate::stage::hall::Hall;

const KEY: &str = "a-key-for-these-stories";
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn keys() -> String {
    format!("auth.api_keys={KEY}")
}

/// Runs a program to its end, beside the guests.
async fn run(mut command: Command, how_to_install: &str) -> Output {
    let shown = format!("{command:?}");
    command.stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic in there");
    output.unwrap_or_else(|error| panic!("{shown}: {error}; {how_to_install}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn php(hall: &Hall, transport: &str, kind: &str) {
    let log = hall.log();
    let door = log.split("door ").nth(1).and_then(|rest| rest.split(' ').next());
    let door = door.unwrap_or_else(|| panic!("the door is not open: {log}"));
    let mut command = Command::new("php");
    command.arg(Path::new(ROOT).join("tests/clients/roomcast.php"));
    command.args([&format!("http://{}", hall.address()), KEY, &format!("redis://{door}"), transport, kind]);
    let output = run(command, "apt-get install php-cli php-curl php-redis").await;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}\nIs php-curl or php-redis missing?");
    assert_eq!(out, format!("all calls by {transport}, pushes by {kind}\n"), "{err}");
}

#[tokio::test]
async fn the_php_helper_does_what_it_says() {
    for (transport, kind) in [("curl", "extension"), ("socket", "own")] {
        let hall = Hall::with(&[&keys(), "queue.door.listen=127.0.0.1:0"]).await;
        let (mut ann, mut bob) = (hall.join("lobby", "ann").await, hall.join("lobby", "bob").await);
        php(&hall, transport, kind).await;
        bob.hears(json!({"text": "gr\u{f6}\u{df}e & <b>", "n": 1.0})).from("shop").at(1).await;
        bob.hears("two").at(2).await;
        bob.hears("maintenance at 18:00").at(3).await;
        assert_eq!(bob.hears_a("del").await.text("u"), "mod");
        bob.hears(json!({"text": "from the queue"})).with_id("q-1").at(5).await;
        bob.hears("into the default room").at(6).await;
        bob.is_refused(403, "not-allowed").await;
        ann.claims("the end", |line| line.t() == "bye" && line.text("why") == "banned").await;
    }
}

/// The commands of a page with what is to come out of each.
fn commands(page: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for block in page.split("```console\n").skip(1) {
        let block = block.split("```").next().expect("a block has an end");
        for line in block.lines() {
            match (line.strip_prefix("$ "), found.last_mut()) {
                (Some(command), _) => found.push((command.to_owned(), String::new())),
                (None, Some((command, _))) if command.ends_with('\\') => {
                    command.push('\n');
                    command.push_str(line);
                }
                (None, Some((_, answer))) => {
                    answer.push_str(line);
                    answer.push('\n');
                }
                (None, None) => panic!("no command before {line}"),
            }
        }
    }
    found
}

/// Epochs, times and names of sessions and nodes are others each time.
fn settled(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match (key.as_str(), &value) {
                    ("e" | "session" | "node", Value::String(_)) => *value = json!("…"),
                    ("ts" | "accepted" | "stored", Value::Number(_)) => *value = json!("…"),
                    ("until", Value::Number(until)) if until.as_u64() > Some(0) => *value = json!("…"),
                    // Without an id of the sender's the place is the id, and the epoch stands in it.
                    ("id", Value::String(id)) if id.contains('-') && id.len() > 10 => *value = json!("…"),
                    _ => settled(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(settled),
        _ => {}
    }
}

fn answers(text: &str) -> Vec<Value> {
    let read = |line: &str| {
        let mut value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
        settled(&mut value);
        value
    };
    text.lines().filter(|line| !line.is_empty()).map(read).collect()
}

/// Those whom docs/api.md speaks of.
async fn people(hall: &Hall) -> [Guest; 4] {
    let phone = hall.join("lobby", "ann").await;
    [
        phone,
        hall.join("lobby", "ann").await,
        hall.join("lobby", "zoe").await,
        hall.join("team-1", "bob").await,
    ]
}

#[tokio::test]
async fn every_curl_line_gives_the_answer_below_it() {
    let path = Path::new(ROOT).join("docs/api.md");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let hall = Hall::with(&[&keys()]).await;
    let _people = people(&hall).await;
    let commands = commands(&page);
    for called in [
        "publish",
        "batch",
        "broadcast",
        "rooms",
        "log",
        "trace",
        "join",
        "leave",
        "disconnect",
        "who",
        "mute",
        "ban",
        "freeze",
        "slow",
        "role",
        "rules",
    ] {
        assert!(commands.iter().any(|(command, _)| command.contains(called)), "{called} is not shown");
    }
    for (command, wanted) in commands {
        let line = command.replace("http://127.0.0.1:8080", &format!("http://{}", hall.address()));
        let mut bash = Command::new("bash");
        bash.args(["-c", &line]).env("KEY", KEY).current_dir(ROOT);
        let output = run(bash, "apt-get install bash curl").await;
        assert!(output.status.success(), "{command}: {}", text(&output.stderr));
        assert_eq!(answers(&text(&output.stdout)), answers(&wanted), "{command}");
    }
}

/// `ROOMCAST_SCHEMA_EXAMPLES=100` asks more, and adds the phase that tries every bound.
#[tokio::test]
async fn the_server_does_what_its_description_says() {
    let default = || Path::new(ROOT).join("target/test-tools");
    let tools = std::env::var_os("ROOMCAST_TEST_TOOLS").map_or_else(default, PathBuf::from);
    let more = std::env::var("ROOMCAST_SCHEMA_EXAMPLES").ok();
    let phases = if more.is_some() { "examples,coverage,fuzzing" } else { "examples,fuzzing" };
    let hall = Hall::with(&[&keys()]).await;
    let seed = rand::random::<u32>().to_string();
    let folder = tempfile::tempdir().expect("a folder for what it writes");
    let mut command = Command::new(tools.join("venv/bin/schemathesis"));
    command.arg("run").arg(format!("http://{}/api/openapi.json", hall.address()));
    command.args(["--header", &format!("Authorization: Bearer {KEY}"), "--checks", "all", "--no-color"]);
    command.args(["--max-examples", more.as_deref().unwrap_or("5"), "--phases", phases, "--seed", &seed]);
    command.env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONPATH", Path::new(ROOT).join("tests/openapi"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(folder.path());
    let how =
        "venv/bin/pip install -r tests/clients/requirements.txt, in the directory of ROOMCAST_TEST_TOOLS";
    let output = run(command, how).await;
    let said = text(&output.stdout);
    assert!(output.status.success(), "seed {seed}: {said}\n{}", text(&output.stderr));
    let description = hall.get("/api/openapi.json").await.json();
    // All but that of the description itself, which was read to begin with.
    let paths = description["paths"].as_object().expect("paths").len() - 1;
    let words: Vec<&str> = said.split_whitespace().collect();
    let all = ["Tested:".to_owned(), paths.to_string()];
    assert!(words.windows(2).any(|pair| pair == all), "not all {paths} calls were tried: {said}");
}
