//! Who asks Google: the service account whose key file `GOOGLE_APPLICATION_CREDENTIALS` names, or else the one that
//! this machine or pod stands for (Compute Engine, Cloud Run, GKE with workload identity), as Google's own libraries
//! look for them. Both give a token for about an hour; it is fetched again before it ends. Called by the requests to
//! Pub/Sub alone; neither keys nor tokens are ever shown.
//! <https://google.aip.dev/auth/4110>

use std::time::Duration;

use awc::{Client, ClientRequest};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use crate::clouds::environment::Environment;
use crate::clouds::error::CloudError;

/// What the token is good for.
const SCOPE: &str = "https://www.googleapis.com/auth/pubsub";
/// By which a signed text is exchanged for a token. <https://www.rfc-editor.org/rfc/rfc7523#section-2.1>
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Where a machine finds what it may know of itself.
const MACHINE: &str = "169.254.169.254";
/// How long the signed text is good.
const SIGNED_SECONDS: i64 = 3600;
/// How long before its end a token is fetched again; a machine gives a new one from then on.
const EARLY: Duration = Duration::from_secs(225);
/// Longest that an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The token that is in use.
pub struct Tokens {
    variable: Environment,
    token: Option<Token>,
}

struct Token {
    value: String,
    /// Unix seconds.
    ends: i64,
}

/// A key file, as the console of Google Cloud gives it out.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    client_email: String,
    #[serde(default)]
    private_key: String,
    #[serde(default)]
    private_key_id: String,
    #[serde(default)]
    token_uri: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'static str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

/// The answer of both places.
#[derive(Deserialize)]
struct Told {
    access_token: String,
    expires_in: i64,
}

impl Tokens {
    /// Of whom these variables of the environment tell.
    pub fn new(variable: Environment) -> Tokens {
        Tokens { variable, token: None }
    }

    /// Fetches it again at the next request.
    pub fn forget(&mut self) {
        self.token = None;
    }

