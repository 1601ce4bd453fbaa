//! The one table of figures: every name, its help text and where its number comes from. Asked by a scrape.
//! Counters get `_total` when they are written.

use std::fmt;
use std::sync::PoisonError;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::metrics::sheet::Sheet;
use crate::metrics::{Count, Metrics, WHYS, process};

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut sheet = Sheet::default();
        let version = env!("CARGO_PKG_VERSION");
        sheet.gauges("roomcast_build_info", "The version that runs", "version", [(version, 1)]);
        self.deliveries(&mut sheet);
        self.connections(&mut sheet);
        self.rooms(&mut sheet);
        self.refusals(&mut sheet);
        process::figures(&mut sheet, self.started);
        for extra in self.extras.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            extra(&mut sheet);
        }
        sheet.encode(&mut encoder)
    }
}

impl Metrics {
    fn deliveries(&self, sheet: &mut Sheet) {
        // Read before what comes later in a copy's life, so that a scrape never shows more going out than in.
        let dropped = [
            ("slow", self.sum(|w| w.deliveries_dropped_slow.get())),
            ("closed", self.sum(|w| w.deliveries_dropped_closed.get())),
        ];
        let delivered = self.sum(|w| w.deliveries_delivered.get());
        let waiting = self.sum(|w| w.deliveries_waiting.get());
        let accepted = self.sum(|w| w.deliveries_accepted.get());
        sheet.counter(
            "roomcast_deliveries_accepted",
            "Message copies meant for a reader; accepted = delivered + waiting + dropped",
            accepted,
        );
        sheet.counter(
            "roomcast_deliveries_delivered",
            "Message copies handed to the kernel whole",
            delivered,
        );
        sheet.gauge("roomcast_deliveries_waiting", "Message copies in outboxes", waiting);
        sheet.counters(
            "roomcast_deliveries_dropped",
            "Message copies thrown away with their reader's connection",
            "reason",
            dropped,
        );
        sheet.counter(
            "roomcast_lanes_cut",
            "Times that a reader fell behind in a room and was taken out of its live stream",
            self.sum(|w| w.lanes_cut.get()),
        );
    }

    fn connections(&self, sheet: &mut Sheet) {
        sheet.counter(
            "roomcast_socket_writes",
            "Writes to WebSocket connections",
            self.sum(|w| w.socket_writes.get()),
        );
        sheet.counter(
            "roomcast_socket_out_bytes",
            "Bytes written to WebSocket connections",
            self.sum(|w| w.socket_bytes_out.get()),
        );
        sheet.counter(
            "roomcast_socket_in_bytes",
            "Bytes read from WebSocket connections",
            self.sum(|w| w.socket_bytes_in.get()),
        );
        sheet.counter("roomcast_messages_in", "WebSocket messages read", self.sum(|w| w.messages_in.get()));
        sheet.counter(
            "roomcast_connections_opened",
            "WebSocket connections begun",
            self.sum(|w| w.connections_opened.get()),
        );
        sheet.counter(
            "roomcast_connections_closed",
            "WebSocket connections ended",
            self.sum(|w| w.connections_closed.get()),
        );
        sheet.gauge(
            "roomcast_connections",
            "WebSocket connections there now",
            self.sum(|w| w.sessions.get()),
        );
        sheet.gauge(
            "roomcast_outbox_bytes",
            "Bytes waiting for slow readers",
            self.sum(|w| w.outbox_bytes.get()),
        );
        let late_us = self.workers.iter().map(|worker| worker.loop_late_us.get()).max().unwrap_or(0);
        sheet.seconds(
            "roomcast_loop_delay_seconds",
            "How long the busiest worker's loop kept others waiting at its worst in the last ten seconds",
            false,
            late_us as f64 / 1e6,
        );
        sheet.counter("roomcast_pings_sent", "WebSocket pings written", self.sum(|w| w.pings_sent.get()));
    }

    fn rooms(&self, sheet: &mut Sheet) {
        let chat = &self.chat;
        sheet.gauge("roomcast_sessions", "Sessions that have said who they are", chat.sessions.get());
        sheet.gauge("roomcast_rooms", "Rooms open", chat.rooms.get());
        sheet.gauge("roomcast_members", "Places of sessions in rooms", chat.members.get());
        let accepted = [
            ("session", chat.messages_accepted_session.get()),
            ("queue", chat.messages_accepted_queue.get()),
            ("api", chat.messages_accepted_api.get()),
        ];
        sheet.counters(
            "roomcast_messages_accepted",
            "Messages that got their place in a room, by the door they came through",
            "via",
            accepted,
        );
        sheet.counter(
            "roomcast_messages_duplicate",
            "Repeats known by their id, said once only",
            chat.messages_duplicate.get(),
        );
        let refused = [
            ("busy", chat.messages_refused_busy.get()),
            ("draining", chat.messages_refused_draining.get()),
            ("rooms", chat.messages_refused_rooms.get()),
            ("handler", chat.messages_refused_handler.get()),
            ("not-stored", chat.messages_refused_not_stored.get()),
        ];
        sheet.counters("roomcast_messages_refused", "Messages that got no place", "reason", refused);
        sheet.gauge(
            "roomcast_steps_unkept",
            "Entries and answers that wait until the store has kept something",
            chat.unkept.get(),
        );
        sheet.gauge(
            "roomcast_members_behind",
            "Members that are being led up to the present by a cursor",
            chat.behind.get(),
        );
        sheet.gauge(
            "roomcast_history_bytes",
            "Bytes of the hot history of all rooms",
            chat.history_bytes.get(),
        );
        sheet.gauge(
            "roomcast_history_entries",
            "Entries of the hot history of all rooms",
            chat.history_entries.get(),
        );
        sheet.gauge("roomcast_dedup_ids", "Message ids remembered in all rooms", chat.dedup_ids.get());
        sheet.gauge(
            "roomcast_hub_queued_bytes",
            "Bytes under way to the worker threads",
            chat.hub_queued_bytes.get(),
        );
    }

    fn refusals(&self, sheet: &mut Sheet) {
        let door = &self.door;
        let refused = [
            ("origin", door.refused_origin.get()),
            ("address", door.refused_address.get()),
            ("full", door.refused_full.get()),
            ("handshake", door.refused_handshake.get()),
            ("draining", door.refused_draining.get()),
            ("path", door.refused_path.get()),
        ];
        sheet.counters("roomcast_upgrades_refused", "WebSocket requests turned away", "reason", refused);
        sheet.counter("roomcast_polls", "Polls over plain HTTP that were let in", door.polls.get());
        let known = WHYS.into_iter().zip(self.errors.known.iter().map(Count::get));
        let all = known.chain([("other", self.errors.other.get())]);
        sheet.counters("roomcast_errors", "Errors told to clients", "why", all);
    }
}
