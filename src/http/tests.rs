//! The routes as a client meets them. The chat server is played by an actor that remembers what it was
//! told and answers what the test wants.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Context, Handler, MessageResult};
use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use actix_web::test::{TestRequest, init_service, read_body};
use actix_web::{App, HttpServer, web};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::actors::letters::{Erase, LookAt, Order, PublishBatch, Rule, RulesOf, TraceEntry};
use crate::auth::api_key::{ApiKey, Scope};
use crate::auth::origin::Origins;
use crate::auth::settings::AuthSettings;
use crate::chat::data::Data;
use crate::chat::history::PageFrom;
use crate::chat::message::{Accepted, Draft, Epoch, Refused};
use crate::chat::moderation::{Change, Rules};
use crate::chat::names::{Pattern, RoomName, UserName};
use crate::chat::overview::{LogPage, Look, RoomCount, RoomState, Shown, View};
use crate::chat::trace::{Asked, NodeTrace, SessionTrace, State, Traced};
use crate::engines::shared::Command;
use crate::http::house::House;
use crate::http::readiness::Readiness;
use crate::http::routes::configure;
use crate::metrics::Metrics;
use crate::protocols::codes::Problem;
use crate::server_settings::{DemoAccess, DemoSettings};

mod openapi;
mod server_api;

const LOCAL: &str = "127.0.0.1:50000";
const FAR: &str = "203.0.113.9:50000";
const KEY: &str = "a-key-of-the-shop";

type Heard = Arc<Mutex<Vec<Draft>>>;
type Orders = Arc<Mutex<Vec<Command>>>;
type Looks = Arc<Mutex<Vec<Look>>>;
type Ruled = Arc<Mutex<Vec<(RoomName, Change)>>>;

/// Stands where the chat server stands.
struct Listener {
    heard: Heard,
    orders: Orders,
    looks: Looks,
    ruled: Ruled,
    traced: Arc<Mutex<Vec<Asked>>>,
    answer: Result<Accepted, Refused>,
}

impl Actor for Listener {
    type Context = Context<Listener>;
}

impl Handler<PublishBatch> for Listener {
    type Result = MessageResult<PublishBatch>;

    fn handle(&mut self, batch: PublishBatch, _: &mut Context<Listener>) -> Self::Result {
        let answers = batch.0.iter().map(|_| self.answer.clone()).collect();
        self.heard.lock().unwrap().extend(batch.0);
        MessageResult(answers)
    }
}

impl Handler<Order> for Listener {
    type Result = ();

    fn handle(&mut self, order: Order, _: &mut Context<Listener>) {
        self.orders.lock().unwrap().extend(order.0);
    }
}

impl Handler<Erase> for Listener {
    type Result = Result<Accepted, Problem>;

    fn handle(&mut self, erase: Erase, _: &mut Context<Listener>) -> Self::Result {
        match erase.of {
            128 => Ok(Accepted { offset: 130, epoch: Epoch(36), ts: 1, duplicate: false }),
            _ => Err(Problem::no_entry()),
        }
    }
}

impl Handler<LookAt> for Listener {
    type Result = Result<View, Problem>;

    fn handle(&mut self, LookAt(look): LookAt, _: &mut Context<Listener>) -> Self::Result {
        self.looks.lock().unwrap().push(look.clone());
        let name = |text: &str| RoomName::new(text).unwrap();
        Ok(match look {
            Look::Rooms { .. } => View::Rooms(vec![RoomCount { room: name("lobby"), sessions: 4 }], true),
            Look::Room(room) if room.as_str() == "none" => View::Room(None),
            Look::Room(_) => {
                View::Room(Some(RoomState { epoch: Epoch(36), top: 129, first: 1, sessions: 4, users: 3 }))
            }
            Look::Log { room, .. } if room.as_str() == "none" => View::Log(None),
            Look::Log { from: PageFrom::After(127), .. } => {
                let line = Bytes::from_static(
                    br#"{"t":"edit","r":"lobby","s":128,"id":"x","u":"ann","ts":5,"d":"hi","of":7}"#,
                );
                View::Log(Some(LogPage { epoch: Epoch(36), list: vec![(128, Some(line))], more: true }))
            }
            Look::Log { from: PageFrom::After(999), .. } => {
                View::Log(Some(LogPage { epoch: Epoch(36), list: Vec::new(), more: false }))
            }
            Look::Log { .. } => {
                let line = Bytes::from_static(br#"{"t":"msg","r":"lobby","s":7,"ts":1,"d":"hi"}"#);
                View::Log(Some(LogPage {
                    epoch: Epoch(36),
                    list: vec![(7, Some(line)), (8, None)],
                    more: true,
                }))
            }
            Look::Who { .. } => {
                let info = serde_json::value::to_raw_value(&json!({"name": "Zoe"})).unwrap();
                let info = Some(Arc::new(Data::new(&info).unwrap()));
                let shown = |user: &str, info| Shown { user: UserName::new(user).unwrap(), info };
                View::Who(vec![shown("ann", None), shown("zoe", info)], false)
            }
        })
    }
}

impl Handler<TraceEntry> for Listener {
    type Result = Result<Traced, Problem>;

