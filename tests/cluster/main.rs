//! The proof that nothing acknowledged is lost, doubled or reordered while nodes and Redis servers die. Three
//! real nodes behind a real load balancer, with real Redis servers, are killed, stopped and cut off from each
//! other, while writers write and readers read. In the end a judge reads what the clients wrote down, and
//! nothing else.
//!
//! `ROOMCAST_CLUSTER_SECS=600` lets each story strike again and again for so long; `ROOMCAST_SEED` gives the
//! same chances again; with `ROOMCAST_KEEP=1` diaries and logs stay also when all is well. Needs redis-server,
//! redis-sentinel, haproxy, nginx and PostgreSQL; tests/all installs them.

mod alone;
mod archives;
mod balancer;
mod balancers;
mod doors;
mod figures;
mod forwards;
mod hooks;
mod local_cluster;
mod moderating;
mod nodes;
mod overview;
mod postgres;
mod presence;
mod primaries;
mod processes;
mod queues;
mod redis;
mod remembering;
mod rig;
mod scaling;
mod secure;
mod stage;
mod story;
mod tracing;
mod wires;
