//! The disk refuses to sync: nothing is acknowledged that is not kept, readers go on, and the server recovers by
//! itself when the disk does.

use std::time::Duration;

use roomcast_rig::server::Server;

use crate::shim::Shim;
use crate::stage::{Stage, gets_through, message, says, still_answers};

/// How soon after the disk the server is well again.
const RECOVERY: Duration = Duration::from_secs(10);

#[tokio::test]
async fn while_syncs_fail_nothing_is_acknowledged_and_afterwards_all_goes_on() {
    let stage = Stage::new();
    let shim = Shim::build(stage.home());
    let mut server = Server::start(shim.loads_into(stage.setup())).await;
    let mut writer = stage.guest(server.address(), "writer").await;
    let mut reader = stage.guest(server.address(), "reader").await;
    says(&mut writer, "before", 0..20).await;

    for round in 0..3 {
        shim.syncs_fail(true);
        for number in 0..5 {
            let refused = writer.asks(&message(&format!("lost-{round}-{number}"), 100)).await;
            assert_eq!((&refused["t"], &refused["why"]), (&"err".into(), &"not-stored".into()), "{refused}");
            assert_eq!(refused["code"], 503, "{refused}");
        }
        server.says("/readyz", 503).await;
        server.says("/healthz", 200).await;
        still_answers(&mut reader, "lobby").await;

        shim.syncs_fail(false);
        // One of those that were refused is said again, as a client does.
        gets_through(&mut writer, &message(&format!("lost-{round}-0"), 100), RECOVERY).await;
        server.says("/readyz", 200).await;
        says(&mut writer, &format!("after-{round}"), 0..20).await;
    }

    server.kill();
    (writer.is_cut().await, reader.is_cut().await);
    server.setup.environment.clear();
    server.spawn();
    server.is_ready().await;
    let heads = stage.last_reader(server.address(), &["lobby"]).await;
    // 20 at first, and in each round one that was said again and 20 more: what was refused has no place.
    assert_eq!(heads["lobby"], 20 + 3 * 21);
    server.stop().await;
    let report = stage.is_clean();
    assert_eq!(report.acked, 20 + 3 * 21, "{report}");
}
