//! One connection to a gRPC server: questions with one answer, and questions whose answers go on. HTTP/2 is that of
//! the crate by which actix-web speaks it. Called by the requests to Pub/Sub. Knows no request's meaning.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request};
use prost::Message;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::clouds::error::CloudError;
use crate::http_client;

/// Longest answer that is read: Pub/Sub's messages have 10 MB, and what is outstanding is bounded.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// How much of one answer may be on its way.
const WINDOW_BYTES: u32 = 4 << 20;
/// How much of all answers may be.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Before each message: whether it is compressed, and how long it is.
const PREFIX_BYTES: usize = 5;
/// A silent connection is tried after so long, because the wire of a reader without work is silent.
const SILENCE: Duration = Duration::from_secs(15);
/// Then so often, a few times.
const SILENCE_AGAIN: Duration = Duration::from_secs(5);

/// The words for the numbers that servers answer with.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What is asked, beside the message.
pub struct Call<'a> {
    /// `/google.pubsub.v1.Publisher/Publish`
    pub method: &'static str,
    /// What the server finds its way by, as in `topic=projects/p/topics/t`: a name and a value.
    pub about: (&'static str, &'a str),
    /// In whose name; none where nobody asks.
    pub token: Option<&'a str>,
}

/// A connection that was made; it may have ended since.
pub struct Channel {
    sender: SendRequest<Bytes>,
    base: String,
    driver: JoinHandle<()>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Channel {
    /// Connects to `http://host:port` or `https://host`.
    pub async fn connect(endpoint: &Url, within: Duration) -> Result<Channel, CloudError> {
        let connecting = timeout(within, Channel::connect_to(endpoint));
        connecting.await.map_err(|_| CloudError::away("connecting timed out"))?
    }

    async fn connect_to(endpoint: &Url) -> Result<Channel, CloudError> {
        let (Some(host), Some(port)) = (endpoint.host_str(), endpoint.port_or_known_default()) else {
            return Err(CloudError::away("its address names no server"));
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, port)).await.map_err(CloudError::away)?;
        stream.set_nodelay(true).map_err(CloudError::away)?;
        let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE_AGAIN).with_retries(3);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(CloudError::away)?;
        let base = endpoint.as_str().trim_end_matches('/').to_owned();
        if endpoint.scheme() == "http" {
            return Channel::over(stream, base).await;
        }
        let mut config = http_client::tls();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(host.to_owned()).map_err(CloudError::away)?;
        let stream =
            TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(CloudError::away)?;
        Channel::over(stream, base).await
    }

    async fn over<T: AsyncRead + AsyncWrite + Unpin + 'static>(
        wire: T,
        base: String,
    ) -> Result<Channel, CloudError> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        builder.enable_push(false);
        let (sender, connection) = builder.handshake(wire).await.map_err(CloudError::away)?;
        let driver = actix_rt::spawn(async move {
            if let Err(error) = connection.await {
                // Whoever asks next is told as well.
                log::debug!("a connection to a gRPC server ended: {error}");
            }
        });
        Ok(Channel { sender, base, driver })
    }

    /// Whether something can still be asked here.
    pub async fn is_open(&self) -> bool {
        !self.driver.is_finished() && self.sender.clone().ready().await.is_ok()
    }

    /// Asks for the one answer.
    pub async fn ask<A: Message + Default>(
        &self,
        call: Call<'_>,
        question: &impl Message,
        within: Duration,
    ) -> Result<A, CloudError> {
        let method = call.method;
        let asking = async {
            let mut answers = self.send::<A>(&call, question, true).await?;
            let answer = answers.next().await?.ok_or_else(|| CloudError::away("no answer"))?;
            // What follows says whether the answer holds.
            match answers.next().await? {
                None => Ok(answer),
                Some(_) => Err(CloudError::away("two answers to one question")),
            }
        };
        let answer =
            timeout(within, asking).await.unwrap_or_else(|_| Err(CloudError::away("no answer in time")));
        answer.map_err(|error| error.during(last_of(method)))
    }

    /// Asks for answers that go on until what is returned is dropped, or the server ends them.
    pub async fn listen<A: Message + Default>(
        &self,
        call: Call<'_>,
        question: &impl Message,
        within: Duration,
    ) -> Result<Incoming<A>, CloudError> {
        let sent = timeout(within, self.send(&call, question, false)).await;
        sent.unwrap_or_else(|_| Err(CloudError::away("it takes no question")))
            .map_err(|error| error.during(last_of(call.method)))
    }

    async fn send<A: Message + Default>(
        &self,
        call: &Call<'_>,
        question: &impl Message,
        is_all: bool,
    ) -> Result<Incoming<A>, CloudError> {
        let mut sender = self.sender.clone().ready().await.map_err(CloudError::away)?;
        let (answer, mut open) = sender.send_request(self.request(call)?, false).map_err(CloudError::away)?;
        open.send_data(framed(question), is_all).map_err(CloudError::away)?;
        Ok(Incoming {
            answer: Answer::Head(answer),
            gathered: BytesMut::new(),
            ended: None,
            _open: open,
            kind: PhantomData,
        })
    }

    fn request(&self, call: &Call<'_>) -> Result<Request<()>, CloudError> {
        let (name, value) = call.about;
        let about: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        let mut request = Request::post(format!("{}{}", self.base, call.method))
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", concat!("roomcast/", env!("CARGO_PKG_VERSION")))
            .header("x-goog-request-params", format!("{name}={about}"));
        if let Some(token) = call.token {
            let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| CloudError::away("its token is no text"))?;
            // It is left out where headers are shown, and is not kept by the compression of headers.
            header.set_sensitive(true);
            request = request.header("authorization", header);
        }
        request.body(()).map_err(CloudError::away)
    }
}

