//! Rooms that several engines share through real Redis servers.

mod cluster;
mod failover;
mod load;
mod people;
mod places;
mod stage;
mod switch;
mod two;
