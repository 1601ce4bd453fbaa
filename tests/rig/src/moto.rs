//! moto's server, which stands in for Amazon SQS, as a process. Knows what backends and operators ask of SQS.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::eventually;
use crate::http::Question;
use crate::server::free_port;

/// Where its queues are.
pub const REGION: &str = "eu-west-1";

/// The Python that has moto: beside the program that `MOTO_SERVER` names, or the one on the path.
fn python() -> PathBuf {
    let beside = |moto: OsString| Path::new(&moto).with_file_name("python3");
    std::env::var_os("MOTO_SERVER").map_or_else(|| "python3".into(), beside)
}

/// It is killed when this is dropped.
#[derive(Debug)]
pub struct Moto {
    /// Its port.
    pub port: u16,
    process: Child,
}

impl Moto {
    /// It answers already.
    pub async fn start() -> Moto {
        let port = free_port();
        let mut command = Command::new(python());
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/sqs_server.py");
        command.arg(server).args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process =
            command.spawn().expect("python3 with moto is on the path, or MOTO_SERVER stands beside it");
        let moto = Moto { port, process };
        eventually("moto to answer", async || moto.ask("ListQueues", json!({})).await).await;
        moto
    }

    /// Where it is.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// As a backend's library asks; moto checks no signatures. None when it refuses or is not there.
    pub async fn ask(&self, action: &str, body: Value) -> Option<Value> {
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=key/20260101/{REGION}/sqs/aws4_request, SignedHeaders=host, Signature=0"
        );
        let headers = [
            ("content-type", "application/x-amz-json-1.0"),
            ("x-amz-target", &format!("AmazonSQS.{action}")),
            ("authorization", &scope),
        ];
        let body = body.to_string();
        let question =
            Question { port: self.port, method: "POST", path: "/", headers: &headers, body: &body };
        question.ask().await.filter(|answer| answer.is_good()).map(|answer| answer.json())
    }

    /// A new queue: its URL. The end of the name says whether it is a FIFO queue.
    pub async fn queue(&self, name: &str) -> String {
        let attributes = if name.ends_with(".fifo") { json!({"FifoQueue": "true"}) } else { json!({}) };
        let made = self.ask("CreateQueue", json!({"QueueName": name, "Attributes": attributes})).await;
        let made = made.expect("moto makes a queue");
        made["QueueUrl"].as_str().expect("it has a URL").to_owned()
    }

    /// Pushes into a standard queue.
    pub async fn push(&self, queue: &str, body: &str) {
        let message = json!({"QueueUrl": queue, "MessageBody": body});
        self.ask("SendMessage", message).await.expect("moto takes it");
    }

    /// Pushes into a FIFO queue.
    pub async fn push_in_group(&self, queue: &str, group: &str, id: &str, body: &str) {
        let message = json!({
            "QueueUrl": queue, "MessageBody": body, "MessageGroupId": group, "MessageDeduplicationId": id,
        });
        self.ask("SendMessage", message).await.expect("moto takes it");
    }

    /// Waits until the queue has nothing, hidden or not.
    pub async fn is_empty(&self, queue: &str) {
        eventually("the queue to be empty", async || {
            let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
            let said =
                self.ask("GetQueueAttributes", json!({"QueueUrl": queue, "AttributeNames": names})).await?;
            names.iter().all(|name| said["Attributes"][name] == "0").then_some(())
        })
        .await;
    }

    /// The time is over for which what was taken is hidden.
    pub fn takes_back(&self) {
        self.signal("-USR1");
    }

    /// Sends a signal, by its name: `-STOP`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status();
        assert!(sent.expect("kill can be run").success(), "moto is gone");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // They fail only when it has ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
