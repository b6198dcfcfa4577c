//! Stage 5 of 6: makes the deliveries that are due, and decides what follows from each attempt.
