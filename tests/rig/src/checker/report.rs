//! What the judge found.

use std::collections::BTreeMap;
use std::fmt;

/// Findings of one kind whose text is kept; all are counted.
const TEXTS_MAX: usize = 20;

/// What a server can do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Acknowledged, and not there for who should have had it.
    Lost,
    /// Two places for one id, or one place shown twice.
    Doubled,
    /// Out of order, for a reader or among what one writer said.
    Reordered,
    /// A hole that no `skip`, `missing` or `gap` names.
    Unaccounted,
    /// One place, two lines.
    Different,
    /// Nobody said that.
    Phantom,
    /// Seen by a reader, and gone later.
    Vanished,
}

impl Fault {
    /// All kinds, in the order of the table.
    pub const ALL: [Fault; 7] = [
        Fault::Lost,
        Fault::Doubled,
        Fault::Reordered,
        Fault::Unaccounted,
        Fault::Different,
        Fault::Phantom,
        Fault::Vanished,
    ];

    /// Its name in tables.
    pub fn word(self) -> &'static str {
        match self {
            Fault::Lost => "lost",
            Fault::Doubled => "doubled",
            Fault::Reordered => "reordered",
            Fault::Unaccounted => "unaccounted",
            Fault::Different => "different",
            Fault::Phantom => "phantom",
            Fault::Vanished => "vanished",
        }
    }
}

/// How many of everything, and the first findings of each kind in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Diaries.
    pub clients: u64,
    /// Different ids that were sent.
    pub sent: u64,
    /// Of these, acknowledged with a place.
    pub acked: u64,
    /// Entries that reached a client, over all clients.
    pub seen: u64,
    /// Of these, dropped because the client had them already.
    pub dropped: u64,
    /// Different places seen.
    pub places: u64,
    /// Acknowledged places that readers were told are `missing`.
    pub forgotten: u64,
    /// Times that a reader was told to go back.
    pub rewinds: u64,
    /// Entries that readers took off their screens because of that.
    pub taken_back: u64,
    /// Acknowledged messages that were given another place by that.
    pub moved: u64,
    faults: BTreeMap<Fault, (u64, Vec<String>)>,
}

impl Report {
    /// How often a fault was found.
    pub fn count(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).map_or(0, |(count, _)| *count)
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn add(&mut self, fault: Fault, text: String) {
        let (count, texts) = self.faults.entry(fault).or_default();
        *count += 1;
        if texts.len() < TEXTS_MAX {
            texts.push(text);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = [
            ("clients", self.clients),
            ("sent", self.sent),
            ("acked", self.acked),
            ("places", self.places),
            ("seen by readers", self.seen),
            ("dropped repeats", self.dropped),
            ("forgotten", self.forgotten),
            ("rewinds", self.rewinds),
            ("  taken back", self.taken_back),
            ("  acked and moved", self.moved),
        ];
        for (name, figure) in figures {
            writeln!(f, "{name:<18}{figure:>12}")?;
        }
        for fault in Fault::ALL {
            writeln!(f, "{:<18}{:>12}", fault.word(), self.count(fault))?;
        }
        for (fault, (count, texts)) in &self.faults {
            for text in texts {
                writeln!(f, "  {}: {text}", fault.word())?;
            }
            if *count > texts.len() as u64 {
                writeln!(f, "  {}: and {} more", fault.word(), count - texts.len() as u64)?;
            }
        }
        Ok(())
    }
}
