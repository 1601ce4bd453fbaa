//! The WebSocket door: checks an upgrade request (RFC 6455, section 4.2), takes the socket over from the
//! HTTP dispatcher and begins a session on it. Everything with `Upgrade: websocket`, and every CONNECT,
//! comes here before any HTTP route sees it; so paths, origins and limits are checked here.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_codec::Framed;
use actix_http::header::HeaderMap;
use actix_http::{HttpMessage, Method, Request, Uri, Version, h1, ws};
use actix_rt::net::TcpStream;
use actix_web_actors::ws::HandshakeError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::actors::admission::{Admission, NoPlace};
use crate::actors::session::{Arrival, Session, SessionHouse};
use crate::auth::origin::Origins;
use crate::auth::visitor::{self, Proxies};
use crate::hooks::question::Visitor;
use crate::log::{ACCESS, is_access_logged};
use crate::metrics::Count;
use crate::protocols::codes::Problem;
use crate::server_settings::DemoSettings;
use crate::transports::entrance::token_of;

/// The path of native sessions.
pub const NATIVE_PATH: &str = "/v1/ws";
/// How long the few bytes of an answer to a handshake may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// What the door of a worker thread knows.
pub struct Door {
    /// What its sessions share.
    pub house: Rc<SessionHouse>,
    /// Who may open a WebSocket from a page.
    pub origins: Arc<Origins>,
    /// Whose forwarded addresses are believed.
    pub proxies: Arc<Proxies>,
    /// Whether guests may come.
    pub demo: DemoSettings,
    /// Counts who is in.
    pub admission: Arc<Admission>,
    /// Whether the server is about to stop.
    pub draining: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Raw paths, each with a handler of the same index.
    pub raw_paths: Vec<String>,
}

/// A refusal: the HTTP status is the problem's code.
struct Refusal {
    problem: Problem,
    headers: &'static str,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        Refusal { problem, headers: "" }
    }
}

impl Door {
    /// Deals with one upgrade request. Never fails: who cannot be let in gets an answer.
    pub async fn upgrade(&self, request: Request, framed: Framed<TcpStream, h1::Codec>) {
        let parts = framed.into_parts();
        let (mut socket, early) = (parts.io, parts.read_buf);
        let admitted = self.check(&request).and_then(|arrival| {
            let address = visitor::counted_address(self.address(&request));
            match self.admission.enter(address) {
                Ok(place) => Ok((arrival, place)),
                Err(why) => Err(self.no_place(why)),
            }
        });
        let (arrival, place) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.note(&request, refusal.problem.code);
                return refuse(socket, &refusal).await;
            }
        };
        self.note(&request, 101);
        let key = request.headers().get("sec-websocket-key").expect("the handshake was checked");
        let answer = accept_head(key.as_bytes());
        // Small frames must not wait for each other. Where the option cannot be set they come a little later.
        if let Err(error) = socket.set_nodelay(true) {
            log::debug!("cannot set TCP_NODELAY: {error}");
        }
        // Here pings and the outbox say who is dead or too slow, and each room has its own rule for the latter.
        if let Err(error) = socket2::SockRef::from(&socket).set_tcp_user_timeout(None) {
            log::debug!("cannot unset TCP_USER_TIMEOUT: {error}");
        }
        match timeout(ANSWER_TIME, socket.write_all(&answer)).await {
            Ok(Ok(())) => {}
            // The client has gone before it was there.
            Ok(Err(_)) | Err(_) => return,
        }
        let raw = matches!(arrival, Arrival::Raw(..));
        let connection = self.house.core.borrow_mut().attach(socket, raw);
        Session::begin(self.house.clone(), connection, arrival, early, place);
    }

    fn check(&self, request: &Request) -> Result<Arrival, Refusal> {
        let refused = &self.house.metrics.door;
        if (self.draining)() {
            return Err(counted(
                &refused.refused_draining,
                Refusal {
                    problem: Problem::new(503, "draining", "this node is stopping; connect again"),
                    headers: "Retry-After: 1\r\n",
                },
            ));
        }
        if request.method() == Method::CONNECT {
            let problem =
                Problem::new(405, "method", "this server is no proxy; send GET with Upgrade: websocket");
            return Err(counted(&refused.refused_handshake, problem.into()));
        }
        let path = request.path();
        let raw = self.raw_paths.iter().position(|known| known == path);
        if raw.is_none() && path != NATIVE_PATH {
            let problem =
                Problem::new(404, "not-found", format!("no WebSocket here; connect to {NATIVE_PATH}"));
            return Err(counted(&refused.refused_path, problem.into()));
        }
        check_handshake(request).map_err(|refusal| counted(&refused.refused_handshake, refusal))?;
        if !self.origins.allow_request(request.headers(), request.uri().authority().map(|host| host.as_str()))
        {
            let problem = Problem::new(
                403,
                "foreign-origin",
                "pages of this origin may not connect; add it to server.origins",
            );
            return Err(counted(&refused.refused_origin, problem.into()));
        }
        if let Some(index) = raw {
            return Ok(Arrival::Raw(index, request.uri().to_string().into()));
        }
        let (mut token, mut user) = (token_of(request.headers()), None);
        for (key, value) in url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
        {
            match &*key {
                "token" => token = Some(value.into_owned()),
                "user" => user = Some(value.into_owned()),
                _ => {}
            }
        }
        let local = visitor::is_local(peer(request), request.headers(), visitor::host(request.headers()));
        let visitor = self.visitor(request.uri(), request.headers(), peer(request));
        Ok(Arrival::Native { token, user, guest: visitor::demo_open(&self.demo, local), visitor })
    }

    /// What a backend is told of somebody, where it is asked before he comes in.
    pub(super) fn visitor(&self, uri: &Uri, headers: &HeaderMap, peer: IpAddr) -> Option<Box<Visitor>> {
        self.house.questions.as_ref().filter(|questions| questions.asks_connect())?;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Some(Box::new(Visitor {
            address: visitor::client_address(peer, headers, &self.proxies).to_string(),
            uri: without_token(uri),
            origin: header("origin"),
            user_agent: header("user-agent"),
        }))
    }

    /// A line in the log, if there is to be one. Without what is behind the `?`: tokens stand there.
    fn note(&self, request: &Request, status: u16) {
        if !is_access_logged() {
            return;
        }
        let (method, path) = (request.method().as_str(), request.path());
        let address = self.address(request).to_string();
        log::info!(target: ACCESS, method, path, status, address = address.as_str(); "{method} {path} {status}");
    }

    fn address(&self, request: &Request) -> IpAddr {
        visitor::client_address(peer(request), request.headers(), &self.proxies)
    }

    fn no_place(&self, why: NoPlace) -> Refusal {
        let refused = &self.house.metrics.door;
        match why {
            NoPlace::Full => counted(
                &refused.refused_full,
                Refusal {
                    problem: Problem::new(
                        503,
                        "full",
                        "this node has all the connections it may have; try again later",
                    ),
                    headers: "Retry-After: 5\r\n",
                },
            ),
            NoPlace::Address => counted(
                &refused.refused_address,
                Refusal {
                    problem: Problem::new(
                        429,
                        "connections",
                        "too many connections from your address; close some",
                    ),
                    headers: "Retry-After: 5\r\n",
                },
            ),
        }
    }
}

