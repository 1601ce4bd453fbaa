//! Rooms that several engines share through real Redis servers.

//mod cluster;
//mod failover;
mod places;
mod stage;
mod two;
