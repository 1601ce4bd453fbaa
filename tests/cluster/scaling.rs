//! A group of nodes grows under load and shrinks again, as an Auto Scaling group does; who leaves does so by the very
//! script that `deploy/aws` puts on a machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use roomcast_rig::client::Client;
use roomcast_rig::eventually;
use roomcast_rig::server::{Server, get};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::redis::Shape;
use crate::stage::Plan;
use crate::story::{Rewinds, plays};

/// Who listens while two nodes serve.
const FIRST: usize = 600;
/// Who comes when there are four, because there are more.
const MORE: usize = 1_400;
const ROOMS: usize = 16;
/// A node that leaves sends so many away a second at the most (docs/deploy.md); all that it has, at once, are more.
const BACK_A_SECOND: usize = 400;
/// Pause before another attempt, while the load balancer has not noticed yet.
const AGAIN: Duration = Duration::from_millis(100);

/// When the people of the herd came, first and again.
type Arrivals = Arc<Mutex<Vec<(bool, Instant)>>>;

/// Somebody who listens and comes back when he is told to.
async fn listens(number: usize, front: SocketAddr, arrivals: Arrivals) {
    let room = format!("hall-{}", number % ROOMS);
    let hello =
        json!({"t": "hello", "v": 1, "u": format!("listener-{number}"), "rooms": {room: {}}}).to_string();
    let mut was_there = false;
    loop {
        let mut wait = AGAIN;
        if let Some(mut client) = Client::connect(front, None).await {
            client.say(&hello).await;
            while let Some(line) = client.hear().await {
                let frame: Value = serde_json::from_str(&line).expect("a server says JSON");
                match frame["t"].as_str() {
                    Some("joined") => {
                        let mut arrivals = arrivals.lock().expect("nobody panics with it");
                        arrivals.push((was_there, Instant::now()));
                        was_there = true;
                    }
                    Some("bye") => wait = frame["wait"].as_u64().map_or(AGAIN, Duration::from_millis),
                    _ => {}
                }
            }
        }
        sleep(wait).await;
    }
}

/// The hook of `deploy/aws`, with programs in place of those that only Amazon's machines have.
struct Hook {
    home: PathBuf,
}

const CURL: &str = r#"#!/bin/sh
case "$*" in
    *"PUT http://169.254.169.254/latest/api/token"*) echo a-token ;;
    *"/latest/meta-data/autoscaling/target-lifecycle-state -H X-aws-ec2-metadata-token: a-token"*) echo Terminated ;;
    *"/latest/meta-data/instance-id -H X-aws-ec2-metadata-token: a-token"*) echo i-0abc ;;
    *) echo "not expected: $*" >&2; exit 22 ;;
esac
"#;
/// As systemd: SIGTERM, and back when the process has ended.
const SYSTEMCTL: &str = r#"#!/bin/sh
[ "$*" = "stop roomcast" ] || { echo "not expected: $*" >&2; exit 1; }
kill -TERM "$NODE" && exec tail --pid="$NODE" -f /dev/null
"#;
const AWS: &str = r#"#!/bin/sh
echo "$*" >> "$SAID"
"#;

impl Hook {
    /// Takes the script from the file as it stands.
    fn prepare(home: &Path) -> Hook {
        let home = home.join("hook");
        std::fs::create_dir_all(&home).expect("the folder can be made");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/aws/roomcast.yaml");
        let text = std::fs::read_to_string(&file).expect("the file is there");
        let (_, behind) = text.split_once("/roomcast-drain <<'LOOP'\n").expect("the file has the script");
        let (script, _) = behind.split_once("\n            LOOP\n").expect("the script has an end");
        let script: String = script.lines().map(|line| format!("{}\n", line.trim_start())).collect();
        let script =
            script.replace("${AWS::Region}", "eu-central-1").replace("${AWS::StackName}", "roomcast");
        for (name, text) in
            [("roomcast-drain", script.as_str()), ("curl", CURL), ("systemctl", SYSTEMCTL), ("aws", AWS)]
        {
            let path = home.join(name);
            std::fs::write(&path, text).expect("the folder can be written");
            let made = Command::new("chmod").arg("755").arg(&path).status().expect("chmod can be run");
            assert!(made.success());
        }
        Hook { home }
    }

