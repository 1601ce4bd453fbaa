//! Who is there: nodes that come, die, hang and leave, and what the others see of their people.

mod chances;
mod crowds;
mod deaths;
mod outages;
mod rosters;

use crate::fixtures::servers::Server;

/// Everything in Redis that has to do with a slot, by the names of the keys and the fields of the rosters.
pub(super) async fn traces(server: &Server, slot: u32) -> Vec<String> {
    let mut redis = server.connect().await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("rc:*").query_async(&mut redis).await.unwrap();
    let mut found = Vec::new();
    for key in keys {
        if key.ends_with(&format!("}}N:{slot}")) || key.ends_with(&format!("}}c:{slot}")) {
            found.push(key.clone());
        }
        if key.contains("}m:") || key.contains("}k:") {
            let fields: Vec<String> = redis::cmd("HKEYS").arg(&key).query_async(&mut redis).await.unwrap();
            let own = |field: &&String| field.split(':').next() == Some(&slot.to_string());
            found.extend(fields.iter().filter(own).map(|field| format!("{key} {field}")));
        }
        if key.contains("}t:") {
            let who: Option<String> =
                redis::cmd("HGET").arg(&key).arg("i").query_async(&mut redis).await.unwrap();
            let who = who.unwrap_or_default();
            if who.split(',').any(|n| n == slot.to_string()) {
                found.push(format!("{key} {who}"));
            }
        }
    }
    found
}
