//! The primary of Redis dies, hangs, loses its replicas or its memory, alone or together with a node.

use std::time::Duration;

use crate::redis::Shape;
use crate::stage::{Plan, Stage};
use crate::story::{Rewinds, Story, Stuck, plays};
use crate::wires::{Party, Wire};

/// For how long a primary goes on taking messages that no replica gets, before it dies.
const ALONE: Duration = Duration::from_millis(300);
/// Acknowledgements that show that the others have a new primary and use it.
const OTHERS_GO_ON: u64 = 200;
/// For how long a node stays with the old primary when the others use the new one.
const APART: Duration = Duration::from_secs(2);

#[tokio::test]
async fn the_primary_is_killed() {
    plays("kill -9 of the primary", Plan::of(Shape::Sentinel), Rewinds::None, async |story| {
        let old = story.stage.redis.primary().await;
        story.strikes();
        story.stage.primary_dies(old).await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_primary_hangs() {
    plays("SIGSTOP of the primary", Plan::of(Shape::Sentinel), Rewinds::None, async |story| {
        let old = story.stage.redis.primary().await;
        story.strikes();
        story.stage.redis.servers[old].process().freeze();
        story.stage.redis.has_moved_from(old).await;
        story.goes_on().await?;
        story.stage.redis.servers[old].process().thaw();
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_primary_and_a_node_are_killed_at_once() {
    plays("kill -9 of primary and node", Plan::of(Shape::Sentinel), Rewinds::Some, async |story| {
        let (old, number) = (story.stage.redis.primary().await, story.any_node());
        story.strikes();
        story.stage.nodes[number].kill();
        story.stage.primary_dies(old).await;
        story.goes_on().await?;
        story.stage.node_comes_back(number);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_primary_loses_its_replicas_and_then_dies() {
    plays(
        "primary cut from its replicas, killed 300 ms later",
        Plan::of(Shape::Sentinel),
        Rewinds::None,
        async |story| {
            let old = story.stage.redis.primary().await;
            story.stage.cuts_replicas_off(old, Wire::Silent);
            tokio::time::sleep(ALONE).await;
            story.strikes();
            story.stage.redis.servers[old].kill();
            // What the replicas have not got by now they never get.
            story.stage.cuts_replicas_off(old, Wire::Closed);
            story.stage.wires.mend();
            story.stage.redis.has_moved_from(old).await;
            story.stage.redis.comes_back(old, &story.stage.wires).await;
            Ok(())
        },
    )
    .await;
}

#[tokio::test]
async fn a_node_stays_with_the_old_primary() {
    let plan = Plan::of(Shape::Sentinel);
    plays("partition: one node with the old primary", plan, Rewinds::Some, a_node_is_cut_off).await;
}

/// What is acknowledged at once is shown and acknowledged by the old primary too, and comes again at other places.
/// Plain messages only: an edit or a reaction names the place of what it is about, and that has moved.
#[tokio::test]
async fn a_node_stays_with_the_old_primary_and_acknowledges_at_once() {
    let plan = Plan { changes: false, ..Plan::of(Shape::Sentinel).with("rooms.ack=sequenced") };
    plays("the same with rooms.ack = sequenced", plan, Rewinds::Some, a_node_is_cut_off).await;
}

async fn a_node_is_cut_off(story: &mut Story) -> Result<(), Stuck> {
    let (old, number) = (story.stage.redis.primary().await, story.any_node());
    story.strikes();
    story.stage.splits(&[Party::Node(number), Party::Redis(old)]);
    story.stage.redis.has_moved_from(old).await;
    // The others go on without it, and that for a while.
    story.crowd.acked_reaches(story.crowd.acked() + OTHERS_GO_ON).await;
    tokio::time::sleep(APART).await;
    story.stage.wires.mend();
    Ok(())
}

#[tokio::test]
async fn the_only_redis_is_killed_and_reads_its_file_again() {
    plays(
        "kill -9 of the only Redis, back with its file",
        Plan::of(Shape::Single),
        Rewinds::None,
        async |story| {
            story.strikes();
            story.stage.redis.servers[0].kill();
            story.stage.redis.comes_back(0, &story.stage.wires).await;
            Ok(())
        },
    )
    .await;
}

#[tokio::test]
async fn the_only_redis_comes_back_empty() {
    plays("the only Redis comes back empty", Plan::of(Shape::Single), Rewinds::None, async |story| {
        story.strikes();
        story.stage.redis.servers[0].kill();
        story.stage.redis.servers[0].forgets();
        story.stage.redis.comes_back(0, &story.stage.wires).await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_primary_of_a_cluster_is_killed() {
    plays("Cluster: kill -9 of a primary", Plan::of(Shape::Cluster), Rewinds::None, async |story| {
        let old = story.any_primary().await;
        story.strikes();
        story.stage.redis.servers[old].kill();
        story.stage.redis.slots_have_moved_from(old).await;
        story.stage.redis.comes_back(old, &story.stage.wires).await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_primary_of_a_cluster_hangs() {
    plays("Cluster: SIGSTOP of a primary", Plan::of(Shape::Cluster), Rewinds::None, async |story| {
        let old = story.any_primary().await;
        story.strikes();
        story.stage.redis.servers[old].process().freeze();
        story.stage.redis.slots_have_moved_from(old).await;
        story.goes_on().await?;
        story.stage.redis.servers[old].process().thaw();
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn slots_of_a_cluster_move_while_they_are_used() {
    plays("Cluster: slots move under load", Plan::of(Shape::Cluster), Rewinds::None, async |story| {
        let primaries = story.stage.redis.primaries().await;
        story.strikes();
        // Round and round: in the end each has what another had.
        for (at, from) in primaries.iter().enumerate() {
            let to = primaries[(at + 1) % primaries.len()];
            let moved = story.stage.redis.slots_move(*from, to).await;
            println!("{moved} keys moved from {from} to {to}");
        }
        Ok(())
    })
    .await;
}

impl Stage {
    /// Kills the primary, and starts it again as a replica of the one that took over.
    pub async fn primary_dies(&mut self, old: usize) {
        self.redis.servers[old].kill();
        self.redis.has_moved_from(old).await;
        self.redis.comes_back(old, &self.wires).await;
    }

    /// Nothing comes from the primary to its replicas any more.
    pub fn cuts_replicas_off(&self, primary: usize, how: Wire) {
        let others = (0..self.redis.servers.len()).filter(|number| *number != primary);
        self.wires.cut(others.map(|other| (Party::Redis(other), Party::Redis(primary))), how);
    }

    /// Nothing comes through any more between these and all others.
    fn splits(&self, side: &[Party]) {
        let nodes = (0..self.nodes.len()).map(Party::Node);
        let servers = (0..self.redis.servers.len()).map(Party::Redis);
        let all = nodes.chain(servers).chain(self.redis.sentinel_parties());
        let others: Vec<Party> = all.filter(|party| !side.contains(party)).collect();
        let pairs = side.iter().flat_map(|one| others.iter().map(move |other| (*one, *other)));
        self.wires.cut(pairs, Wire::Silent);
    }
}
