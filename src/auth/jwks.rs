//! The public keys of an issuer: one from a PEM, or those that it publishes (RFC 7517), fetched now and
//! again. Asked by the verifier, which never waits. Keeps the old keys when a fetch fails.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use tokio::sync::{Notify, watch};

use crate::http_client;

/// Longest answer that is read, in bytes; issuers publish some 2 KB.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long a fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest RSA modulus (RFC 7518, section 3.3), in bytes.
const RSA_BYTES_MIN: usize = 2048 / 8;
/// Length of an uncompressed point on P-256, the curve of ES256.
const P256_POINT_BYTES: usize = 65;

/// A key that knows its only algorithm, so that a token cannot choose another for it.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// RS256 or ES256.
    pub algorithm: Algorithm,
    /// The key.
    pub key: DecodingKey,
}

impl PublicKey {
    /// Reads PEM text with one public key.
    pub fn from_pem(pem: &str) -> Result<PublicKey, String> {
        if pem.contains("PRIVATE KEY") {
            return Err("this is a private key; give the public one and keep this one at the issuer".into());
        }
        if let Ok(key) = DecodingKey::from_rsa_pem(pem.as_bytes()) {
            let long_enough = key.try_get_as_bytes().is_ok_and(|der| der.len() > RSA_BYTES_MIN);
            return match long_enough {
                true => Ok(PublicKey { algorithm: Algorithm::RS256, key }),
                false => Err("an RSA key has at least 2048 bits; make a longer one".into()),
            };
        }
        let key = DecodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| {
            "no PEM of an RSA or P-256 public key; export it with `openssl pkey -pubout`".to_owned()
        })?;
        match key.try_get_as_bytes().is_ok_and(|point| point.len() == P256_POINT_BYTES) {
            true => Ok(PublicKey { algorithm: Algorithm::ES256, key }),
            false => Err("this curve is not P-256, the only one of ES256; make another key".into()),
        }
    }

    /// Takes a published key that may check signatures of RS256 or ES256; `None` for all others. Keys of
    /// HMAC are never taken: whoever reads the list could sign with them.
    fn from_jwk(jwk: &Jwk) -> Option<PublicKey> {
        let (algorithm, named) = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => {
                let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).ok()?;
                if modulus.len() < RSA_BYTES_MIN {
                    return None;
                }
                (Algorithm::RS256, KeyAlgorithm::RS256)
            }
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            _ => return None,
        };
        let other_use =
            jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature);
        let other_algorithm = jwk.common.key_algorithm.as_ref().is_some_and(|key| *key != named);
        if other_use || other_algorithm {
            return None;
        }
        Some(PublicKey { algorithm, key: DecodingKey::from_jwk(jwk).ok()? })
    }
}

/// How often keys are fetched.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// Between fetches that succeed.
    pub every: Duration,
    /// Between any two fetches while there are keys, whoever asks.
    pub at_least: Duration,
    /// Between fetches while there is no key at all.
    pub while_empty: Duration,
}

impl Default for Rhythm {
    /// Every 10 minutes; at most every 30 s for an unknown key; every 5 s until there is one.
    fn default() -> Rhythm {
        Rhythm {
            every: Duration::from_secs(600),
            at_least: Duration::from_secs(30),
            while_empty: Duration::from_secs(5),
        }
    }
}

/// The keys that an issuer publishes.
#[derive(Debug)]
pub struct PublishedKeys {
    url: String,
    keys: RwLock<Vec<(Option<String>, PublicKey)>>,
    wanted: Notify,
    fetches: watch::Sender<u64>,
}

/// Why a published key was not found.
#[derive(Debug, PartialEq, Eq)]
pub enum NotFound {
    /// None was fetched so far.
    NoKeysYet,
    /// None has this id and algorithm; the list will be fetched again soon.
    Unknown,
}

impl PublishedKeys {
    /// Nothing is fetched before [`PublishedKeys::keep_fresh`] runs.
    pub fn new(url: &str) -> PublishedKeys {
        let fetches = watch::Sender::new(0);
        PublishedKeys { url: url.to_owned(), keys: RwLock::default(), wanted: Notify::new(), fetches }
    }