/// `Publish` of `/google.pubsub.v1.Publisher/Publish`.
fn last_of(method: &str) -> &str {
    method.rsplit('/').next().unwrap_or(method)
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("questions are bounded far below 4 GiB"));
    message.encode(&mut frame).expect("there is room for all of it");
    frame.freeze()
}

/// Answers that go on.
pub struct Incoming<A> {
    answer: Answer,
    gathered: BytesMut,
    ended: Option<Result<(), CloudError>>,
    /// When it is dropped the server hears that nobody listens any more.
    _open: SendStream<Bytes>,
    kind: PhantomData<A>,
}

enum Answer {
    Head(ResponseFuture),
    Body(RecvStream),
}

impl<A: Message + Default> Incoming<A> {
    /// The next answer; none: the server has said all. May be given up and called again: nothing is lost.
    pub async fn next(&mut self) -> Result<Option<A>, CloudError> {
        loop {
            if let Some(answer) = self.gathered()? {
                return Ok(Some(answer));
            }
            if let Some(ended) = &self.ended {
                return ended.clone().map(|()| None);
            }
            if let Err(error) = self.read().await {
                self.ended = Some(Err(error));
            }
        }
    }

    fn gathered(&mut self) -> Result<Option<A>, CloudError> {
        let Some(prefix) = self.gathered.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        let length = u32::from_be_bytes(length) as usize;
        if compressed != 0 || length > ANSWER_BYTES_MAX {
            let what = if compressed != 0 { "compressed" } else { "too long" };
            return Err(CloudError::Away(format!("an answer is {what}")));
        }
        if self.gathered.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.gathered.advance(PREFIX_BYTES);
        let message = self.gathered.split_to(length).freeze();
        A::decode(message).map(Some).map_err(CloudError::away)
    }

    async fn read(&mut self) -> Result<(), CloudError> {
        match &mut self.answer {
            Answer::Head(head) => {
                let head = head.await.map_err(CloudError::away)?;
                if head.status() != http::StatusCode::OK {
                    return Err(CloudError::Away(format!("status {}", head.status())));
                }
                self.ended = status_of(head.headers());
                self.answer = Answer::Body(head.into_body());
            }
            Answer::Body(body) => match body.data().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(CloudError::away)?;
                    body.flow_control().release_capacity(chunk.len()).map_err(CloudError::away)?;
                    self.gathered.extend_from_slice(&chunk);
                }
                None => {
                    let trailers = body.trailers().await.map_err(CloudError::away)?;
                    let status = trailers.as_ref().and_then(status_of);
                    self.ended =
                        Some(status.unwrap_or_else(|| Err(CloudError::away("the answer broke off"))));
                }
            },
        }
        Ok(())
    }
}

/// What the server says of the whole, if it does here.
fn status_of(headers: &HeaderMap) -> Option<Result<(), CloudError>> {
    let number = headers.get("grpc-status")?;
    let number = number.to_str().ok().and_then(|text| text.parse::<usize>().ok());
    if number == Some(0) {
        return Some(Ok(()));
    }
    let code = number.and_then(|number| CODES.get(number)).unwrap_or(&"UNKNOWN");
    let text = headers.get("grpc-message").map_or(String::new(), |text| unescaped(text.as_bytes()));
    Some(Err(CloudError::refused(*code, &text)))
}

