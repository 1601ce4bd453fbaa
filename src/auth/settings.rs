//! The `[auth]` table of the configuration: the keys that tokens are checked with, and the API keys.
//! Read by the verifier and by the server API. A secret never shows itself in debug output.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use subtle::ConstantTimeEq;

use crate::auth::api_key::ApiKey;

/// Shortest secret that is not called short: HS256 wants as many bits as can be guessed by nobody.
pub const SECRET_BYTES_GOOD: usize = 16;

/// Text that must not be shown: written out it is `(set)`. An empty one means "not set".
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_set() { "(set)" } else { "" })
    }
}

impl Secret {
    /// Any text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether the other text is the same, in a time that depends on the lengths alone.
    pub fn is(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "(set)" } else { "(not set)" })
    }
}

/// The `[auth]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthSettings {
    /// Key of HS256 tokens. Default none.
    pub secret: Secret,
    /// Public key of RS256 or ES256 tokens: PEM text, or the path of a PEM file. Default none.
    pub public_key: String,
    /// Where the issuer publishes its keys (RFC 7517), for RS256 and ES256. Default none.
    pub jwks_url: String,
    /// Keys of the server API. Default none: the API is closed, except to visitors on the same machine
    /// while the demo is enabled.
    pub api_keys: Vec<ApiKey>,
}

impl AuthSettings {
    /// What cannot work, with the key and what to write instead. The public key itself is read by the
    /// verifier.
    pub fn check(&self) -> Result<(), String> {
        if !self.public_key.is_empty() && !self.jwks_url.is_empty() {
            return Err(
                "auth.public_key and auth.jwks_url are both set; keep the one that your issuer offers".into(),
            );
        }
        for (at, key) in self.api_keys.iter().enumerate() {
            key.check()?;
            if self.api_keys[..at].iter().any(|other| other.key == key.key) {
                return Err(
                    "auth.api_keys: a key stands there twice; put its scopes and rooms together".into()
                );
            }
        }
        if self.jwks_url.is_empty() {
            return Ok(());
        }
        let url = url::Url::parse(&self.jwks_url).map_err(|error| {
            format!("auth.jwks_url: {error}; write for example \"https://id.example.com/keys.json\"")
        })?;
        if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
            return Err("auth.jwks_url: it starts with https:// (or http:// inside your own network)".into());
        }
        Ok(())
    }

    /// What works but should be mended.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.secret.is_set() && self.secret.expose().len() < SECRET_BYTES_GOOD {
            warnings.push(format!(
                "auth.secret is shorter than {SECRET_BYTES_GOOD} bytes and may be guessed; use 32 random ones"
            ));
        }
        if self.api_keys.iter().any(|key| key.key.expose().len() < SECRET_BYTES_GOOD) {
            warnings.push(format!(
                "auth.api_keys has a key shorter than {SECRET_BYTES_GOOD} bytes; it may be guessed"
            ));
        }
        if self.jwks_url.starts_with("http://") {
            warnings.push("auth.jwks_url is fetched without TLS; who stands between may forge tokens".into());
        }
        warnings
    }

    /// The API key that this is. All are compared, so that the time does not tell which.
    pub fn api_key(&self, key: &str) -> Option<&ApiKey> {
        self.api_keys.iter().fold(None, |found, known| if known.key.is(key) { Some(known) } else { found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_itself() {
        let auth = AuthSettings {
            secret: Secret::new("open sesame"),
            api_keys: vec![ApiKey::new("key-one")],
            ..AuthSettings::default()
        };
        let shown = format!("{auth:?}");
        assert!(
            shown.contains("(set)") && !shown.contains("sesame") && !shown.contains("key-one"),
            "{shown}"
        );
    }

    #[test]
    fn an_api_key_is_the_whole_key() {
        let auth = AuthSettings {
            api_keys: vec![ApiKey::new("first"), ApiKey::new("second")],
            ..AuthSettings::default()
        };
        assert_eq!(auth.api_key("first"), Some(&auth.api_keys[0]));
        assert_eq!(auth.api_key("second"), Some(&auth.api_keys[1]));
        for wrong in ["", "firs", "firstt", "FIRST", "first,second"] {
            assert!(auth.api_key(wrong).is_none(), "{wrong}");
        }
        assert!(AuthSettings::default().api_key("").is_none(), "no key at all is no key");
    }

    #[test]
    fn what_cannot_work_is_named() {
        let auth = |change: fn(&mut AuthSettings)| {
            let mut auth = AuthSettings::default();
            change(&mut auth);
            auth
        };
        let twice = auth(|a| a.api_keys = vec![ApiKey::new("same"), ApiKey::new("same")]).check();
        assert!(twice.unwrap_err().contains("twice"));
        assert!(
            auth(|a| a.api_keys.push(ApiKey::default())).check().unwrap_err().starts_with("auth.api_keys")
        );
        assert!(
            auth(|a| a.jwks_url = "id.example.com".into()).check().unwrap_err().starts_with("auth.jwks_url")
        );
        assert!(auth(|a| a.jwks_url = "file:///etc/passwd".into()).check().is_err());
        assert!(auth(|a| a.secret = Secret::new("short")).warnings()[0].contains("auth.secret"));
        assert!(auth(|a| a.secret = Secret::new("0123456789abcdef")).warnings().is_empty());
    }
}
