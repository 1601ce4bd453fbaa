//! Tokens as a backend makes them, good ones and bad ones.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// The secret of every hall that has one.
pub const SECRET: &str = "a secret for stories, long enough to be good";
/// Keys made for tests alone; nothing in the world is signed with them.
pub const RSA: &str = include_str!("../../keys/rsa.pem");
pub const RSA_PUBLIC: &str = include_str!("../../keys/rsa.pub.pem");
pub const P256: &str = include_str!("../../keys/p256.pem");

/// A token in the making.
#[derive(Debug, Clone)]
pub struct Token(Value);

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_secs()
}

impl Token {
    /// A token for this user, good for an hour.
    pub fn of(user: &str) -> Token {
        Token(json!({"sub": user, "exp": now() + 3600}))
    }

    /// The same with a claim set, or taken out with `null`.
    pub fn with(mut self, claim: &str, value: impl Into<Value>) -> Token {
        let claims = self.0.as_object_mut().expect("claims are an object");
        match value.into() {
            Value::Null => claims.remove(claim),
            value => claims.insert(claim.into(), value),
        };
        self
    }

    /// Ends in so many seconds; a negative number has ended.
    pub fn ends_in(self, seconds: i64) -> Token {
        self.with("exp", now() as i64 + seconds)
    }

    /// The same with the rooms that it lists.
    pub fn rooms(self, rooms: &[&str]) -> Token {
        self.with("rooms", json!(rooms))
    }

    /// Signed with the hall's secret.
    pub fn signed(&self) -> String {
        self.hs256(SECRET)
    }

    pub fn hs256(&self, secret: &str) -> String {
        self.sign(Algorithm::HS256, &EncodingKey::from_secret(secret.as_bytes()))
    }

    pub fn rs256(&self) -> String {
        self.sign(Algorithm::RS256, &EncodingKey::from_rsa_pem(RSA.as_bytes()).expect("an RSA key"))
    }

    pub fn es256(&self) -> String {
        self.sign(Algorithm::ES256, &EncodingKey::from_ec_pem(P256.as_bytes()).expect("a P-256 key"))
    }

    /// Signed with another member of the HMAC family than the server knows.
    pub fn hs512(&self) -> String {
        self.sign(Algorithm::HS512, &EncodingKey::from_secret(SECRET.as_bytes()))
    }

    /// Not signed at all: `"alg":"none"`.
    pub fn unsigned(&self) -> String {
        let part = |json: &Value| BASE64.encode(json.to_string());
        format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(&self.0))
    }

    fn sign(&self, algorithm: Algorithm, key: &EncodingKey) -> String {
        encode(&Header::new(algorithm), &self.0, key).expect("claims can be signed")
    }
}