    /// The key with this id for this algorithm. A token without an id is fine when there is one key only
    /// for its algorithm.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<PublicKey, NotFound> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        if keys.is_empty() {
            return Err(NotFound::NoKeysYet);
        }
        let mut fitting = keys.iter().filter(|(_, key)| key.algorithm == algorithm);
        let found = match id {
            Some(id) => fitting.find(|(own, _)| own.as_deref() == Some(id)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        };
        let Some((_, key)) = found else {
            drop(keys);
            self.wanted.notify_one();
            return Err(NotFound::Unknown);
        };
        Ok(key.clone())
    }

    /// Whether there is a key to check tokens with.
    pub fn has_keys(&self) -> bool {
        !self.keys.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Fetches the keys now and again; never ends. One such task runs on any one thread.
    pub async fn keep_fresh(self: Arc<Self>, rhythm: Rhythm) {
        let client = http_client::client(FETCH_TIMEOUT);
        loop {
            let fetched = fetch(&client, &self.url).await;
            let succeeded = fetched.is_ok();
            match fetched {
                Ok(keys) => self.replace(keys),
                Err(error) => log::error!(
                    "cannot fetch the keys at {}: {error}; old keys stay, trying again soon",
                    self.url
                ),
            }
            self.fetches.send_modify(|count| *count += 1);
            if !self.has_keys() {
                tokio::time::sleep(rhythm.while_empty).await;
                continue;
            }
            tokio::time::sleep(rhythm.at_least).await;
            if succeeded {
                let rest = rhythm.every.saturating_sub(rhythm.at_least);
                // Either the time is over or somebody asked for a key that is not there: fetch again.
                tokio::time::timeout(rest, self.wanted.notified()).await.ok();
            }
        }
    }

    fn replace(&self, keys: Vec<(Option<String>, PublicKey)>) {
        log::info!("{} keys fetched from {}", keys.len(), self.url);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}

/// A key list whose members may be of kinds that this version does not know.
#[derive(Deserialize)]
struct KeyList {
    keys: Vec<serde_json::Value>,
}

async fn fetch(client: &awc::Client, url: &str) -> Result<Vec<(Option<String>, PublicKey)>, String> {
    let mut answer = client.get(url).send().await.map_err(|error| error.to_string())?;
    if !answer.status().is_success() {
        return Err(format!("the answer is {}", answer.status()));
    }
    let body = answer.body().limit(ANSWER_BYTES_MAX).await.map_err(|error| error.to_string())?;
    read(&body)
}

fn read(body: &[u8]) -> Result<Vec<(Option<String>, PublicKey)>, String> {
    let list: KeyList = serde_json::from_slice(body).map_err(|error| format!("no key list: {error}"))?;
    let keys = list.keys.into_iter().filter_map(|value| {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        Some((jwk.common.key_id.clone(), PublicKey::from_jwk(&jwk)?))
    });
    let keys: Vec<_> = keys.collect();
    match keys.is_empty() {
        true => Err("the list has no key for RS256 or ES256".into()),
        false => Ok(keys),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU16, Ordering};

    use actix_web::http::StatusCode;
    use actix_web::{App, HttpResponse, HttpServer, web};
    use serde_json::{Value, json};

    use super::*;

    const RSA_PUBLIC: &str = include_str!("../../tests/keys/rsa.pub.pem");
    const P256_PUBLIC: &str = include_str!("../../tests/keys/p256.pub.pem");

    /// A published key with an id.
    fn jwk(pem: &str, id: &str) -> Value {
        let key = PublicKey::from_pem(pem).unwrap();
        let mut jwk =
            serde_json::to_value(Jwk::from_decoding_key(&key.key, Some(key.algorithm)).unwrap()).unwrap();
        jwk["kid"] = json!(id);
        jwk["use"] = json!("sig");
        jwk
    }

    fn with(mut jwk: Value, key: &str, value: &str) -> Value {
        jwk[key] = json!(value);
        jwk
    }

    fn read_list(keys: &[Value]) -> Result<usize, String> {
        read(json!({ "keys": keys }).to_string().as_bytes()).map(|keys| keys.len())
    }

    #[test]
    fn only_keys_that_fit_are_taken() {
        let (rsa, ec) = (jwk(RSA_PUBLIC, "r"), jwk(P256_PUBLIC, "e"));
        assert_eq!(read_list(&[rsa.clone(), ec.clone()]), Ok(2));
        let mut bare = rsa.clone();
        bare.as_object_mut().unwrap().retain(|key, _| matches!(key.as_str(), "kty" | "n" | "e"));
        assert_eq!(read_list(&[bare]), Ok(1), "alg, use and kid may be left out (RFC 7517)");
        let unfit = [
            with(rsa.clone(), "use", "enc"),
            with(rsa.clone(), "alg", "RS512"),
            with(rsa, "n", "AQAB"),
            with(ec.clone(), "crv", "P-384"),
            json!({"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ", "alg": "HS256", "kid": "o"}),
            json!({"kty": "quantum", "kid": "q"}),
            json!("no key at all"),
        ];
        for key in &unfit {
            assert!(read_list(std::slice::from_ref(key)).is_err(), "{key}");
        }
        let mut mixed = unfit.to_vec();
        mixed.push(ec);
        assert_eq!(read_list(&mixed), Ok(1), "strange keys do not spoil the others");
        assert!(read(b"<html>").is_err());
    }

    /// An issuer whose list and state can be changed.
    struct Issuer {
        list: Mutex<String>,
        status: AtomicU16,
    }

    impl Issuer {
        fn publish(&self, status: StatusCode, keys: &[Value]) {
            self.status.store(status.as_u16(), Ordering::SeqCst);
            *self.list.lock().unwrap() = json!({ "keys": keys }).to_string();
        }
    }

    async fn answer(issuer: web::Data<Issuer>) -> HttpResponse {
        let status = StatusCode::from_u16(issuer.status.load(Ordering::SeqCst)).unwrap();
        HttpResponse::build(status).body(issuer.list.lock().unwrap().clone())
    }

    #[actix_web::test]
    async fn an_unknown_key_is_fetched_and_a_failed_fetch_takes_nothing_away() {
        let issuer = web::Data::new(Issuer { list: Mutex::default(), status: AtomicU16::new(200) });
        issuer.publish(StatusCode::OK, &[jwk(RSA_PUBLIC, "first")]);
        let shared = issuer.clone();
        let server = HttpServer::new(move || {
            App::new().app_data(shared.clone()).route("/keys", web::get().to(answer))
        })
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .unwrap();
        let url = format!("http://{}/keys", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(server);

        let keys = Arc::new(PublishedKeys::new(&url));
        assert_eq!(keys.find(Some("first"), Algorithm::RS256).unwrap_err(), NotFound::NoKeysYet);
        let mut fetches = keys.fetches.subscribe();
        let soon = Duration::from_millis(1);
        let rhythm = Rhythm { every: Duration::from_secs(3600), at_least: soon, while_empty: soon };
        let task = actix_web::rt::spawn(Arc::clone(&keys).keep_fresh(rhythm));
        fetches.changed().await.unwrap();
        assert!(keys.find(Some("first"), Algorithm::RS256).is_ok());
        assert!(keys.find(None, Algorithm::RS256).is_ok(), "one key for the algorithm needs no id");
        assert_eq!(keys.find(Some("first"), Algorithm::ES256).unwrap_err(), NotFound::Unknown);
        fetches.changed().await.unwrap();

        issuer.publish(StatusCode::OK, &[jwk(P256_PUBLIC, "second")]);
        assert_eq!(keys.find(Some("second"), Algorithm::ES256).unwrap_err(), NotFound::Unknown);
        fetches.changed().await.unwrap();
        assert!(keys.find(Some("second"), Algorithm::ES256).is_ok());

        issuer.publish(StatusCode::INTERNAL_SERVER_ERROR, &[]);
        assert!(keys.find(Some("first"), Algorithm::RS256).is_err(), "what is withdrawn is gone");
        fetches.changed().await.unwrap();
        assert!(keys.find(Some("second"), Algorithm::ES256).is_ok());
        task.abort();
        handle.stop(false).await;
    }
}
