//! Stage 1 of 6: takes requests apart into events, and answers when they are kept.
