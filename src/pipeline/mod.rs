//! Stage 4 of 6: the steps that an event takes before its deliveries are planned.
