//! Nodes die, hang and are replaced, while Redis is well.

use std::time::Duration;

use roomcast_rig::checker::Fault;
use roomcast_rig::crowd::Crowd;

use crate::redis::Shape;
use crate::stage::{Plan, Stage, Store};
use crate::story::{self, Rewinds, plays};

/// How long a node hangs: longer than its lease, than the patience of half of its clients, and than any time-out.
const HANGS: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_node_is_killed() {
    plays("kill -9 of a node", Plan::of(Shape::Sentinel), Rewinds::None, async |story| {
        let number = story.any_node();
        story.strikes();
        story.stage.nodes[number].kill();
        story.goes_on().await?;
        story.stage.node_comes_back(number);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_node_hangs_for_ten_seconds_and_goes_on() {
    plays("SIGSTOP of a node for 10 s", Plan::of(Shape::Sentinel), Rewinds::None, async |story| {
        let number = story.any_node();
        story.strikes();
        story.stage.node_freezes(number);
        tokio::time::sleep(HANGS).await;
        story.stage.node_thaws(number);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn all_nodes_are_replaced_one_by_one() {
    plays("rolling restart of three nodes", Plan::of(Shape::Sentinel), Rewinds::None, async |story| {
        for number in 0..story.stage.nodes.len() {
            story.strikes();
            story.stage.nodes[number].stop().await;
            story.stage.node_comes_back(number);
            story.stage.nodes[number].is_ready().await;
        }
        Ok(())
    })
    .await;
}

/// Clients, load balancer and judge, tried where rooms are kept by the one node that there is.
#[tokio::test]
async fn the_only_node_is_killed() {
    plays("kill -9 of the only node", Plan::alone(), Rewinds::None, async |story| {
        story.strikes();
        story.stage.nodes[0].kill();
        story.stage.node_comes_back(0);
        Ok(())
    })
    .await;
}

/// The whole proof, clients and judge, is worth nothing if it cannot fail.
#[tokio::test]
async fn nodes_that_share_nothing_are_found_out() {
    let seed = story::seed();
    let folder = story::folder("nodes that share nothing", seed);
    let plan = Plan { store: Store::None, nodes: 3, ..Plan::alone() };
    let stage = Stage::open(&plan, &folder).await;
    let _turn = story::TURN.lock().await;
    let mut crowd = Crowd::start(story::crowd(&stage, &plan, seed));
    crowd.acked_reaches(story::PAST).await;
    crowd.breaks_up().await;
    let report = story::judge(&folder.join("diaries"), false);
    for fault in [Fault::Lost, Fault::Different] {
        assert!(report.count(fault) > 0, "{} is not found:\n{report}", fault.word());
    }
    stage.closes().await;
    std::fs::remove_dir_all(&folder).expect("the folder was made by this story");
}
