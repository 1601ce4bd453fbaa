//! Rooms that several engines share through real Redis servers.

mod archive;
mod chance;
mod cluster;
mod cost;
mod failover;
mod filling;
mod leaving;
mod load;
mod people;
mod places;
mod stage;
mod switch;
mod two;
