//! Tokens: what somebody shows to prove who he is (RFC 7519). Asked by the session; never waits, never
//! logs a token. Takes the time as a value.
//!
//! The claims are those of docs/protocol.md, "Tokens": `sub` (required), `exp`, `nbf`, `rooms`, `info`,
//! `pub`. A token without `exp` never runs out. `aud` and `iss` are not looked at: whoever holds the
//! issuer's key is believed. The algorithm follows from the key, never from the token (RFC 8725, 3.1).

use std::borrow::Cow;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::auth::jwks::{NotFound, PublicKey, PublishedKeys};
use crate::auth::settings::{AuthSettings, Secret};
use crate::chat::data::Data;
use crate::chat::names::{NAME_BYTES_MAX, Pattern, UserName};
use crate::chat::permission::Identity;

/// Longest token, in bytes. Proxies cap headers and URLs at 8 KB anyway.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Longest `info`, in bytes: every member of a room is sent it.
const INFO_BYTES_MAX: usize = 4 << 10;
/// How far the issuer's clock may be ahead of ours, in seconds; for `nbf` only.
const CLOCK_AHEAD_S: u64 = 5;

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenProblem {
    /// It was good once; a new one is needed.
    Expired,
    /// It never was good; the reason, for people, has nothing of the token in it but claim names.
    Bad(Cow<'static, str>),
}

impl TokenProblem {
    fn bad(why: &'static str) -> TokenProblem {
        TokenProblem::Bad(Cow::Borrowed(why))
    }
}

impl std::fmt::Display for TokenProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TokenProblem::Expired => f.write_str("the token has run out; ask for a new one"),
            TokenProblem::Bad(why) => f.write_str(why),
        }
    }
}

/// Checks tokens. Shared by all threads.
#[derive(Debug)]
pub struct Verifier {
    secret: Option<DecodingKey>,
    public: PublicKeys,
}

#[derive(Debug)]
enum PublicKeys {
    None,
    One(PublicKey),
    Published(Arc<PublishedKeys>),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: Option<f64>,
    nbf: Option<f64>,
    rooms: Option<Vec<String>>,
    info: Option<Box<RawValue>>,
    #[serde(rename = "pub")]
    publish: Option<bool>,
}

impl Verifier {
    /// Reads the keys. The error names the key of the configuration.
    pub fn new(settings: &AuthSettings) -> Result<Verifier, String> {
        let secret =
            settings.secret.is_set().then(|| DecodingKey::from_secret(settings.secret.expose().as_bytes()));
        let public = match (settings.public_key.as_str(), settings.jwks_url.as_str()) {
            ("", "") => PublicKeys::None,
            ("", url) => PublicKeys::Published(Arc::new(PublishedKeys::new(url))),
            (key, _) => PublicKeys::One(read_public_key(key)?),
        };
        Ok(Verifier { secret, public })
    }

    /// Whether any token can be accepted.
    pub fn has_keys(&self) -> bool {
        self.secret.is_some() || !matches!(self.public, PublicKeys::None)
    }

    /// The issuer's published keys, when there are such. [`PublishedKeys::keep_fresh`] has to run.
    pub fn published(&self) -> Option<Arc<PublishedKeys>> {
        match &self.public {
            PublicKeys::Published(keys) => Some(Arc::clone(keys)),
            _ => None,
        }
    }

