//! What a fault cost, read from the diaries alone: for how long nobody could publish in a room, and how long it
//! took until everybody had got on.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use roomcast_rig::checker::{Fault, Report};
use serde_json::Value;

/// A fault, in Unix milliseconds.
pub type Moment = u64;

/// The worst of all faults of a story.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cost {
    /// Longest time in which a room acknowledged nothing, in milliseconds.
    pub pause: u64,
    /// Longest time from a fault until every client had, in each of its rooms, an answer to or an entry of something
    /// that was first said after it, in milliseconds.
    pub recovery: u64,
}

/// What one client knew, and when.
#[derive(Default)]
struct Client {
    /// Ids that it sent first at this time.
    sent: Vec<(Moment, String)>,
    /// Rooms and ids that it was told of by an acknowledgement or an entry.
    told: Vec<(Moment, String, String)>,
    /// Rooms and times of its acknowledgements.
    acked: Vec<(String, Moment)>,
}

fn client(path: &Path) -> Client {
    let text = std::fs::read_to_string(path).expect("a diary can be read");
    let mut client = Client::default();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("a diary is JSON lines");
        let (frame, ms) = (&line["frame"], line["ms"].as_u64().expect("a time"));
        let Some(id) = frame["id"].as_str() else { continue };
        let room = || frame["r"].as_str().unwrap_or_default().to_owned();
        match (line["dir"].as_str(), frame["t"].as_str()) {
            (Some("out"), _) => client.sent.push((ms, id.to_owned())),
            (_, Some("ack")) => {
                client.acked.push((room(), ms));
                client.told.push((ms, room(), id.to_owned()));
            }
            (_, Some("msg" | "edit" | "del" | "react")) => client.told.push((ms, room(), id.to_owned())),
            _ => {}
        }
    }
    client
}

/// What these faults cost those who wrote these diaries.
pub fn cost(diaries: &[std::path::PathBuf], faults: &[Moment]) -> Cost {
    let of_the_crowd = |path: &&std::path::PathBuf| {
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("writer-") || name.starts_with("reader-")
    };
    let clients: Vec<Client> = diaries.iter().filter(of_the_crowd).map(|path| client(path)).collect();
    let recovery = faults.iter().map(|fault| recovery(&clients, *fault)).max().unwrap_or(0);
    Cost { pause: pause(&clients), recovery }
}

fn pause(clients: &[Client]) -> u64 {
    let mut rooms: BTreeMap<&str, Vec<Moment>> = BTreeMap::new();
    for (room, ms) in clients.iter().flat_map(|client| &client.acked) {
        rooms.entry(room).or_default().push(*ms);
    }
    let longest = |mut times: Vec<Moment>| {
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    };
    rooms.into_values().map(longest).max().unwrap_or(0)
}

fn recovery(clients: &[Client], fault: Moment) -> u64 {
    let mut first_sent: HashMap<&str, Moment> = HashMap::new();
    for (ms, id) in clients.iter().flat_map(|client| &client.sent) {
        let first = first_sent.entry(id).or_insert(*ms);
        *first = (*first).min(*ms);
    }
    let is_new = |id: &String| first_sent.get(&**id).is_some_and(|sent| *sent > fault);
    let last_of_the_firsts = |client: &Client| {
        let mut firsts: HashMap<&str, u64> = HashMap::new();
        for (ms, room, _) in client.told.iter().filter(|(_, _, id)| is_new(id)) {
            firsts.entry(room).or_insert(ms.saturating_sub(fault));
        }
        firsts.into_values().max()
    };
    clients.iter().filter_map(last_of_the_firsts).max().unwrap_or(0)
}

/// The head of the table.
pub const HEAD: &str = "| story | faults | acknowledged | seen by readers | lost | doubled | reordered | holes | two at one place | phantom | vanished | rewinds | longest publish pause | everybody goes on after |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |";

/// A row of the table.
pub fn row(story: &str, faults: usize, report: &Report, cost: Cost) -> String {
    let seconds = |ms: u64| format!("{}.{} s", ms / 1_000, ms % 1_000 / 100);
    let order = [
        Fault::Lost,
        Fault::Doubled,
        Fault::Reordered,
        Fault::Unaccounted,
        Fault::Different,
        Fault::Phantom,
        Fault::Vanished,
    ];
    let faults_found = order.map(|fault| report.count(fault).to_string()).join(" | ");
    let (pause, recovery) = (seconds(cost.pause), seconds(cost.recovery));
    format!(
        "| {story} | {faults} | {} | {} | {faults_found} | {} | {pause} | {recovery} |",
        report.acked, report.seen, report.rewinds
    )
}
