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
