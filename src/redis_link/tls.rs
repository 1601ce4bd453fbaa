//! Whom a secret connection to Redis trusts: the public certificate authorities, or those in the file that
//! `SSL_CERT_FILE` names instead. Used by the link alone.

use redis::cluster::ClusterClientBuilder;
use redis::{Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisResult, TlsCertificates};

/// The variable by which most programs are told of a company's own certificate authority.
const OWN_AUTHORITIES: &str = "SSL_CERT_FILE";

/// A client for one server.
pub fn client(info: ConnectionInfo) -> RedisResult<Client> {
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return Client::open(info);
    }
    match trusted()? {
        Some(trusted) => Client::build_with_tls(info, trusted),
        None => Client::open(info),
    }
}

/// The same for a Cluster.
pub fn cluster(builder: ClusterClientBuilder) -> RedisResult<ClusterClientBuilder> {
    Ok(match trusted()? {
        Some(trusted) => builder.certs(trusted),
        None => builder,
    })
}

/// The authorities of the file, which is read each time: it may be renewed. None: the public ones.
fn trusted() -> RedisResult<Option<TlsCertificates>> {
    // An error says that the process has chosen already, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let Some(path) = std::env::var_os(OWN_AUTHORITIES).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let file = std::path::Path::new(&path);
    let unreadable = |error: std::io::Error| {
        let what = format!("{}: {error}", file.display());
        (ErrorKind::InvalidClientConfig, "SSL_CERT_FILE cannot be read", what)
    };
    let root_cert = Some(std::fs::read(file).map_err(unreadable)?);
    Ok(Some(TlsCertificates { client_tls: None, root_cert }))
}