    /// Who the token says somebody is, at this time in Unix seconds.
    pub fn verify(&self, token: &str, now_unix: u64) -> Result<Identity, TokenProblem> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenProblem::bad("the token is too long; put less into it"));
        }
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| TokenProblem::bad("this is no token of HS256, RS256 or ES256; ask for one"))?;
        if header.crit.is_some() {
            return Err(TokenProblem::bad(
                "the token asks for an extension (crit) that this server does not know",
            ));
        }
        let key = self.key_for(&header)?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &signature_only(header.alg));
        let claims = claims.map_err(|error| explain(&error))?.claims;
        identity_of(claims, now_unix)
    }

    /// The one key that the token may be signed with. Each kind of key has its own place, so a public key
    /// is never taken for a secret.
    fn key_for(&self, header: &Header) -> Result<Cow<'_, DecodingKey>, TokenProblem> {
        if header.alg == Algorithm::HS256 {
            let unknown = TokenProblem::bad(
                "this server has no secret for HS256 tokens; its operator sets auth.secret",
            );
            return self.secret.as_ref().map(Cow::Borrowed).ok_or(unknown);
        }
        if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256) {
            return Err(TokenProblem::bad(
                "only HS256, RS256 and ES256 are accepted; sign the token with one of them",
            ));
        }
        match &self.public {
            PublicKeys::None => {
                Err(TokenProblem::bad("this server has no public key; its operator sets auth.public_key"))
            }
            PublicKeys::One(one) if one.algorithm == header.alg => Ok(Cow::Borrowed(&one.key)),
            PublicKeys::One(_) => {
                Err(TokenProblem::bad("the token is signed for another kind of key than this server has"))
            }
            PublicKeys::Published(keys) => match keys.find(header.kid.as_deref(), header.alg) {
                Ok(found) => Ok(Cow::Owned(found.key)),
                Err(NotFound::NoKeysYet) => {
                    Err(TokenProblem::bad("the issuer's keys are not here yet; try again in a moment"))
                }
                Err(NotFound::Unknown) => Err(TokenProblem::bad(
                    "the issuer does not publish the token's key (kid); try again in a minute",
                )),
            },
        }
    }
}

/// Claims are checked below with our own clock; here it is about the signature alone.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn explain(error: &jsonwebtoken::errors::Error) -> TokenProblem {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => {
            TokenProblem::bad("the token's signature is wrong; sign it with this server's key")
        }
        // The category is enough: the text of the error may quote the token.
        ErrorKind::Json(json) if json.is_data() => TokenProblem::bad(
            "a claim is missing or of a wrong type: sub is a string, exp a number, rooms a list of strings, pub true or false",
        ),
        _ => TokenProblem::bad("the token is damaged; ask for a new one"),
    }
}

fn identity_of(claims: Claims, now_unix: u64) -> Result<Identity, TokenProblem> {
    let expires_at = claims.exp.map(unix_seconds);
    if expires_at.is_some_and(|end| end <= now_unix) {
        return Err(TokenProblem::Expired);
    }
    if claims.nbf.map(unix_seconds).is_some_and(|start| start > now_unix + CLOCK_AHEAD_S) {
        return Err(TokenProblem::bad("the token is not valid yet (nbf); wait, or set the issuer's clock"));
    }
    let user =
        UserName::new(&claims.sub).map_err(|bad| TokenProblem::Bad(format!("claim sub: {bad}").into()))?;
    let rooms = claims.rooms.map(|list| list.iter().map(|text| pattern(text)).collect());
    Ok(Identity {
        user,
        info: claims.info.as_deref().map(info).transpose()?,
        rooms: rooms.transpose()?,
        granted: Vec::new(),
        publish: claims.publish.unwrap_or(true),
        expires_at,
    })
}

/// Times may have a fraction (RFC 7519, section 2); `as` saturates at both ends.
fn unix_seconds(time: f64) -> u64 {
    time as u64
}

fn pattern(text: &str) -> Result<Pattern, TokenProblem> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(TokenProblem::bad(
            "claim rooms: each name or pattern has 1 to 128 bytes and no control characters",
        ));
    }
    Ok(Pattern::new(text))
}

fn info(raw: &RawValue) -> Result<Arc<Data>, TokenProblem> {
    if raw.get().len() > INFO_BYTES_MAX {
        return Err(TokenProblem::bad("claim info: at most 4096 bytes; every member of a room is sent it"));
    }
    let data = Data::new(raw).map_err(|_| TokenProblem::bad("claim info: nested too deep"))?;
    Ok(Arc::new(data))
}

fn read_public_key(key: &str) -> Result<PublicKey, String> {
    if key.trim_start().starts_with("-----BEGIN") {
        return PublicKey::from_pem(key).map_err(|error| format!("auth.public_key: {error}"));
    }
    let pem = std::fs::read_to_string(key)
        .map_err(|error| format!("auth.public_key: cannot read {key}: {error}"))?;
    PublicKey::from_pem(&pem).map_err(|error| format!("auth.public_key ({key}): {error}"))
}

