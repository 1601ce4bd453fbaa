//! One way to ask other HTTP servers: HTTP/1.1, TLS against the public certificate authorities, no
//! redirects (a key fetched over TLS must not come from where a redirect points).
//! Used for the issuer's keys and by the command line. Knows neither.

use std::sync::Arc;
use std::time::Duration;

use awc::{Client, Connector};
use rustls::{ClientConfig, RootCertStore};

/// A client whose requests end after `timeout`. Belongs to the thread it was made on.
pub fn client(timeout: Duration) -> Client {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows the default versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = Connector::new().rustls_0_23(Arc::new(config)).timeout(timeout);
    let agent = concat!("roomcast/", env!("CARGO_PKG_VERSION"));
    let builder = Client::builder().connector(connector).timeout(timeout).disable_redirects();
    builder.add_default_header(("User-Agent", agent)).finish()
}