    fn handle(&mut self, TraceEntry(asked): TraceEntry, _: &mut Context<Listener>) -> Self::Result {
        let mut known = NodeTrace::default();
        if asked.user.as_deref().is_none_or(|user| user == "bob") {
            known.counts.count(State::Got);
            let user = Some("bob".to_owned());
            let name = Some(format!("3v8k-0-{}-0", asked.n));
            known.list.push(SessionTrace { state: State::Got, ..SessionTrace::not_joined(user, name) });
        }
        self.traced.lock().unwrap().push(asked);
        Ok(Traced { known, silent: Vec::new(), lasts: true })
    }
}

impl Handler<Rule> for Listener {
    type Result = Result<(), Problem>;

    fn handle(&mut self, Rule { room, change }: Rule, _: &mut Context<Listener>) -> Self::Result {
        self.ruled.lock().unwrap().push((room, change));
        Ok(())
    }
}

impl Handler<RulesOf> for Listener {
    type Result = MessageResult<RulesOf>;

    fn handle(&mut self, RulesOf(room): RulesOf, _: &mut Context<Listener>) -> Self::Result {
        let ruled = self.ruled.lock().unwrap();
        let of_room = ruled.iter().filter(|(known, _)| *known == room);
        MessageResult(of_room.fold(Rules::default(), |rules, (_, change)| rules.with(change, 1).unwrap()))
    }
}

struct Scene {
    demo: DemoAccess,
    api_keys: Vec<ApiKey>,
    answer: Result<Accepted, Refused>,
    handshake: Duration,
}

impl Default for Scene {
    fn default() -> Scene {
        let accepted = Accepted { offset: 129, epoch: Epoch(36), ts: 1, duplicate: false };
        Scene {
            demo: DemoAccess::Loopback,
            api_keys: Vec::new(),
            answer: Ok(accepted),
            handshake: Duration::from_secs(5),
        }
    }
}

impl Scene {
    fn with_key() -> Scene {
        Scene { api_keys: vec![ApiKey::new(KEY)], ..Scene::default() }
    }

    fn build(self) -> (web::Data<House>, Heard) {
        let (house, heard, ..) = self.build_with_all();
        (house, heard)
    }

    fn build_with_orders(self) -> (web::Data<House>, Heard, Orders) {
        let (house, heard, orders, _) = self.build_with_all();
        (house, heard, orders)
    }