    /// The machine of this node is told to go: the node has ended well when this returns.
    async fn takes_out(&self, node: &mut Server) {
        let path = std::env::var("PATH").expect("there are programs");
        let mut hook = Command::new(self.home.join("roomcast-drain"))
            .env("PATH", format!("{}:{path}", self.home.display()))
            .env("NODE", node.pid().to_string())
            .env("SAID", self.home.join("said"))
            .stdin(Stdio::null())
            .spawn()
            .expect("the hook can be run");
        assert!(node.is_dead().await.success(), "the node ends well; its log:\n{}", node.last_words());
        let status =
            eventually("the end of the hook", async || hook.try_wait().expect("a child can be asked")).await;
        assert!(status.success(), "the hook ends well");
    }

    /// What Amazon was told.
    fn said(&self) -> String {
        std::fs::read_to_string(self.home.join("said")).expect("the hook has said something")
    }
}

/// The most that came back within one second.
fn most_a_second(arrivals: &Arrivals) -> usize {
    let mut back: Vec<Instant> = arrivals
        .lock()
        .expect("nobody panics with it")
        .iter()
        .filter(|(again, _)| *again)
        .map(|(_, at)| *at)
        .collect();
    back.sort_unstable();
    let within = |first: &Instant| back.partition_point(|at| *at < *first + Duration::from_secs(1));
    back.iter().enumerate().map(|(before, first)| within(first) - before).max().unwrap_or(0)
}

/// Sessions of a node, as it tells those who scale the group.
async fn sessions(node: SocketAddr) -> Option<usize> {
    let (_, figures) = get(node, "/metrics").await?;
    figures.lines().find_map(|line| line.strip_prefix("roomcast_sessions ")?.parse().ok())
}

#[tokio::test]
async fn two_nodes_become_four_and_two_again_under_load() {
    let plan = Plan { nodes: 2, spare: 2, ..Plan::of(Shape::Sentinel) };
    plays("2 nodes, 4, 2 again", plan, Rewinds::None, async |story| {
        let arrivals = Arrivals::default();
        let (front, hook) = (story.stage.balancer.address, Hook::prepare(&story.stage.folder));
        let there = async |count: usize| {
            let all = async || (arrivals.lock().expect("nobody panics with it").len() >= count).then_some(());
            eventually("everybody to be there", all).await;
        };
        let listener = |number| tokio::spawn(listens(number, front, arrivals.clone()));
        let mut herd: Vec<_> = (0..FIRST).map(listener).collect();
        there(FIRST).await;

        story.strikes();
        story.stage.node_joins().await;
        story.stage.node_joins().await;
        let newest = story.stage.nodes[2..].iter().map(Server::address).collect::<Vec<_>>();
        let one_by_one = async || {
            // The load balancer looks once a second; those who come meanwhile go to the nodes that it knows.
            herd.push(listener(herd.len()));
            let mut found = true;
            for node in &newest {
                found &= sessions(*node).await.is_some_and(|count| count > 0);
            }
            found.then_some(())
        };
        eventually("somebody at each of the new nodes", one_by_one).await;
        herd.extend((herd.len()..FIRST + MORE).map(listener));
        there(FIRST + MORE).await;
        story.goes_on().await?;

        for _ in 0..2 {
            let leaving = story.stage.nodes.last().expect("there are nodes").address();
            let leave = sessions(leaving).await.expect("it tells its figures");
            assert!(leave > BACK_A_SECOND, "{leave}: new ones come where there is room");
            let before = arrivals.lock().expect("nobody panics with it").len();
            story.strikes();
            hook.takes_out(story.stage.node_leaves()).await;
            // Also some of the crowd were there.
            there(before + leave - 32).await;
            story.goes_on().await?;
        }

        let rate = most_a_second(&arrivals);
        println!("{} came back, {rate} of them within one second", arrivals.lock().expect("no panic").len() - FIRST - MORE);
        assert!(rate <= BACK_A_SECOND, "{rate} came back within one second");
        let said = hook.said();
        let completed = "autoscaling complete-lifecycle-action --region eu-central-1 --lifecycle-action-result CONTINUE \
                         --lifecycle-hook-name drain --auto-scaling-group-name roomcast-nodes --instance-id i-0abc\n";
        assert_eq!(said, completed.repeat(2));
        for person in herd {
            person.abort();
        }
        Ok(())
    })
    .await;
}
