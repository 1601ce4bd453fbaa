//! One way to ask other HTTP servers: HTTP/1.1, TLS against the public certificate authorities and those
//! in the file that `SSL_CERT_FILE` names, no redirects (a key fetched over TLS must not come from where a
//! redirect points). Used for the issuer's keys, for hooks, for services of clouds and by the command line. Knows none of
//! them.

pub mod guard;

use std::sync::Arc;
use std::time::Duration;

use actix_tls::connect::{Connector as TcpConnector, Resolver};
use awc::{Client, Connector};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use guard::Guard;

/// The variable by which most programs are told of a company's own certificate authority.
const OWN_AUTHORITIES: &str = "SSL_CERT_FILE";

/// Which hosts a client may talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Any.
    Anywhere,
    /// Those of the public internet, not this machine and no private network.
    Public,
}

/// A client whose requests end after `timeout`. Belongs to the thread it was made on.
pub fn client(timeout: Duration) -> Client {
    client_for(timeout, Reach::Anywhere)
}

/// The same for a client that may not talk to everybody.
pub fn client_for(timeout: Duration, reach: Reach) -> Client {
    let guard = Guard::before(TcpConnector::new(Resolver::default()).service(), reach);
    let connector = Connector::new().connector(guard).rustls_0_23(Arc::new(tls())).timeout(timeout);
    let agent = concat!("roomcast/", env!("CARGO_PKG_VERSION"));
    let builder = Client::builder().connector(connector).timeout(timeout).disable_redirects();
    builder.add_default_header(("User-Agent", agent)).finish()
}

/// Whom this process trusts over TLS.
pub fn tls() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows the default versions of TLS")
        .with_root_certificates(authorities())
        .with_no_client_auth()
}

fn authorities() -> RootCertStore {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(path) = std::env::var_os(OWN_AUTHORITIES).filter(|path| !path.is_empty()) else {
        return roots;
    };
    let certificates = match CertificateDer::pem_file_iter(&path) {
        Ok(certificates) => certificates,
        Err(error) => {
            log::warn!("cannot read {} of {OWN_AUTHORITIES}: {error}", path.display());
            return roots;
        }
    };
    // Files of many authorities have some that are of no use here; the others count.
    let (_, unusable) = roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if unusable > 0 {
        log::debug!("{unusable} certificates of {OWN_AUTHORITIES} cannot be used");
    }
    roots
}