    /// The token to ask with now.
    pub async fn get(&mut self, client: &Client) -> Result<String, CloudError> {
        let now = jiff::Timestamp::now().as_second();
        let old = self.token.take();
        if let Some(token) = old.as_ref().filter(|token| token.ends > now + EARLY.as_secs() as i64) {
            let value = token.value.clone();
            self.token = old;
            return Ok(value);
        }
        match (self.fetch(client, now).await, old) {
            (Ok(token), _) => Ok(self.token.insert(token).value.clone()),
            // Whoever gives them out may be away for a moment.
            (Err(error), Some(old)) if old.ends > now => {
                log::warn!("a new token of Google cannot be had, the old one lasts a while yet: {error}");
                Ok(self.token.insert(old).value.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn fetch(&self, client: &Client, now: i64) -> Result<Token, CloudError> {
        let told = match (self.variable)("GOOGLE_APPLICATION_CREDENTIALS") {
            Some(path) => of_key_file(client, &path, now).await?,
            None => self.of_machine(client).await?,
        };
        Ok(Token { value: told.access_token, ends: now + told.expires_in })
    }

    async fn of_machine(&self, client: &Client) -> Result<Told, CloudError> {
        let host = (self.variable)("GCE_METADATA_HOST").unwrap_or_else(|| MACHINE.into());
        let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
        let request = client.get(url).insert_header(("Metadata-Flavor", "Google"));
        told(request, String::new()).await.map_err(|error| {
            let text = "no token of Google: name a key file in GOOGLE_APPLICATION_CREDENTIALS, or give the machine \
                        or pod a service account";
            CloudError::Away(format!("{text}: {error}"))
        })
    }
}

async fn of_key_file(client: &Client, path: &str, now: i64) -> Result<Told, CloudError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CloudError::Away(format!("cannot read the key file {path}: {error}")))?;
    let signed = signed(&text, now).map_err(|why| CloudError::Away(format!("the key file {path} {why}")))?;
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", GRANT).append_pair("assertion", &signed.assertion);
    let request =
        client.post(&signed.token_uri).insert_header(("Content-Type", "application/x-www-form-urlencoded"));
    let whose = format!("a token for {}", signed.client_email);
    told(request, form.finish()).await.map_err(|error| error.during(&whose))
}

struct Signed {
    client_email: String,
    token_uri: String,
    assertion: String,
}

/// The file has a secret in it, so an error must not quote it.
fn signed(file: &str, now: i64) -> Result<Signed, String> {
    let key: KeyFile = serde_json::from_str(file).map_err(|_| "is no key file of Google")?;
    if key.kind != "service_account" {
        return Err(format!("is of the type {:?}; use that of a service_account", key.kind));
    }
    let claims = Claims {
        iss: &key.client_email,
        scope: SCOPE,
        aud: &key.token_uri,
        iat: now,
        exp: now + SIGNED_SECONDS,
    };
    let secret =
        EncodingKey::from_rsa_pem(key.private_key.as_bytes()).map_err(|_| "has no RSA key in private_key")?;
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(key.private_key_id);
    let assertion =
        jsonwebtoken::encode(&header, &claims, &secret).map_err(|_| "has a key that cannot sign")?;
    Ok(Signed { client_email: key.client_email, token_uri: key.token_uri, assertion })
}

async fn told(request: ClientRequest, body: String) -> Result<Told, CloudError> {
    let url = request.get_uri().to_string();
    let failed = |why: &dyn std::fmt::Display| CloudError::Away(format!("{url}: {why}"));
    let mut response = request.timeout(ANSWER_MAX).send_body(body).await.map_err(|error| failed(&error))?;
    let answer = response.body().await.map_err(|error| failed(&error))?;
    if !response.status().is_success() {
        return Err(failed(&format!("{}{}", response.status(), explanation(&answer))));
    }
    // It has a secret in it, so an error must not quote it.
    serde_json::from_slice(&answer).map_err(|_| failed(&"its answer is no token"))
}

/// The two words that a refusal may have. <https://www.rfc-editor.org/rfc/rfc6749#section-5.2>
fn explanation(answer: &[u8]) -> String {
    let said: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    let words = ["error", "error_description"].map(|name| said[name].as_str());
    words.into_iter().flatten().map(|word| format!(", {word}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;
    use crate::http_client;

    const KEY: &str = include_str!("../../../tests/keys/rsa.pem");
    const PUBLIC: &[u8] = include_bytes!("../../../tests/keys/rsa.pub.pem");

    /// What a place that gives out tokens was asked, and what it says next.
    #[derive(Clone, Default)]
    struct Place {
        asked: Arc<Mutex<Vec<String>>>,
        answers: Arc<Mutex<Vec<(u16, String)>>>,
    }

    impl Place {
        /// Its host and port.
        fn serve(&self) -> String {
            let place = self.clone();
            let server = HttpServer::new(move || {
                let place = place.clone();
                let answer = move |request: HttpRequest, body: String| {
                    let flavor = request.headers().get("Metadata-Flavor").is_some();
                    place.asked.lock().unwrap().push(format!("{} {flavor} {body}", request.path()));
                    let (status, text) = place.answers.lock().unwrap().remove(0);
                    let status = actix_web::http::StatusCode::from_u16(status).unwrap();
                    async move { HttpResponse::build(status).body(text) }
                };
                App::new().default_service(web::to(answer))
            });
            let server = server.workers(1).bind("127.0.0.1:0").unwrap();
            let address = server.addrs()[0].to_string();
            actix_rt::spawn(server.run());
            address
        }

        fn says(&self, status: u16, text: &str) {
            self.answers.lock().unwrap().push((status, text.into()));
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().clone()
        }
    }

    thread_local! {
        static VARIABLES: std::cell::RefCell<Vec<(&'static str, String)>> = std::cell::RefCell::default();
    }

    /// Tokens of an environment that has this variable only.
    fn tokens(name: &'static str, value: String) -> Tokens {
        VARIABLES.set(vec![(name, value)]);
        Tokens::new(|name| {
            VARIABLES.with_borrow(|all| {
                all.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
            })
        })
    }

    fn told(token: &str, seconds: i64) -> String {
        format!(r#"{{"access_token":"{token}","expires_in":{seconds},"token_type":"Bearer"}}"#)
    }

    #[actix_rt::test]
    async fn a_machine_tells_its_token_and_is_asked_again_before_it_ends() {
        let place = Place::default();
        place.says(200, &told("one", 200));
        place.says(200, &told("two", 3600));
        let mut tokens = tokens("GCE_METADATA_HOST", place.serve());
        let client = http_client::client(ANSWER_MAX);
        for wanted in ["one", "two", "two"] {
            assert_eq!(tokens.get(&client).await.unwrap(), wanted);
        }
        let path = "/computeMetadata/v1/instance/service-accounts/default/token true ";
        assert_eq!(place.asked(), [path, path]);
    }

    #[actix_rt::test]
    async fn an_old_token_is_used_while_a_new_one_cannot_be_had() {
        let place = Place::default();
        place.says(200, &told("one", 200));
        place.says(503, "");
        place.says(503, "");
        let mut tokens = tokens("GCE_METADATA_HOST", place.serve());
        let client = http_client::client(ANSWER_MAX);
        assert_eq!(tokens.get(&client).await.unwrap(), "one");
        assert_eq!(tokens.get(&client).await.unwrap(), "one");
        tokens.forget();
        let error = tokens.get(&client).await.unwrap_err().to_string();
        assert!(error.contains("GOOGLE_APPLICATION_CREDENTIALS") && error.contains("503"), "{error}");
    }

    /// A key file of the test's own key.
    fn key_file(token_uri: &str, private_key: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let key = serde_json::json!({
            "type": "service_account", "client_email": "node@p.iam.gserviceaccount.com", "private_key_id": "k1",
            "private_key": private_key, "token_uri": token_uri,
        });
        std::fs::write(file.path(), key.to_string()).unwrap();
        file
    }

    #[actix_rt::test]
    async fn a_key_file_signs_for_a_token() {
        let place = Place::default();
        place.says(200, &told("one", 3600));
        let uri = format!("http://{}/token", place.serve());
        let file = key_file(&uri, KEY);
        let mut tokens = tokens("GOOGLE_APPLICATION_CREDENTIALS", file.path().display().to_string());
        let client = http_client::client(ANSWER_MAX);
        assert_eq!(tokens.get(&client).await.unwrap(), "one");
        let asked = place.asked().remove(0);
        let form = asked.strip_prefix("/token false ").unwrap();
        let pairs: Vec<(String, String)> = form_urlencoded::parse(form.as_bytes()).into_owned().collect();
        assert_eq!(pairs[0], ("grant_type".into(), GRANT.into()));
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&[&uri]);
        let key = DecodingKey::from_rsa_pem(PUBLIC).unwrap();
        let signed = jsonwebtoken::decode::<serde_json::Value>(&pairs[1].1, &key, &validation).unwrap();
        assert_eq!(signed.header.kid.as_deref(), Some("k1"));
        assert_eq!(signed.claims["iss"], "node@p.iam.gserviceaccount.com");
        assert_eq!(signed.claims["scope"], SCOPE);
        let lasts = signed.claims["exp"].as_i64().unwrap() - signed.claims["iat"].as_i64().unwrap();
        assert_eq!(lasts, SIGNED_SECONDS);
    }

    #[actix_rt::test]
    async fn a_refusal_is_told_without_any_secret() {
        let place = Place::default();
        place.says(400, r#"{"error":"invalid_grant","error_description":"account not found"}"#);
        place.says(200, r#"{"access_token":"s3cret"}"#);
        let file = key_file(&format!("http://{}/token", place.serve()), KEY);
        let mut tokens = tokens("GOOGLE_APPLICATION_CREDENTIALS", file.path().display().to_string());
        let client = http_client::client(ANSWER_MAX);
        let error = tokens.get(&client).await.unwrap_err().to_string();
        assert!(error.contains("invalid_grant, account not found"), "{error}");
        assert!(error.contains("node@p.iam.gserviceaccount.com"), "{error}");
        let error = tokens.get(&client).await.unwrap_err().to_string();
        assert!(error.ends_with("its answer is no token") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn a_key_file_that_is_of_no_use_says_why() {
        let of = |kind: &str, key: &str| {
            serde_json::json!({"type": kind, "private_key": key, "client_email": "n", "token_uri": "u"})
                .to_string()
        };
        for (file, why) in [
            ("s3cret".to_owned(), "is no key file"),
            (of("authorized_user", "s3cret"), "use that of a service_account"),
            (of("service_account", "s3cret"), "has no RSA key"),
        ] {
            let error = signed(&file, 0).err().unwrap();
            assert!(error.contains(why) && !error.contains("s3cret"), "{error}");
        }
    }
}