/// Texts travel with `%41` for each byte that is no plain letter.
fn unescaped(text: &[u8]) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| (*byte as char).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        match (first, digit(after.first()), digit(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clouds::google::messages::{AcknowledgeRequest, Empty};

    /// What a server does with one question: its head, pieces of its body, and how it ends.
    struct Script {
        status: u16,
        pieces: Vec<Vec<u8>>,
        trailers: Vec<(&'static str, &'static str)>,
    }

    /// Serves one connection and one question.
    async fn serve(script: Script) -> Url {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        actix_rt::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            assert_eq!(request.headers()["te"], "trailers");
            assert_eq!(request.headers()["x-goog-request-params"], "subscription=a%2Fb");
            let head = http::Response::builder().status(script.status).body(()).unwrap();
            let mut body = respond.send_response(head, false).unwrap();
            for piece in script.pieces {
                body.send_data(piece.into(), false).unwrap();
            }
            let mut trailers = HeaderMap::new();
            for (name, value) in script.trailers {
                trailers.insert(name, HeaderValue::from_static(value));
            }
            body.send_trailers(trailers).unwrap();
            // Until the client is gone; what is sent goes out meanwhile.
            while connection.accept().await.is_some() {}
        });
        Url::parse(&format!("http://{address}")).unwrap()
    }

    async fn ask<A: Message + Default>(script: Script) -> Result<A, CloudError> {
        let channel = Channel::connect(&serve(script).await, Duration::from_secs(5)).await.unwrap();
        let call = Call { method: "/s/Ask", about: ("subscription", "a/b"), token: Some("t") };
        channel.ask(call, &Empty {}, Duration::from_secs(5)).await
    }

    fn said() -> AcknowledgeRequest {
        AcknowledgeRequest { subscription: "s".into(), ack_ids: vec!["1".into(), "22".into()] }
    }

    #[actix_rt::test]
    async fn an_answer_in_pieces_is_put_together() {
        let frame = framed(&said());
        let pieces = frame.iter().map(|byte| vec![*byte]).collect();
        let script = Script { status: 200, pieces, trailers: vec![("grpc-status", "0")] };
        assert_eq!(ask::<AcknowledgeRequest>(script).await, Ok(said()));
    }

    #[actix_rt::test]
    async fn what_is_no_whole_answer_is_told() {
        let (whole, ok) = (framed(&said()).to_vec(), vec![("grpc-status", "0")]);
        // Status, body, trailers, and the error.
        type Case<'a> = (u16, Vec<u8>, Vec<(&'a str, &'a str)>, &'a str);
        let cases: [Case<'_>; 7] = [
            (
                200,
                vec![],
                vec![("grpc-status", "5"), ("grpc-message", "no%20such%20%C3%A4")],
                "NOT_FOUND: Ask: no such ä",
            ),
            (200, vec![], vec![("grpc-status", "99")], "UNKNOWN: Ask: "),
            (200, whole.clone(), vec![], "Ask: the answer broke off"),
            (200, whole[..4].to_vec(), ok.clone(), "Ask: no answer"),
            (200, [whole.clone(), whole].concat(), ok.clone(), "Ask: two answers to one question"),
            (200, vec![1, 0, 0, 0, 0], ok.clone(), "Ask: an answer is compressed"),
            (503, vec![], ok, "Ask: status 503 Service Unavailable"),
        ];
        for (status, piece, trailers, wanted) in cases {
            let error = ask::<AcknowledgeRequest>(Script { status, pieces: vec![piece], trailers }).await;
            assert_eq!(error.unwrap_err().to_string(), wanted);
        }
        let too_long = [&[0][..], &u32::MAX.to_be_bytes()].concat();
        let script = Script { status: 200, pieces: vec![too_long], trailers: vec![] };
        assert!(ask::<Empty>(script).await.unwrap_err().to_string().contains("too long"));
    }

    #[actix_rt::test]
    async fn a_server_that_goes_is_noticed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        actix_rt::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let _question = connection.accept().await.unwrap().unwrap();
        });
        let channel = Channel::connect(&url, Duration::from_secs(5)).await.unwrap();
        let call = Call { method: "/s/Listen", about: ("subscription", "a/b"), token: None };
        let mut answers = channel.listen::<Empty>(call, &Empty {}, Duration::from_secs(5)).await.unwrap();
        assert!(matches!(answers.next().await, Err(CloudError::Away(_))));
        assert!(matches!(answers.next().await, Err(CloudError::Away(_))), "and it stays so");
        assert!(!channel.is_open().await);
    }
}
