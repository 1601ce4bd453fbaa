//! What operators see of the way from rooms in Redis to their archive. Called by the wiring alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::engines::redis::filler::{Filler, FillerFigures};
use crate::metrics::Metrics;
use crate::metrics::sheet::Sheet;

/// Puts its figures among the others. An archive that is away is said in the figures and the log; the node can do its
/// work meanwhile, so it stays ready. Whoever stops it has the only strong pointer.
pub fn watch(filler: Filler, metrics: &Metrics) -> Arc<Filler> {
    let filler = Arc::new(filler);
    let shown = Arc::downgrade(&filler);
    metrics.add(Box::new(move |sheet| {
        if let Some(filler) = shown.upgrade() {
            write_figures(sheet, filler.figures());
        }
    }));
    filler
}

fn write_figures(sheet: &mut Sheet, figures: &FillerFigures) {
    let of = |figure: &AtomicU64| figure.load(Relaxed);
    sheet.counter(
        "roomcast_archive_entries",
        "Entries that this node has brought from Redis to the archive, repeats among them",
        of(&figures.archived),
    );
    sheet.gauge(
        "roomcast_archive_partitions",
        "Partitions of Redis whose entries this node brings to the archive",
        of(&figures.served),
    );
    sheet.counter("roomcast_archive_failures", "Calls of the archive that failed", of(&figures.failures));
    sheet.counter(
        "roomcast_archive_unreadable",
        "Entries in Redis that this version cannot read; the archive lacks them",
        of(&figures.unreadable),
    );
    sheet.counter(
        "roomcast_archive_missed",
        "Entries that left Redis before the archive had them",
        of(&figures.missed),
    );
    sheet.counter(
        "roomcast_archive_notes",
        "Read marks, places of sessions and rules of rooms that this node has brought from Redis to the archive",
        of(&figures.notes),
    );
    sheet.counter(
        "roomcast_archive_notes_dropped",
        "Read marks and places of sessions that had no place among those that wait; the archive lacks them",
        of(&figures.notes_dropped),
    );
    sheet.gauge(
        "roomcast_archive_notes_waiting",
        "Read marks, places of sessions and rules that wait in Redis for the archive, where this node looks after them",
        of(&figures.notes_waiting),
    );
    sheet.gauge(
        "roomcast_archive_waiting",
        "Entries that wait in Redis for the archive, of those that this node looks after",
        of(&figures.waiting),
    );
}
