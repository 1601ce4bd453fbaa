//! The time of day jumps by an hour, forth and back, while the server runs. Order, places and ids do not hang
//! on it, and nothing is forgotten because of it.

use std::time::{Duration, Instant};

use roomcast_rig::server::Server;
use serde_json::json;

use crate::shim::Shim;
use crate::stage::{Stage, message, says};

const HOUR: i64 = 3_600;
/// The server looks for what is too old every second.
const LOOKS_AT_AGE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_clock_that_jumps_costs_nobody_a_message() {
    let stage = Stage::new();
    let shim = Shim::build(stage.home());
    let setup = shim.loads_into(stage.setup()).with("rooms.keep=30m").with("rooms.dedup_window=30m");
    let mut server = Server::start(setup).await;
    let mut writer = stage.guest(server.address(), "writer").await;
    let mut reader = stage.guest(server.address(), "reader").await;
    says(&mut writer, "first", 0..20).await;

    let mut count = 20;
    for (jump, off) in [HOUR, 0, -HOUR, HOUR, 0].into_iter().enumerate() {
        shim.clock_is_off_by(off);
        // Long enough that the server has looked for what is too old.
        let (mut number, until) = (0, Instant::now() + LOOKS_AT_AGE);
        while Instant::now() < until {
            says(&mut writer, &format!("jump-{jump}"), number..number + 1).await;
            (number, count) = (number + 1, count + 1);
        }
        // An id of before the jump is still known.
        let again = writer.asks(&message("first-7", 100)).await;
        assert_eq!((&again["t"], &again["s"], &again["dup"]), (&json!("ack"), &json!(8), &json!(true)));
        // Who comes back at a place goes on there, and the whole log is there.
        let name = format!("back-{jump}");
        let rooms = json!({"rooms": {"lobby": {"since": 10}}});
        let mut back =
            roomcast_rig::client::Guest::enter(server.address(), &stage.diaries(), &name, rooms).await;
        let joined = back.hears("joined", |frame| frame["t"] == "joined").await;
        assert_eq!((&joined["s"], &joined["n"]), (&json!(count), &json!(count - 10)), "{joined}");
        assert_eq!(back.reads_up_to("lobby", count).await, count - 10);
        back.goes().await;
    }
    assert_eq!(reader.reads_up_to("lobby", count).await, count);

    server.kill();
    (writer.is_cut().await, reader.is_cut().await);
    server.spawn();
    server.is_ready().await;
    let heads = stage.last_reader(server.address(), &["lobby"]).await;
    assert_eq!(heads["lobby"], count);
    server.stop().await;
    stage.is_clean();
}
