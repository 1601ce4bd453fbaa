//! Who fills the archive, through failovers of Redis: the archive ends with the log that the nodes have seen. The
//! archive is in memory here; tests/postgres has the same with a real one.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use roomcast::chat::entry::Entry;
use roomcast::engines::redis::ArchiveSettings;
use roomcast::engines::redis::filler::{Filler, FillerSettings};
use roomcast::engines::shared::Safety;
use roomcast::redis_link::RedisLink;
use roomcast::store::archive::{ArchiveError, ArchiveReader, Forgotten, Keep, Position, SharedArchive};
use roomcast::store::record::Record;

use super::archive::Shelf;
use super::failover::{cut, pair};
use super::load::Load;
use super::stage::{Node, judge, message};
use super::switch::Switch;
use crate::fixtures::eventually;
use crate::fixtures::servers::{Cluster, Sentinels};

/// An archive in memory that several nodes share.
#[derive(Clone, Default)]
struct Library {
    shelf: Shelf,
    positions: Arc<Mutex<BTreeMap<u16, Position>>>,
}

impl SharedArchive for Library {
    fn positions(&mut self) -> Result<Vec<(u16, Position)>, ArchiveError> {
        Ok(self.positions.lock().unwrap().iter().map(|(part, position)| (*part, *position)).collect())
    }

    fn append_shared(
        &mut self,
        partition: u16,
        after: Position,
        upto: Position,
        entries: &[Entry],
    ) -> Result<bool, ArchiveError> {
        let mut positions = self.positions.lock().unwrap();
        let stands = positions.entry(partition).or_default();
        if *stands != after {
            return Ok(*stands == upto);
        }
        *stands = upto;
        let mut rooms = self.shelf.0.lock().unwrap();
        for entry in entries {
            let log = rooms.entry(entry.room.as_str().into()).or_default();
            let has_newer = log.range(..=entry.offset).any(|(_, other)| other.epoch > entry.epoch);
            let is_there = log.get(&entry.offset).is_some_and(|other| other.epoch == entry.epoch);
            if !has_newer && !is_there {
                log.retain(|offset, other| *offset < entry.offset || other.epoch >= entry.epoch);
                log.insert(entry.offset, entry.clone());
            }
        }
        Ok(true)
    }

    fn note(&mut self, _: &[Record]) -> Result<(), ArchiveError> {
        Err(ArchiveError("nothing is noted here".into()))
    }

    fn forget(&mut self, _: &dyn Fn(&str) -> Keep, _: u64) -> Result<Forgotten, ArchiveError> {
        Ok(Forgotten::default())
    }

    fn reader(&self) -> Result<Box<dyn ArchiveReader>, ArchiveError> {
        Ok(Box::new(self.shelf.clone()))
    }
}

impl Library {
    async fn nodes(&self, url: &str, rooms: &[&str]) -> Vec<Rc<Node>> {
        self.nodes_at(&[url, url], rooms).await
    }

    async fn nodes_at(&self, urls: &[&str], rooms: &[&str]) -> Vec<Rc<Node>> {
        let mut nodes = Vec::new();
        for (name, url) in (1..).zip(urls) {
            let archive = || ArchiveSettings {
                reader: Box::new(self.shelf.clone()),
                feed_max: 100_000,
                notes_max: 1_000,
            };
            let node = Node::start_with(url, name, |settings| settings.archive = Some(archive()));
            for room in rooms {
                node.join(room).await;
            }
            nodes.push(Rc::new(node));
        }
        nodes
    }

    fn filler(&self, url: &str) -> Filler {
        let keep = Keep { age_ms: u64::MAX, bytes: 0, pin: false, ids_ms: u64::MAX };
        let settings = FillerSettings {
            link: RedisLink::parse(url).unwrap(),
            prefix: "chat".into(),
            archive: Box::new(self.clone()),
            keep: Box::new(move |_| keep),
        };
        Filler::start(settings).unwrap()
    }

    /// Waits until it has what a node has seen of a room, and nothing else.
    async fn has_all_of(&self, node: &Node, name: &str) {
        eventually(&format!("the archive to have all of {name}"), async || {
            let seen = node.seen(name);
            let rooms = self.shelf.0.lock().unwrap();
            let log = rooms.get(name)?;
            let kept = log.iter().map(|(offset, entry)| {
                (*offset, (entry.epoch.0, entry.id.as_ref().map_or("", |id| id.as_str()).to_owned()))
            });
            kept.eq(seen.log).then_some(())
        })
        .await;
    }
}

