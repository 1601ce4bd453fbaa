//! Who asks AWS: the keys of the environment, of a container (ECS, EKS Pod Identity), or of a machine (EC2), in
//! this order, as the tools of AWS look for them. Keys that run out are fetched again before. Called by
//! requests to AWS alone; keys are never shown.

use std::time::Duration;

use awc::Client;
use serde::Deserialize;

use crate::clouds::environment::Environment;
use crate::clouds::error::CloudError;

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
    pub expires: Option<jiff::Timestamp>,
}

/// As containers and machines are told them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
}

/// The keys that are in use.
pub struct Keyring {
    keys: Option<Keys>,
    variable: Environment,
}

impl Keyring {
    /// Whose keys are found through these variables of the environment.
    pub fn new(variable: Environment) -> Keyring {
        Keyring { keys: None, variable }
    }

    /// Fetches them again at the next request.
    pub fn forget(&mut self) {
        self.keys = None;
    }

    /// The keys to sign with now.
    pub async fn get(&mut self, client: &Client) -> Result<Keys, CloudError> {
        if let Some(keys) = self.keys.as_ref().filter(|keys| keys.last()) {
            return Ok(keys.clone());
        }
        let keys = self.find(client).await?;
        Ok(self.keys.insert(keys).clone())
    }

    async fn find(&self, client: &Client) -> Result<Keys, CloudError> {
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

    fn authorization(&self) -> Result<Option<String>, CloudError> {
        let variable = self.variable;
        let Some(file) = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") else {
            return Ok(variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"));
        };
        let token = std::fs::read_to_string(&file);
        let token = token.map_err(|error| CloudError::away(format!("cannot read {file}: {error}")))?;
        Ok(Some(token.trim().to_owned()))
    }

    async fn of_machine(&self, client: &Client) -> Result<Keys, CloudError> {
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

fn nobody() -> CloudError {
    CloudError::away(
        "no keys for AWS: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the container or machine a role",
    )
}

fn keys_of(text: &str) -> Result<Keys, CloudError> {
    // The text has secrets in it, so an error must not quote it.
    let told: Told = serde_json::from_str(text)
        .map_err(|_| CloudError::away("the keys of this machine's role cannot be read"))?;
    let expires = told.expiration.map(|text| text.parse::<jiff::Timestamp>()).transpose();
    let expires =
        expires.map_err(|_| CloudError::away("the end of the keys of this machine's role cannot be read"))?;
    Ok(Keys {
        access_key: told.access_key_id,
        secret_key: told.secret_access_key,
        token: told.token,
        expires,
    })
}

async fn ask(mut request: awc::ClientRequest, headers: &[(&str, &str)]) -> Result<String, CloudError> {
    for (name, value) in headers {
        request = request.insert_header((*name, *value));
    }
    let url = request.get_uri().to_string();
    let failed = |why: &dyn std::fmt::Display| CloudError::away(format!("keys from {url}: {why}"));
    let mut response = request.timeout(ANSWER_MAX).send().await.map_err(|error| failed(&error))?;
    if !response.status().is_success() {
        return Err(failed(&response.status()));
    }
    let body = response.body().await.map_err(|error| failed(&error))?;
    String::from_utf8(body.to_vec()).map_err(|_| failed(&"no UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;
    use crate::http_client;

    const TOLD: &str = r#"{"Code":"Success","AccessKeyId":"AKIA1","SecretAccessKey":"s3cret","Token":"t","Expiration":"2999-01-01T00:00:00Z"}"#;

    /// Answers requests with these texts, one each; what was asked, without the end of lines.
    fn serve(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                let (stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while lines.read_line(&mut head).unwrap() > 2 {}
                asked.push(head.to_lowercase());
                let length = answer.len();
                let text = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}"
                );
                (&stream).write_all(text.as_bytes()).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                // Until the client has gone.
                lines.read_to_end(&mut Vec::new()).ok();
            }
            asked
        });
        (format!("http://{address}"), served)
    }

    thread_local! {
        static VARIABLES: std::cell::RefCell<Vec<(&'static str, String)>> = std::cell::RefCell::default();
    }

    /// A ring whose environment has these variables only.
    fn keyring(variables: Vec<(&'static str, String)>) -> Keyring {
        VARIABLES.set(variables);
        let variable = |name: &str| {
            VARIABLES.with_borrow(|all| {
                all.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
            })
        };
        Keyring::new(variable)
    }

    #[actix_rt::test]
    async fn a_machine_tells_its_keys_to_who_has_a_token() {
        let answers = ["the-token", "role-1\n", TOLD].map(str::to_owned).to_vec();
        let (address, served) = serve(answers);
        let mut keyring = keyring(vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)]);
        let client = http_client::client(ANSWER_MAX);
        let keys = keyring.get(&client).await.unwrap();
        assert_eq!((keys.access_key.as_str(), keys.token.as_deref()), ("AKIA1", Some("t")));
        // They last, so nobody is asked again.
        assert_eq!(keyring.get(&client).await.unwrap().secret_key, "s3cret");
        let asked = served.join().unwrap();
        assert!(asked[0].starts_with("put /latest/api/token "), "{}", asked[0]);
        assert!(
            asked[2].starts_with("get /latest/meta-data/iam/security-credentials/role-1 "),
            "{}",
            asked[2]
        );
        assert!(asked[2].contains("x-aws-ec2-metadata-token: the-token"), "{}", asked[2]);
    }

    #[actix_rt::test]
    async fn a_container_tells_its_keys_and_those_that_end_soon_are_fetched_again() {
        let ends = TOLD.replace("2999", "2020");
        let (address, served) = serve(vec![ends, TOLD.to_owned()]);
        let url = format!("{address}/v1/keys");
        let variables = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "abc".into()),
        ];
        let mut keyring = keyring(variables.to_vec());
        let client = http_client::client(ANSWER_MAX);
        assert!(!keyring.get(&client).await.unwrap().last());
        assert!(keyring.get(&client).await.unwrap().last());
        let asked = served.join().unwrap();
        assert!(asked.iter().all(|head| head.contains("authorization: abc")), "{asked:?}");
    }

    #[actix_rt::test]
    async fn without_keys_it_says_which_variables_to_set() {
        let mut keyring = keyring(vec![("AWS_EC2_METADATA_DISABLED", "true".into())]);
        let error = keyring.get(&http_client::client(ANSWER_MAX)).await.err().unwrap();
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
    }

    #[test]
    fn keys_that_cannot_be_read_are_not_quoted() {
        let error = keys_of(r#"{"SecretAccessKey":"s3cret"}"#).err().unwrap();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
