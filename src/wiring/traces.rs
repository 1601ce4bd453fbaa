//! Starts and ends what brings spans to a collector. Called by the wiring alone.

#[cfg(not(feature = "otel"))]
mod nothing;
#[cfg(feature = "otel")]
mod sending;

#[cfg(not(feature = "otel"))]
pub use nothing::Traces;
#[cfg(feature = "otel")]
pub use sending::Traces;