fn missed(fillers: &[Filler]) -> u64 {
    fillers.iter().map(|filler| filler.figures().missed.load(Relaxed)).sum()
}

#[actix_rt::test]
async fn the_archive_follows_a_failover_of_sentinel() {
    let mut group = Sentinels::start().await;
    let (url, library) = (group.url(), Library::default());
    let nodes = library.nodes(&url, &["a"]).await;
    let fillers = [library.filler(&url), library.filler(&url)];
    let load = Load::start(&nodes, "a", Safety::Archived);
    load.goes_on(500).await;
    group.primary().kill();
    load.goes_on(500).await;
    load.ends_well("the archive behind Sentinel").await;
    library.has_all_of(&nodes[0], "a").await;
    assert_eq!(missed(&fillers), 0);
}

#[actix_rt::test]
async fn all_feeds_of_a_cluster_are_served_and_one_of_them_fails_over() {
    let mut cluster = Cluster::start().await;
    let (url, library) = (cluster.url(), Library::default());
    let rooms = ["lobby", "a", "b", "c"];
    let nodes = library.nodes(&url, &rooms).await;
    let fillers = [library.filler(&url), library.filler(&url)];
    eventually("all partitions to be served", async || {
        let served: u64 = fillers.iter().map(|filler| filler.figures().served.load(Relaxed)).sum();
        (served == 16).then_some(())
    })
    .await;
    let loads: Vec<Load> = rooms.iter().map(|room| Load::start(&nodes, room, Safety::Archived)).collect();
    for load in &loads {
        load.goes_on(200).await;
    }
    cluster.primary_of("chat:{p15}f").await.kill();
    for load in &loads {
        load.goes_on(200).await;
    }
    for (load, room) in loads.into_iter().zip(rooms) {
        load.ends_well(&format!("the archive behind a Cluster, {room}")).await;
    }
    for room in rooms {
        library.has_all_of(&nodes[0], room).await;
    }
    assert_eq!(missed(&fillers), 0);
}

/// The archive has places that nobody at the new primary has heard of. There they are taken back, and those of it are
/// replaced; what was acknowledged behind them comes again too, and everything ends where the nodes have it.
#[actix_rt::test]
async fn the_archive_gives_up_places_that_nobody_at_the_new_primary_has_heard_of() {
    let (primary, replica) = pair().await;
    let (left, right) = (Switch::start(primary.port).await, Switch::start(primary.port).await);
    let library = Library::default();
    let nodes = library.nodes_at(&[&left.url(), &right.url()], &["a"]).await;
    let filler = library.filler(&left.url());
    let says = async |at: usize, id: &str| {
        let node: &Node = &nodes[at];
        let ticket = node.propose(message("a", id), id, true, Safety::Sequenced);
        (id.to_owned(), node.place(ticket).await.0)
    };
    let mut acked = vec![says(0, "both-heard").await];
    nodes[1].reaches("a", 1).await;
    cut(&replica).await;
    right.deafen();
    for id in ["left-1", "left-2", "left-3"] {
        acked.push(says(0, id).await);
    }
    acked.push(says(1, "right-behind-them").await);
    assert_eq!((acked[4].1, nodes[1].seen("a").top), (5, 1));
    nodes[0].reaches("a", 5).await;
    library.has_all_of(&nodes[0], "a").await;
    right.turn_to(replica.port);
    acked.push(says(1, "right-goes-on").await);
    left.turn_to(replica.port);
    acked.push(says(0, "left-comes-after").await);
    for node in &nodes {
        eventually("all of them on this node", async || {
            let seen = node.seen("a");
            acked.iter().all(|(id, _)| seen.log.values().any(|(_, said)| said == id)).then_some(())
        })
        .await;
    }
    assert_eq!(nodes[0].seen("a").rewinds, [1], "where they were heard they are taken back");
    judge(&[&nodes[0], &nodes[1]], "a", &acked);
    library.has_all_of(&nodes[0], "a").await;
    assert_eq!(missed(&[filler]), 0);
    drop(primary);
}
