//! Doors for plain HTTP requests: health, figures, the demo page, the server API. All routes stand in one
//! table in [`routes`]. WebSocket requests do not come here.

pub mod access;
pub mod answer;
pub mod api;
pub mod asked;
pub mod batch;
pub mod demo;
pub mod health;
pub mod house;
pub mod log;
pub mod metrics;
pub mod moderation;
pub mod openapi;
pub mod orders;
pub mod publish;
pub mod readiness;
pub mod rooms;
pub mod routes;
pub mod trace;
pub mod traceparent;
pub mod v1;

#[cfg(test)]
mod tests;
