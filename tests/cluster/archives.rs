//! The archive dies, and Redis loses its memory while the archive has it.

use std::time::Duration;

use crate::redis::Shape;
use crate::stage::Plan;
use crate::story::{Rewinds, plays};

/// For how long the archive is away: more is said in that time than Redis keeps hot.
const AWAY: Duration = Duration::from_secs(3);

/// So little is hot that who reads from the beginning needs the archive.
fn mostly_archived(shape: Shape) -> Plan {
    Plan::of(shape).archived().with("rooms.history=100")
}

#[tokio::test]
async fn the_archive_is_killed_and_comes_back() {
    plays(
        "kill -9 of PostgreSQL, back after 3 s",
        mostly_archived(Shape::Sentinel),
        Rewinds::None,
        async |story| {
            story.strikes();
            story.stage.archive.as_mut().expect("it was asked for").kill();
            // People go on meanwhile.
            story.goes_on().await?;
            tokio::time::sleep(AWAY).await;
            story.stage.archive.as_mut().expect("it was asked for").comes_back().await;
            Ok(())
        },
    )
    .await;
}

#[tokio::test]
async fn the_primary_is_killed_while_most_is_archived() {
    plays(
        "kill -9 of the primary, with an archive",
        mostly_archived(Shape::Sentinel),
        Rewinds::None,
        async |story| {
            let old = story.stage.redis.primary().await;
            story.strikes();
            story.stage.primary_dies(old).await;
            Ok(())
        },
    )
    .await;
}

#[tokio::test]
async fn redis_forgets_everything_and_the_archive_knows_it() {
    plays(
        "the only Redis comes back empty, with an archive",
        mostly_archived(Shape::Single),
        Rewinds::None,
        async |story| {
            story.strikes();
            story.stage.redis.servers[0].kill();
            story.stage.redis.servers[0].forgets();
            story.stage.redis.comes_back(0, &story.stage.wires).await;
            Ok(())
        },
    )
    .await;
}