/// What a token made here says.
#[derive(Debug, Clone, Serialize)]
pub struct Grant<'a> {
    /// Who it is for.
    #[serde(rename = "sub")]
    pub user: &'a str,
    /// The rooms it lists; `None` lists none and so leaves all open rooms open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Vec<&'a str>>,
    /// When it runs out, Unix seconds; `None` for never.
    #[serde(rename = "exp", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

/// Signs a token with HS256.
pub fn issue(secret: &Secret, grant: &Grant<'_>) -> Result<String, String> {
    if !secret.is_set() {
        return Err("there is no auth.secret to sign with; set one of 32 random bytes, for example \
                    with ROOMCAST__AUTH__SECRET"
            .into());
    }
    UserName::new(grant.user).map_err(|bad| format!("user: {bad}"))?;
    for room in grant.rooms.iter().flatten() {
        pattern(room).map_err(|problem| problem.to_string())?;
    }
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), grant, &key).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::chat::names::RoomName;

    const NOW: u64 = 1_800_000_000;
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const RSA: &str = include_str!("../../tests/keys/rsa.pem");
    const RSA_PUBLIC: &str = include_str!("../../tests/keys/rsa.pub.pem");
    const P256: &str = include_str!("../../tests/keys/p256.pem");
    const P256_PUBLIC: &str = include_str!("../../tests/keys/p256.pub.pem");

    fn verifier(secret: &str, public_key: &str) -> Verifier {
        let public_key = public_key.to_owned();
        let settings = AuthSettings { secret: Secret::new(secret), public_key, ..AuthSettings::default() };
        Verifier::new(&settings).unwrap()
    }

    fn signed(algorithm: Algorithm, key: &EncodingKey, claims: &serde_json::Value) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), claims, key).unwrap()
    }

    fn hs256(claims: &serde_json::Value) -> String {
        signed(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
    }

    fn verify(claims: &serde_json::Value) -> Result<Identity, TokenProblem> {
        verifier(SECRET, "").verify(&hs256(claims), NOW)
    }

    #[track_caller]
    fn is_bad(result: Result<Identity, TokenProblem>, word: &str) {
        match result {
            Err(TokenProblem::Bad(why)) => assert!(why.contains(word), "{why:?} does not speak of {word:?}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_token_says_who_somebody_is() {
        let claims = json!({"sub": "ann", "exp": NOW + 60, "rooms": ["lobby", "team-*"], "info": {"name": "Ann", "n": 1.50}, "pub": false});
        let ann = verify(&claims).unwrap();
        assert_eq!((ann.user.as_str(), ann.publish, ann.expires_at), ("ann", false, Some(NOW + 60)));
        assert!(
            ann.lists(&RoomName::new("team-red").unwrap()) && !ann.lists(&RoomName::new("other").unwrap())
        );
        let info: serde_json::Value = serde_json::from_slice(ann.info.unwrap().as_bytes()).unwrap();
        assert_eq!(info, claims["info"]);
        let bare = verify(&json!({"sub": "bob", "info": null})).unwrap();
        assert!(bare.rooms.is_none() && bare.publish && bare.expires_at.is_none() && bare.info.is_none());
    }

    #[test]
    fn all_three_algorithms_work_each_with_its_own_key() {
        let claims = json!({"sub": "ann"});
        let rs256 = signed(Algorithm::RS256, &EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap(), &claims);
        let es256 = signed(Algorithm::ES256, &EncodingKey::from_ec_pem(P256.as_bytes()).unwrap(), &claims);
        assert_eq!(verifier("", RSA_PUBLIC).verify(&rs256, NOW).unwrap().user.as_str(), "ann");
        assert_eq!(verifier("", P256_PUBLIC).verify(&es256, NOW).unwrap().user.as_str(), "ann");
        let both = verifier(SECRET, RSA_PUBLIC);
        assert!(both.verify(&rs256, NOW).is_ok() && both.verify(&hs256(&claims), NOW).is_ok());
        is_bad(verifier("", P256_PUBLIC).verify(&rs256, NOW), "another kind of key");
        is_bad(verifier("", RSA_PUBLIC).verify(&es256, NOW), "another kind of key");
        is_bad(verifier(SECRET, "").verify(&rs256, NOW), "no public key");
        is_bad(verifier("", RSA_PUBLIC).verify(&hs256(&claims), NOW), "no secret");
    }

    #[test]
    fn a_token_cannot_choose_its_algorithm() {
        let claims = json!({"sub": "root"});
        // The public key is known to everybody; it must not work as a secret.
        let confused = signed(Algorithm::HS256, &EncodingKey::from_secret(RSA_PUBLIC.as_bytes()), &claims);
        is_bad(verifier("", RSA_PUBLIC).verify(&confused, NOW), "no secret");
        is_bad(verifier(SECRET, RSA_PUBLIC).verify(&confused, NOW), "signature");
        let secret = EncodingKey::from_secret(SECRET.as_bytes());
        for other in [Algorithm::HS384, Algorithm::HS512] {
            is_bad(verifier(SECRET, "").verify(&signed(other, &secret, &claims), NOW), "only HS256");
        }
        let rsa = EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap();
        for other in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
            is_bad(verifier("", RSA_PUBLIC).verify(&signed(other, &rsa, &claims), NOW), "only HS256");
        }
    }

    #[test]
    fn a_token_without_a_signature_is_no_token() {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let claims = part(r#"{"sub":"root"}"#);
        let good = hs256(&json!({"sub": "root"}));
        let signature = good.rsplit('.').next().unwrap();
        for alg in ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256"] {
            for signature in ["", signature] {
                let token = format!("{}.{claims}.{signature}", part(&format!(r#"{{"alg":"{alg}"}}"#)));
                is_bad(verifier(SECRET, RSA_PUBLIC).verify(&token, NOW), "");
            }
        }
        let unsigned = format!("{}.{claims}.", part(r#"{"alg":"HS256"}"#));
        is_bad(verifier(SECRET, "").verify(&unsigned, NOW), "signature");
        is_bad(verifier("", "").verify(&good, NOW), "no secret");
        let long = format!("{}.{}.x", part(r#"{"alg":"HS256"}"#), "a".repeat(TOKEN_BYTES_MAX));
        is_bad(verifier(SECRET, "").verify(&long, NOW), "too long");
    }

    #[test]
    fn an_extension_that_must_be_understood_is_not_ignored() {
        let mut header = Header::new(Algorithm::HS256);
        header.crit = Some(vec!["b64".into()]);
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&header, &json!({"sub": "ann"}), &key).unwrap();
        is_bad(verifier(SECRET, "").verify(&token, NOW), "crit");
    }

    #[test]
    fn time_is_kept_to_the_second() {
        let at = |claims: serde_json::Value| verify(&claims);
        assert!(at(json!({"sub": "ann", "exp": NOW + 1})).is_ok());
        assert_eq!(at(json!({"sub": "ann", "exp": NOW})).unwrap_err(), TokenProblem::Expired);
        assert_eq!(at(json!({"sub": "ann", "exp": 0})).unwrap_err(), TokenProblem::Expired);
        assert_eq!(at(json!({"sub": "ann", "exp": -5})).unwrap_err(), TokenProblem::Expired);
        assert_eq!(at(json!({"sub": "ann", "exp": NOW as f64 + 1.5})).unwrap().expires_at, Some(NOW + 1));
        assert_eq!(at(json!({"sub": "ann", "exp": 1e300})).unwrap().expires_at, Some(u64::MAX));
        assert!(at(json!({"sub": "ann", "nbf": NOW + CLOCK_AHEAD_S})).is_ok());
        is_bad(at(json!({"sub": "ann", "nbf": NOW + CLOCK_AHEAD_S + 1})), "nbf");
    }

    #[test]
    fn a_claim_of_a_wrong_type_is_not_guessed_at() {
        for claims in [
            json!({}),
            json!({"sub": 7}),
            json!({"sub": null}),
            json!({"sub": "ann", "exp": (NOW + 60).to_string()}),
            json!({"sub": "ann", "nbf": [NOW]}),
            json!({"sub": "ann", "rooms": "lobby"}),
            json!({"sub": "ann", "rooms": ["lobby", 7]}),
            json!({"sub": "ann", "rooms": {"lobby": true}}),
            json!({"sub": "ann", "pub": "no"}),
            json!([]),
        ] {
            is_bad(verify(&claims), "");
        }
        is_bad(verify(&json!({"sub": ""})), "claim sub");
        is_bad(verify(&json!({"sub": "a\nb"})), "claim sub");
        is_bad(verify(&json!({"sub": "ann", "rooms": [""]})), "claim rooms");
        is_bad(verify(&json!({"sub": "ann", "rooms": ["x".repeat(129)]})), "claim rooms");
        is_bad(verify(&json!({"sub": "ann", "info": "x".repeat(INFO_BYTES_MAX)})), "claim info");
        assert!(verify(&json!({"sub": "ann", "info": "x".repeat(INFO_BYTES_MAX - 2)})).is_ok());
        let twice = format!("{}{}", r#"{"sub":"ann","sub":"root"}"#, "");
        let body =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(twice));
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature = jsonwebtoken::crypto::sign(body.as_bytes(), &key, Algorithm::HS256).unwrap();
        is_bad(verifier(SECRET, "").verify(&format!("{body}.{signature}"), NOW), "");
    }

    #[test]
    fn a_key_that_cannot_check_is_refused_at_start() {
        let error_of = |public_key: &str| {
            let settings = AuthSettings { public_key: public_key.into(), ..AuthSettings::default() };
            Verifier::new(&settings).unwrap_err()
        };
        assert!(error_of(RSA).contains("private key"));
        assert!(error_of(P256).contains("private key"));
        assert!(error_of(include_str!("../../tests/keys/p384.pub.pem")).contains("P-256"));
        assert!(error_of(include_str!("../../tests/keys/rsa1024.pub.pem")).contains("2048"));
        assert!(
            error_of("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----")
                .contains("auth.public_key")
        );
        assert!(error_of("no/such/key.pem").contains("cannot read no/such/key.pem"));
    }

    #[test]
    fn what_is_issued_is_accepted() {
        let secret = Secret::new(SECRET);
        let grant = Grant { user: "ann", rooms: Some(vec!["lobby", "team-*"]), expires_at: Some(NOW + 60) };
        let ann = verifier(SECRET, "").verify(&issue(&secret, &grant).unwrap(), NOW).unwrap();
        assert_eq!((ann.user.as_str(), ann.rooms.unwrap().len(), ann.expires_at), ("ann", 2, Some(NOW + 60)));
        assert!(issue(&Secret::default(), &grant).unwrap_err().contains("auth.secret"));
        assert!(issue(&secret, &Grant { user: "", ..grant.clone() }).unwrap_err().contains("user"));
        assert!(issue(&secret, &Grant { rooms: Some(vec![""]), ..grant }).unwrap_err().contains("rooms"));
    }

    proptest! {
        #[test]
        fn no_changed_token_is_accepted(place in 0usize..200, byte in "[A-Za-z0-9_.-]") {
            let good = hs256(&json!({"sub": "ann", "exp": NOW + 60}));
            let mut changed = good.clone();
            let place = place % good.len();
            changed.replace_range(place..=place, &byte);
            prop_assume!(changed != good);
            prop_assert!(verifier(SECRET, "").verify(&changed, NOW).is_err());
        }

        #[test]
        fn nothing_made_up_is_accepted(text in "\\PC{0,80}", parts in proptest::collection::vec("[A-Za-z0-9_-]{0,20}", 0..6)) {
            let verifier = verifier(SECRET, RSA_PUBLIC);
            prop_assert!(verifier.verify(&text, NOW).is_err());
            prop_assert!(verifier.verify(&parts.join("."), NOW).is_err());
        }
    }
}
