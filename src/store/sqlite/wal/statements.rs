//! What a batch writes: statements for the active segment, which are journaled first, and executed later.

/// Every statement that changes a segment in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    Event,
    GivenId,
    Block,
    Delivery,
    Skipped,
    Activity,
    Minute,
    Tally,
    ForgetMemories,
    Memories,
    Waiting,
    OldestEvent,
    Replay,
    Redo,
    TrimRedo,
}

impl Statement {
    pub const COUNT: usize = Self::TrimRedo as usize + 1;

    pub fn sql(self) -> &'static str {
        match self {
            Self::Event => {
                "INSERT INTO events (seq, id, given_id, project, source, type, timestamp, \
                 received_at, key, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            }
            Self::GivenId => "INSERT INTO given_ids (id, seq) VALUES (?, ?)",
            Self::Block => "INSERT INTO blocks (first_seq, count, body) VALUES (?, ?, ?)",
            Self::Delivery => {
                "INSERT INTO deliveries (seq, project, destination, pipeline, version, lane, \
                 position, accepted_at, replay, fresh_id, copy) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            }
            Self::Skipped => "INSERT OR REPLACE INTO skipped (event, reasons) VALUES (?, ?)",
            Self::Activity => {
                "INSERT INTO activity (delivery, number, at, project, destination, attempt, class, \
                 status, duration, ended, reason, retry_after, response) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            }
            Self::Minute => {
                "INSERT INTO minutes (destination, minute, planned, delivered, failed_attempts, \
                 dead, dropped, below_10ms, below_50ms, below_100ms, below_500ms, below_1s, \
                 below_5s, longer) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
                 ON CONFLICT DO UPDATE SET \
                 planned = planned + excluded.planned, delivered = delivered + excluded.delivered, \
                 failed_attempts = failed_attempts + excluded.failed_attempts, \
                 dead = dead + excluded.dead, dropped = dropped + excluded.dropped, \
                 below_10ms = below_10ms + excluded.below_10ms, \
                 below_50ms = below_50ms + excluded.below_50ms, \
                 below_100ms = below_100ms + excluded.below_100ms, \
                 below_500ms = below_500ms + excluded.below_500ms, \
                 below_1s = below_1s + excluded.below_1s, \
                 below_5s = below_5s + excluded.below_5s, longer = longer + excluded.longer"
            }
            Self::Tally => {
                "INSERT OR REPLACE INTO tallies (pipeline, minute, version, counts) \
                 VALUES (?, ?, ?, ?)"
            }
            Self::ForgetMemories => "DELETE FROM memories",
            Self::Memories => "INSERT INTO memories (number, is_whole, entries) VALUES (?, ?, ?)",
            Self::Waiting => "INSERT OR REPLACE INTO facts (name, value) VALUES ('waiting', ?)",
            Self::OldestEvent => {
                "INSERT OR REPLACE INTO facts (name, value) VALUES ('oldest_event', ?)"
            }
            Self::Replay => {
                "INSERT OR REPLACE INTO replays (replay, cursor, done) VALUES (?, ?, ?)"
            }
            Self::Redo => "INSERT INTO redo (number, changes) VALUES (?, ?)",
            Self::TrimRedo => "DELETE FROM redo WHERE number <= ?",
        }
    }
}