    fn build_with_all(self) -> (web::Data<House>, Heard, Orders, Looks) {
        let (heard, orders, looks) = (Heard::default(), Orders::default(), Looks::default());
        let listener = Listener {
            heard: Arc::clone(&heard),
            orders: Arc::clone(&orders),
            looks: Arc::clone(&looks),
            ruled: Ruled::default(),
            traced: Arc::default(),
            answer: self.answer,
        }
        .start();
        let house = House {
            demo: DemoSettings { enabled: self.demo },
            origins: Origins::new(&["same".into()]).unwrap(),
            auth: AuthSettings { api_keys: self.api_keys, ..AuthSettings::default() },
            message_bytes: 1000,
            handshake: self.handshake,
            metrics: Metrics::new(1),
            ready: Arc::new(Readiness::default()),
            tracer: Default::default(),
            publish: listener.clone().recipient(),
            orders: listener.clone().recipient(),
            erase: listener.clone().recipient(),
            looks: listener.clone().recipient(),
            traces: listener.clone().recipient(),
            rule: listener.clone().recipient(),
            rules: listener.recipient(),
        };
        (web::Data::new(house), heard, orders, looks)
    }
}

/// One request from a visitor at `peer`, asking for `localhost:8080`.
async fn ask(
    house: &web::Data<House>,
    peer: &str,
    request: TestRequest,
) -> ServiceResponse<impl MessageBody> {
    let app = init_service(App::new().app_data(house.clone()).configure(configure)).await;
    let request = request.peer_addr(peer.parse().unwrap()).insert_header((header::HOST, "localhost:8080"));
    app.call(request.to_request()).await.unwrap()
}

async fn status(house: &web::Data<House>, peer: &str, request: TestRequest) -> u16 {
    ask(house, peer, request).await.status().as_u16()
}

/// A header that has to be there.
fn header_of(answer: &ServiceResponse<impl MessageBody>, name: HeaderName) -> String {
    let value = answer.headers().get(&name).unwrap_or_else(|| panic!("no {name}"));
    value.to_str().unwrap().to_owned()
}

async fn json_of(answer: ServiceResponse<impl MessageBody>) -> Value {
    assert_eq!(header_of(&answer, header::CONTENT_TYPE), "application/json");
    serde_json::from_slice(&read_body(answer).await).unwrap()
}

/// Checks that an answer is a refusal of the one form that they all have.
#[track_caller]
fn is_refusal(json: &Value, code: u16, why: &str) {
    assert_eq!((&json["code"], &json["why"]), (&json!(code), &json!(why)), "{json}");
    assert!(json["msg"].as_str().is_some_and(|msg| msg.len() > 5), "{json}");
}

fn publish(body: &Value) -> TestRequest {
    TestRequest::post().uri("/api/publish").set_payload(body.to_string())
}

fn with_key(body: &Value) -> TestRequest {
    publish(body).insert_header((header::AUTHORIZATION, format!("Bearer {KEY}")))
}

#[actix_web::test]
async fn a_backend_with_a_key_speaks_and_hears_the_place() {
    let (house, heard) = Scene::with_key().build();
    let body =
        json!({"r": "lobby", "u": "shop", "d": {"text": "order 17 paid"}, "id": "order-17", "extra": 1});
    let answer = ask(&house, FAR, with_key(&body)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(json_of(answer).await, json!({"r": "lobby", "s": 129, "e": "10", "dup": false}));
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 1);
    assert_eq!((heard[0].room.as_str(), heard[0].user.as_ref().unwrap().as_str()), ("lobby", "shop"));
    assert_eq!(heard[0].data.as_bytes(), br#"{"text":"order 17 paid"}"#);
    assert_eq!(heard[0].id.as_ref().unwrap().as_str(), "order-17");
}

#[actix_web::test]
async fn without_the_key_nobody_speaks() {
    let (house, heard) = Scene::with_key().build();
    let body = json!({"r": "lobby", "d": 1});
    let wrong = |value: &str| publish(&body).insert_header((header::AUTHORIZATION, value.to_owned()));
    for request in [
        publish(&body),
        wrong("Bearer "),
        wrong("Bearer a-key-of-the-shop2"),
        wrong("Bearer a-key-of-the-sho"),
        wrong("Basic a-key-of-the-shop"),
        wrong(KEY),
        publish(&body).uri(&format!("/api/publish?key={KEY}")),
    ] {
        let answer = ask(&house, LOCAL, request).await;
        assert_eq!(header_of(&answer, header::WWW_AUTHENTICATE), "Bearer");
        is_refusal(&json_of(answer).await, 401, "bad-key");
    }
    assert!(heard.lock().unwrap().is_empty());
}

#[actix_web::test]
async fn an_operator_sends_somebody_away() {
    let (house, _, orders) = Scene::with_key().build_with_orders();
    let order = |path: &str, body: Value| {
        let request = TestRequest::post().uri(path).set_payload(body.to_string());
        request.insert_header((header::AUTHORIZATION, format!("Bearer {KEY}")))
    };
    let out = order("/api/disconnect", json!({"u": "bob", "why": "banned"}));
    assert_eq!(ask(&house, FAR, out).await.status(), StatusCode::OK);
    let left = order("/api/leave", json!({"u": "bob", "rooms": ["a", "b"]}));
    assert_eq!(ask(&house, FAR, left).await.status(), StatusCode::OK);
    let nameless = order("/api/disconnect", json!({"u": ""}));
    assert_eq!(ask(&house, FAR, nameless).await.status(), StatusCode::BAD_REQUEST);
    let stranger = TestRequest::post().uri("/api/disconnect").set_payload(r#"{"u":"bob"}"#);
    assert_eq!(ask(&house, FAR, stranger).await.status(), StatusCode::UNAUTHORIZED);
    let bob = crate::chat::names::UserName::new("bob").unwrap();
    let kick = |room: &str| Command::Kick {
        user: bob.clone(),
        room: crate::chat::names::RoomName::new(room).unwrap(),
    };
    let away = Command::Disconnect { user: bob.clone(), code: 4003, why: "banned".into() };
    assert_eq!(*orders.lock().unwrap(), [away, kick("a"), kick("b")]);
}

#[actix_web::test]
async fn with_no_key_set_only_this_machine_speaks() {
    let body = json!({"r": "lobby", "d": 1});
    let (house, heard) = Scene::default().build();
    assert_eq!(status(&house, LOCAL, publish(&body)).await, 200);
    is_refusal(&json_of(ask(&house, FAR, publish(&body)).await).await, 403, "closed");
    let proxied = publish(&body).insert_header(("X-Forwarded-For", "203.0.113.9"));
    assert_eq!(status(&house, LOCAL, proxied).await, 403, "a proxy on this machine brings strangers");
    assert_eq!(heard.lock().unwrap().len(), 1);
    let (open, _) = Scene { demo: DemoAccess::On, ..Scene::default() }.build();
    assert_eq!(status(&open, FAR, publish(&body)).await, 403, "an open demo does not open the API");
    let (off, _) = Scene { demo: DemoAccess::Off, ..Scene::default() }.build();
    assert_eq!(status(&off, LOCAL, publish(&body)).await, 403);
}

#[actix_web::test]
async fn a_foreign_page_does_not_speak_in_its_visitors_name() {
    let (house, heard) = Scene::default().build();
    let body = json!({"r": "lobby", "d": 1});
    let from = |origin: &str| publish(&body).insert_header((header::ORIGIN, origin.to_owned()));
    for origin in
        ["http://evil.example", "null", "http://localhost:8081", "http://localhost:8080.evil.example"]
    {
        is_refusal(&json_of(ask(&house, LOCAL, from(origin)).await).await, 403, "foreign-origin");
    }
    assert!(heard.lock().unwrap().is_empty());
    assert_eq!(status(&house, LOCAL, from("http://localhost:8080")).await, 200);
}

#[actix_web::test]
async fn every_bad_body_gets_its_error() {
    let (house, heard) = Scene::default().build();
    let deep = format!(r#"{{"r":"a","d":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let long = format!(r#"{{"r":"a","d":"{}"}}"#, "x".repeat(1000));
    for (body, code, why) in [
        ("", 400, "bad-json"),
        ("{", 400, "bad-json"),
        ("[]", 400, "bad-json"),
        (r#"{"d":1}"#, 400, "bad-json"),
        (r#"{"r":"a"}"#, 400, "bad-json"),
        (r#"{"r":7,"d":1}"#, 400, "bad-json"),
        (r#"{"r":"a","d":1}x"#, 400, "bad-json"),
        ("{\"r\":\"a\",\"d\":\"\u{0}\"}", 400, "bad-json"),
        (r#"{"r":"","d":1}"#, 400, "bad-room"),
        (r#"{"r":"a*","d":1}"#, 400, "bad-room"),
        (r#"{"r":"a","d":1,"u":""}"#, 400, "bad-json"),
        (r#"{"r":"a","d":1,"id":""}"#, 400, "bad-json"),
        (&deep, 400, "bad-json"),
        (&long, 413, "too-big"),
    ] {
        let request = TestRequest::post().uri("/api/publish").set_payload(body.to_owned());
        let answer = ask(&house, LOCAL, request).await;
        assert_eq!(answer.status().as_u16(), code, "{body}");
        is_refusal(&json_of(answer).await, code, why);
    }
    assert!(heard.lock().unwrap().is_empty());
}

#[actix_web::test]
async fn what_the_chat_server_refuses_is_told_with_a_wait() {
    for (refused, code, why, retry) in [
        (Refused::Busy { wait_ms: 1_200 }, 503, "busy", Some("2")),
        (Refused::Draining, 503, "draining", None),
        (Refused::TooManyRooms, 429, "rooms", None),
        (Refused::ByHandler("no links here".into()), 403, "not-allowed", None),
    ] {
        let (house, _) = Scene { answer: Err(refused), ..Scene::default() }.build();
        let answer = ask(&house, LOCAL, publish(&json!({"r": "lobby", "d": 1}))).await;
        let told = answer.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(told.as_deref(), retry, "{why}");
        is_refusal(&json_of(answer).await, code, why);
    }
}

#[actix_web::test]
async fn the_demo_is_shown_to_whom_it_is_open() {
    let parts = [
        ("/", "text/html"),
        ("/style.css", "text/css"),
        ("/chat.js", "text/javascript"),
        ("/timeline.js", "text/javascript"),
        ("/lines.js", "text/javascript"),
        ("/tools.js", "text/javascript"),
        ("/find.js", "text/javascript"),
    ];
    let (house, _) = Scene::default().build();
    for (path, kind) in parts {
        let answer = ask(&house, LOCAL, TestRequest::get().uri(path)).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let header = |name: HeaderName| header_of(&answer, name);
        assert!(header(header::CONTENT_TYPE).starts_with(kind), "{path}");
        assert!(header(header::CONTENT_SECURITY_POLICY).contains("frame-ancestors 'none'"));
        assert_eq!(header(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
        assert_eq!(header(header::CACHE_CONTROL), "no-cache");
        let known = TestRequest::get().uri(path).insert_header((header::IF_NONE_MATCH, header(header::ETAG)));
        assert_eq!(status(&house, LOCAL, known).await, 304, "{path}");
        let other = TestRequest::get().uri(path).insert_header((header::IF_NONE_MATCH, "\"other\""));
        assert_eq!(status(&house, LOCAL, other).await, 200, "{path}");
        assert_eq!(
            status(&house, LOCAL, TestRequest::with_uri(path).method(actix_web::http::Method::HEAD)).await,
            200
        );
        let far = ask(&house, FAR, TestRequest::get().uri(path)).await;
        assert_eq!(far.status(), StatusCode::FORBIDDEN, "{path}");
        let text = read_body(far).await;
        assert!(std::str::from_utf8(&text).unwrap().contains("demo.enabled=on"));
    }
    let escaped = TestRequest::get().uri("/%63hat.js");
    assert_eq!(status(&house, LOCAL, escaped).await, 200, "the same path, written otherwise");
    let (open, _) = Scene { demo: DemoAccess::On, ..Scene::default() }.build();
    assert_eq!(status(&open, FAR, TestRequest::get().uri("/")).await, 200);
    let (off, _) = Scene { demo: DemoAccess::Off, ..Scene::default() }.build();
    assert_eq!(status(&off, LOCAL, TestRequest::get().uri("/")).await, 404);
    assert_eq!(
        status(&off, FAR, TestRequest::get().uri("/roomcast.js")).await,
        200,
        "the library is for everybody"
    );
}

#[actix_web::test]
async fn health_and_readiness_are_two_things() {
    let (house, _) = Scene::default().build();
    let ready = TestRequest::get().uri("/readyz");
    assert_eq!(json_of(ask(&house, FAR, ready).await).await, json!({"ready": true, "reasons": []}));
    house.ready.add("redis", Box::new(|| Err("away since 3 s".into())));
    house.ready.add("keys", Box::new(|| Ok(())));
    house.ready.drain();
    let answer = ask(&house, FAR, TestRequest::get().uri("/readyz")).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        json_of(answer).await,
        json!({"ready": false, "reasons": ["draining", "redis: away since 3 s"]})
    );
    assert_eq!(status(&house, FAR, TestRequest::get().uri("/healthz")).await, 200, "it lives all the same");
}

#[actix_web::test]
async fn figures_come_in_their_own_type() {
    let (house, _) = Scene::default().build();
    assert_eq!(status(&house, FAR, TestRequest::get().uri("/nothing")).await, 404);
    let answer = ask(&house, FAR, TestRequest::get().uri("/metrics")).await;
    assert!(header_of(&answer, header::CONTENT_TYPE).starts_with("application/openmetrics-text"));
    let text = String::from_utf8(read_body(answer).await.to_vec()).unwrap();
    assert!(text.contains("roomcast_errors_total{why=\"not-found\"} 1\n"), "{text}");
}

#[actix_web::test]
async fn what_is_not_there_says_so_in_json() {
    let (house, _) = Scene::default().build();
    is_refusal(&json_of(ask(&house, FAR, TestRequest::get().uri("/nothing")).await).await, 404, "not-found");
    let wrong = ask(&house, FAR, TestRequest::get().uri("/api/publish")).await;
    assert_eq!(header_of(&wrong, header::ALLOW), "POST");
    is_refusal(&json_of(wrong).await, 405, "method");
    let wrong = ask(&house, FAR, TestRequest::post().uri("/healthz")).await;
    assert_eq!(header_of(&wrong, header::ALLOW), "GET, HEAD");
    is_refusal(&json_of(wrong).await, 405, "method");
    let plain = ask(&house, FAR, TestRequest::get().uri("/v1/ws")).await;
    assert_eq!(header_of(&plain, header::UPGRADE), "websocket");
    is_refusal(&json_of(plain).await, 426, "handshake");
}

/// Sends a request as it is and reads one whole answer; its head and body.
async fn exchange(link: &mut TcpStream, request: &str) -> (String, String) {
    link.write_all(request.as_bytes()).await.unwrap();
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
            if length.is_some_and(|n| body.len() == n.parse::<usize>().unwrap()) {
                return (head.to_owned(), body.to_owned());
            }
        }
        let n = link.read(&mut chunk).await.unwrap();
        assert_ne!(n, 0, "the connection was closed: {text}");
        bytes.extend_from_slice(&chunk[..n]);
    }
}

#[actix_web::test]
async fn a_body_without_end_costs_the_connection() {
    let (house, _) = Scene::default().build();
    let request = TestRequest::post().uri("/api/publish").set_payload(vec![b'x'; 3 << 20]);
    let answer = ask(&house, LOCAL, request).await;
    assert_eq!(answer.response().head().connection_type(), actix_web::http::ConnectionType::Close);
    is_refusal(&json_of(answer).await, 413, "too-big");
}

/// A real server for one house; its address, and the handle that stops it.
fn serve(house: web::Data<House>) -> (std::net::SocketAddr, actix_web::dev::ServerHandle) {
    let server = HttpServer::new(move || App::new().app_data(house.clone()).configure(configure))
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .unwrap();
    let address = server.addrs()[0];
    let server = server.run();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    (address, handle)
}

#[actix_web::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (house, heard) = Scene { handshake: Duration::from_millis(20), ..Scene::default() }.build();
    let (address, handle) = serve(house);
    let mut link = TcpStream::connect(address).await.unwrap();
    let request = format!("POST /api/publish HTTP/1.1\r\nHost: {address}\r\nContent-Length: 20\r\n\r\n{{");
    let (head, body) = exchange(&mut link, &request).await;
    assert!(head.starts_with("HTTP/1.1 408 ") && head.to_lowercase().contains("connection: close"), "{head}");
    is_refusal(&serde_json::from_str(&body).unwrap(), 408, "slow");
    assert!(heard.lock().unwrap().is_empty());
    handle.stop(false).await;
}

#[actix_web::test]
async fn a_connection_is_kept_after_an_error() {
    let (house, heard) = Scene::with_key().build();
    let (address, handle) = serve(house);
    let mut link = TcpStream::connect(address).await.unwrap();
    let good = r#"{"r":"lobby","d":1}"#;
    let post = |key: &str, body: &str| {
        let length = body.len();
        format!(
            "POST /api/publish HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    for (key, body, code) in [
        (KEY, good, "200"),
        ("wrong", good, "401"),
        (KEY, "{", "400"),
        (KEY, &"x".repeat(300_000), "413"),
        (KEY, good, "200"),
    ] {
        let (head, body) = exchange(&mut link, &post(key, body)).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{head}");
        assert!(!head.to_lowercase().contains("connection: close"), "{head}");
        assert!(serde_json::from_str::<Value>(&body).unwrap().is_object());
    }
    let (head, _) = exchange(&mut link, &format!("GET /none HTTP/1.1\r\nHost: {address}\r\n\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert_eq!(heard.lock().unwrap().len(), 2);
    handle.stop(false).await;
}
