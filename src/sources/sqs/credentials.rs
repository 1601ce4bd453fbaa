//! Who asks AWS: the keys of the environment, of a container (ECS, EKS Pod Identity), or of a machine (EC2), in
//! this order, as the tools of AWS look for them. Keys that run out are fetched again before. Called by the SQS
//! source alone; keys are never shown.

use std::time::Duration;

use awc::Client;
use serde::Deserialize;

use crate::sources::source::SourceError;

/// Where a machine on EC2 finds what it may know of itself.
const MACHINE: &str = "http://169.254.169.254";
/// Where a container on ECS does.
const CONTAINER: &str = "http://169.254.170.2";
/// How long before their end keys are fetched again.
const EARLY: Duration = Duration::from_secs(300);
/// Longest that an answer may take: these services are on the same machine.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What requests are signed with.
#[derive(Clone)]
pub struct Keys {
    /// Names the key; part of every request.
    pub access_key: String,
    /// Never leaves this process.
    pub secret_key: String,
    /// Goes with keys that run out.
    pub token: Option<String>,
    /// When they run out.
    expires: Option<jiff::Timestamp>,
}

/// As containers and machines are told them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<jiff::Timestamp>,
}

/// The keys that are in use.
pub struct Keyring {
    keys: Option<Keys>,
    variable: fn(&str) -> Option<String>,
}

impl Default for Keyring {
    fn default() -> Keyring {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Keyring { keys: None, variable }
    }
}

impl Keyring {
    /// Fetches them again at the next request.
    pub fn forget(&mut self) {
        self.keys = None;
    }

    /// The keys to sign with now.
    pub async fn get(&mut self, client: &Client) -> Result<Keys, SourceError> {
        if let Some(keys) = self.keys.as_ref().filter(|keys| keys.last()) {
            return Ok(keys.clone());
        }
        let keys = self.find(client).await?;
        Ok(self.keys.insert(keys).clone())
    }

    async fn find(&self, client: &Client) -> Result<Keys, SourceError> {
        let variable = self.variable;
        if let (Some(access_key), Some(secret_key)) =
            (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"))
        {
            let token = variable("AWS_SESSION_TOKEN");
            return Ok(Keys { access_key, secret_key, token, expires: None });
        }
        let relative = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        let of_container = relative.map(|path| format!("{CONTAINER}{path}"));
        if let Some(url) = of_container.or_else(|| variable("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
            let authorization = self.authorization()?;
            let headers =
                authorization.iter().map(|token| ("Authorization", token.as_str())).collect::<Vec<_>>();
            return keys_of(&ask(client.get(&url), &headers).await?);
        }
        if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Err(nobody());
        }
        self.of_machine(client).await
    }

    fn authorization(&self) -> Result<Option<String>, SourceError> {
        let variable = self.variable;
        let Some(file) = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") else {
            return Ok(variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"));
        };
        let token = std::fs::read_to_string(&file);
        let token = token.map_err(|error| SourceError::new(format!("cannot read {file}: {error}")))?;
        Ok(Some(token.trim().to_owned()))
    }

    async fn of_machine(&self, client: &Client) -> Result<Keys, SourceError> {
        let base = (self.variable)("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| MACHINE.into());
        let base = base.trim_end_matches('/');
        let put = client.put(format!("{base}/latest/api/token"));
        let token =
            ask(put, &[("X-aws-ec2-metadata-token-ttl-seconds", "300")]).await.map_err(|_| nobody())?;
        let headers = [("X-aws-ec2-metadata-token", token.trim())];
        let roles = format!("{base}/latest/meta-data/iam/security-credentials/");
        let role = ask(client.get(&roles), &headers).await?;
        let role = role.lines().next().unwrap_or_default();
        keys_of(&ask(client.get(format!("{roles}{role}")), &headers).await?)
    }
}

impl Keys {
    fn last(&self) -> bool {
        let soon = jiff::Timestamp::now().as_second() + EARLY.as_secs() as i64;
        self.expires.is_none_or(|expires| expires.as_second() > soon)
    }
}

fn nobody() -> SourceError {
    SourceError::new(
        "no keys for AWS: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the container or machine a role",
    )
}

fn keys_of(text: &str) -> Result<Keys, SourceError> {
    // The text has secrets in it, so an error must not quote it.
    let told: Told = serde_json::from_str(text)
        .map_err(|_| SourceError::new("the keys of this machine's role cannot be read"))?;
    Ok(Keys {
        access_key: told.access_key_id,
        secret_key: told.secret_access_key,
        token: told.token,
        expires: told.expiration,
    })
}

async fn ask(mut request: awc::ClientRequest, headers: &[(&str, &str)]) -> Result<String, SourceError> {
    for (name, value) in headers {
        request = request.insert_header((*name, *value));
    }
    let url = request.get_uri().to_string();
    let failed = |why: &dyn std::fmt::Display| SourceError::new(format!("keys from {url}: {why}"));
    let mut response = request.timeout(ANSWER_MAX).send().await.map_err(|error| failed(&error))?;
    if !response.status().is_success() {
        return Err(failed(&response.status()));
    }
    let body = response.body().await.map_err(|error| failed(&error))?;
    String::from_utf8(body.to_vec()).map_err(|_| failed(&"no UTF-8"))
}
