//! Signatures as the Standard Webhooks specification has them, version 1.0.0, symmetric: HMAC-SHA256 over
//! `id.timestamp.body`, in base64 behind `v1,`. <https://github.com/standard-webhooks/standard-webhooks>, "Signature
//! scheme". The bytes that are signed are the bytes that are sent.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD as BASE64, STANDARD_NO_PAD};
use ring::hmac;

use crate::auth::settings::Secret;

/// How a secret begins, so that it is known for what it is.
const PREFIX: &str = "whsec_";
/// Shortest and longest secret, in bytes, as the specification has it.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// What to write instead of a secret that cannot be used.
const ADVICE: &str =
    "write whsec_ and 24 to 64 random bytes in base64: echo whsec_$(openssl rand -base64 32)";

/// The keys that requests are signed with. Several while one is being replaced: a receiver takes either.
#[derive(Clone)]
pub struct Keys(Vec<hmac::Key>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Keys {
    /// Reads one secret, or several with spaces between. The error says what to write, and nothing of the secret.
    pub fn read(secret: &Secret) -> Result<Keys, String> {
        let keys: Result<Vec<_>, String> = secret.expose().split_ascii_whitespace().map(key).collect();
        match keys {
            Ok(keys) if keys.is_empty() => Err(format!("requests to a backend are signed; {ADVICE}")),
            keys => keys.map(Keys),
        }
    }

    /// The value of `webhook-signature`. `id` has no full stop in it, `timestamp` is Unix seconds.
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        debug_assert!(!id.contains('.'), "a full stop would move the border between id and time");
        let start = format!("{id}.{timestamp}.");
        let each = self.0.iter().map(|key| {
            let mut signing = hmac::Context::with_key(key);
            signing.update(start.as_bytes());
            signing.update(body);
            format!("v1,{}", BASE64.encode(signing.sign()))
        });
        each.collect::<Vec<_>>().join(" ")
    }
}

fn key(text: &str) -> Result<hmac::Key, String> {
    let encoded = text.strip_prefix(PREFIX).ok_or(ADVICE)?;
    let bytes = STANDARD_NO_PAD.decode(encoded.trim_end_matches('=')).map_err(|_| ADVICE)?;
    match SECRET_BYTES.contains(&bytes.len()) {
        true => Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes)),
        false => Err(ADVICE.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn keys(text: &str) -> Result<Keys, String> {
        Keys::read(&Secret::new(text))
    }

    #[test]
    fn a_signature_is_the_one_that_receivers_compute() {
        // What the libraries of the specification's authors compute for these (their tests have the same secret).
        let body = br#"{"test": 2432232314}"#;
        let signed = keys(SECRET).unwrap().sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn while_a_secret_is_replaced_both_sign() {
        let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let (one, two) = (keys(SECRET).unwrap(), keys(&format!("{SECRET} {other}")).unwrap());
        let both = two.sign("m", 1, b"x");
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(first, one.sign("m", 1, b"x"));
        assert_eq!(second, keys(other).unwrap().sign("m", 1, b"x"));
    }

    #[test]
    fn a_secret_that_cannot_be_used_is_refused_and_not_shown() {
        for wrong in ["", " ", "hunter2hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_***not*base64***"] {
            let error = keys(wrong).unwrap_err();
            assert!(error.contains("openssl rand") && !error.contains("hunter2"), "{error}");
        }
        let long = format!("whsec_{}", BASE64.encode([7; 65]));
        assert!(keys(&long).is_err());
        assert_eq!(format!("{:?}", keys(SECRET).unwrap()), "1 keys");
    }
}
