//! The signature of requests to AWS, version 4, for requests without a query and with their body in hand. Called by
//! requests to AWS alone.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::clouds::aws::credentials::Keys;

const SERVICE: &str = "sqs";
const CONTENT_TYPE: &str = "application/x-amz-json-1.0";

/// The moment of a request, as signatures want it.
pub struct Stamp {
    /// `20130524T000000Z`
    time: String,
}

impl Stamp {
    /// Now.
    pub fn now() -> Stamp {
        Stamp { time: jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string() }
    }

    fn date(&self) -> &str {
        &self.time[..8]
    }
}

/// What goes into a signature beside time and body.
pub struct Signer<'a> {
    /// Who asks.
    pub keys: &'a Keys,
    /// Of the service.
    pub region: &'a str,
    /// With the port, where the address has one.
    pub host: &'a str,
    /// `AmazonSQS.ReceiveMessage`
    pub target: &'a str,
}

impl Signer<'_> {
    /// The headers of a request with this body, the signature among them. `host` is sent by the client itself.
    pub fn headers(&self, stamp: &Stamp, body: &[u8]) -> Vec<(&'static str, String)> {
        // In the order of their names, as the signature wants them.
        let mut headers = vec![("content-type", CONTENT_TYPE.to_owned()), ("host", self.host.to_owned())];
        headers.push(("x-amz-date", stamp.time.clone()));
        if let Some(token) = &self.keys.token {
            headers.push(("x-amz-security-token", token.clone()));
        }
        headers.push(("x-amz-target", self.target.to_owned()));
        let signature = self.authorization(stamp, &headers, body);
        headers.retain(|(name, _)| *name != "host");
        headers.push(("authorization", signature));
        headers
    }

    fn authorization(&self, stamp: &Stamp, headers: &[(&str, String)], body: &[u8]) -> String {
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let request = format!("POST\n/\n\n{lines}\n{names}\n{}", hex(&Sha256::digest(body)));
        let scope = format!("{}/{}/{SERVICE}/aws4_request", stamp.date(), self.region);
        let text = format!(
            "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
            stamp.time,
            hex(&Sha256::digest(request.as_bytes()))
        );
        let signature = hex(&hmac(&self.signing_key(stamp), text.as_bytes()));
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.keys.access_key
        )
    }

    fn signing_key(&self, stamp: &Stamp) -> Vec<u8> {
        let first = format!("AWS4{}", self.keys.secret_key);
        let parts = [stamp.date(), self.region, SERVICE, "aws4_request"];
        parts.into_iter().fold(first.into_bytes(), |key, part| hmac(&key, part.as_bytes()))
    }
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The signatures are those that botocore, the library of AWS for Python, makes of the same requests.
    #[test]
    fn requests_are_signed_as_the_tools_of_aws_sign_them() {
        let body = br#"{"QueueUrl":"https://sqs.eu-west-1.amazonaws.com/1/q"}"#;
        let stamp = Stamp { time: "20260102T030405Z".into() };
        let cases = [
            (None, "68e4f90903eb9a03cd1d55227f7f707f7d3d1a15c489e83ecb2a6e4136db8a3d"),
            (Some("tok/en=="), "faa228dc31478dab30ac47dda1189e0eabdd954c8dbe0ffe2f3a2756a20d8c4a"),
        ];
        for (token, signature) in cases {
            let keys = Keys {
                access_key: "AKIDEXAMPLE".into(),
                secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
                token: token.map(str::to_owned),
                expires: None,
            };
            let signer = Signer {
                keys: &keys,
                region: "eu-west-1",
                host: "sqs.eu-west-1.amazonaws.com",
                target: "AmazonSQS.ReceiveMessage",
            };
            let headers = signer.headers(&stamp, body);
            let (_, authorization) = headers.last().unwrap();
            assert!(authorization.ends_with(&format!("Signature={signature}")), "{authorization}");
            assert!(authorization.contains("Credential=AKIDEXAMPLE/20260102/eu-west-1/sqs/aws4_request"));
        }
        assert_eq!(Stamp::now().time.len(), stamp.time.len());
    }
}