/// Path and query without what a token may stand in.
fn without_token(uri: &Uri) -> String {
    let Some(query) = uri.query() else { return uri.path().to_owned() };
    let pairs = url::form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key != "token");
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    match query.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{query}", uri.path()),
    }
}

fn counted(counter: &Count, refusal: Refusal) -> Refusal {
    counter.inc();
    refusal
}

fn peer(request: &Request) -> IpAddr {
    // A peer that has gone already has no address; it counts as nobody in particular, and not as local.
    request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
}

/// The token of the `Authorization` header.
pub(super) fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

fn check_handshake(request: &Request) -> Result<(), Refusal> {
    let bad = |msg: &'static str| Refusal::from(Problem::new(400, "handshake", msg));
    ws::verify_handshake(request.head()).map_err(|error| match error {
        HandshakeError::GetMethodRequired => {
            Problem::new(405, "method", "a WebSocket begins with GET; send it as GET").into()
        }
        HandshakeError::NoVersionHeader | HandshakeError::UnsupportedVersion => wrong_version(),
        HandshakeError::BadWebsocketKey => bad("Sec-WebSocket-Key is missing; use a WebSocket client"),
        _ => bad("this is no WebSocket handshake; send Connection: Upgrade and Upgrade: websocket"),
    })?;
    let headers = request.headers();
    if request.version() != Version::HTTP_11 {
        return Err(bad("a WebSocket begins with HTTP/1.1; use a WebSocket client"));
    }
    if headers.get_all("sec-websocket-key").count() != 1 {
        return Err(bad("a handshake has one Sec-WebSocket-Key; use a WebSocket client"));
    }
    // The library also lets the drafts 7 and 8 pass, and any text as a key (RFC 6455, 4.2.1).
    if headers.get("sec-websocket-version").is_none_or(|version| version.as_bytes() != b"13") {
        return Err(wrong_version());
    }
    let key = headers.get("sec-websocket-key").and_then(|key| BASE64.decode(key.as_bytes()).ok());
    if key.is_none_or(|key| key.len() != 16) {
        return Err(bad("Sec-WebSocket-Key is 16 bytes in base64; use a WebSocket client"));
    }
    let has_body = headers.contains_key("transfer-encoding")
        || headers.get("content-length").is_some_and(|length| length.as_bytes() != b"0");
    match has_body {
        true => Err(bad("a handshake has no body; send none")),
        false => Ok(()),
    }
}

fn wrong_version() -> Refusal {
    Refusal {
        problem: Problem::new(426, "handshake", "this server speaks WebSocket version 13"),
        headers: "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n",
    }
}

fn accept_head(key: &[u8]) -> Vec<u8> {
    let mut head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: "
        .to_vec();
    head.extend_from_slice(&ws::hash_key(key));
    head.extend_from_slice(b"\r\n\r\n");
    head
}

async fn refuse(mut socket: TcpStream, refusal: &Refusal) {
    let Refusal { problem, headers } = refusal;
    let body =
        serde_json::json!({ "code": problem.code, "why": problem.why, "msg": problem.msg }).to_string();
    let reason = actix_http::StatusCode::from_u16(problem.code)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Refused");
    let answer = format!(
        "HTTP/1.1 {} {reason}\r\n{headers}Content-Type: application/json\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
        problem.code,
        body.len(),
    );
    let write = async {
        socket.write_all(answer.as_bytes()).await?;
        socket.shutdown().await?;
        drain(&mut socket).await
    };
    match timeout(ANSWER_TIME, write).await {
        // Whether it read the answer or went away or stays silent: its socket is closed now.
        Ok(Ok(()) | Err(_)) | Err(_) => {}
    }
}

/// Reads to the end, so that the answer is not lost to a reset that unread bytes would cause.
async fn drain(socket: &mut TcpStream) -> io::Result<()> {
    use tokio::io::AsyncReadExt;
    let mut rest = BytesMut::with_capacity(4 << 10);
    while socket.read_buf(&mut rest).await? > 0 {
        rest.clear();
    }
    Ok(())
}
