//! A subscription of Google Pub/Sub that orders its messages, with Google's own stand-in. The server leases what it
//! takes for 30 s; the stand-in ends that time when the story has no use for it.

use std::collections::BTreeSet;

use roomcast_rig::google::{Google, SUBSCRIPTION};

use crate::relay::{Acks, Window};
use crate::story::{self, Item, Queue};

struct Subscription(Google);

/// How ids stand in an `AcknowledgeRequest`, where they are field 2, a text; other requests have them elsewhere. The
/// stand-in calls the messages m0, m1 and so on.
fn acks(window: &Window<'_>, given: &BTreeSet<u64>) -> BTreeSet<u64> {
    const TEXT_OF_FIELD_2: u8 = 2 << 3 | 2;
    let stands_there = |number: &&u64| {
        let id = format!("m{number}");
        window.holds(&[&[TEXT_OF_FIELD_2, id.len() as u8], id.as_bytes()].concat())
    };
    given.iter().filter(stands_there).copied().collect()
}

impl Queue for Subscription {
    const NAME: &'static str = "Google Pub/Sub";
    const IS_ORDERED: bool = true;
    const ACKS: Acks = acks;

    async fn open() -> Subscription {
        let google = Google::start().await;
        google.has_subscription(true).await;
        Subscription(google)
    }

    fn port(&self) -> u16 {
        self.0.port
    }

    fn settings(&self, port: u16) -> String {
        format!(
            "kind = \"pubsub\"\nsubscription = \"{SUBSCRIPTION}\"\nendpoint = \"http://127.0.0.1:{port}\"\n"
        )
    }

    async fn push(&mut self, item: &Item) {
        let id = item.own_id.as_deref().map(|id| ("id", id));
        self.0.publish(&item.room, id.as_slice(), &item.body).await;
    }

    async fn is_missed(&self) {
        self.takes_back().await;
    }

    async fn takes_back(&self) {
        self.0.takes_back().await;
    }

    async fn is_empty(&self) {
        self.0.is_empty().await;
    }
}

#[tokio::test]
async fn a_pubsub_subscription_survives_a_server_that_is_killed() {
    story::kills::<Subscription>().await;
}
