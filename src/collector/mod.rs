//! The way of spans to a collector of OpenTelemetry: where it is, and who brings them there. Settings are read by the
//! configuration; the rest is called by the wiring alone. Knows nothing of what spans are about.

#[cfg(feature = "otel")]
pub mod sending;
pub mod settings;
