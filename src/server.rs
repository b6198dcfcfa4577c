//! The accept loop: connections with timers and a cap, which hyper leaves to us.
