//! The demo page and the client library, built into the program. The page is shown only to whom the demo
//! is open; the library to everybody. Knows nothing of what the page does.

use std::hash::{DefaultHasher, Hasher};
use std::sync::LazyLock;

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::http::house::House;

/// What the page may load and where it may be shown: all its parts are its own, nobody may frame it.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// Told to who may not see the demo.
const CLOSED: &str = "Roomcast is running. Its demo page is shown on the same machine only.\n\
                      To show it to everybody, start the server with --set demo.enabled=on\n";
/// Told where the demo is off for everybody.
const OFF: &str = "Roomcast is running. Its demo page is off.\n\
                   To show it, start the server with --set demo.enabled=on\n";

/// One built-in file.
struct File {
    body: &'static str,
    content_type: &'static str,
    tag: LazyLock<String>,
}

static PAGE: File = File {
    body: include_str!("../../static/index.html"),
    content_type: "text/html; charset=utf-8",
    tag: LazyLock::new(|| tag(PAGE.body)),
};
static STYLE: File = File {
    body: include_str!("../../static/style.css"),
    content_type: "text/css; charset=utf-8",
    tag: LazyLock::new(|| tag(STYLE.body)),
};
static CHAT: File = File {
    body: include_str!("../../static/chat.js"),
    content_type: "text/javascript; charset=utf-8",
    tag: LazyLock::new(|| tag(CHAT.body)),
};
static LIBRARY: File = File {
    body: include_str!("../../static/roomcast.js"),
    content_type: "text/javascript; charset=utf-8",
    tag: LazyLock::new(|| tag(LIBRARY.body)),
};

/// The same in every process of this version, so that a browser may ask any node.
fn tag(body: &str) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(body.as_bytes());
    format!("\"{:016x}\"", hasher.finish())
}

/// `GET /`.
pub async fn page(request: HttpRequest, house: web::Data<House>) -> HttpResponse {
    show(&PAGE, &request, &house)
}

/// `GET /style.css`.
pub async fn style(request: HttpRequest, house: web::Data<House>) -> HttpResponse {
    show(&STYLE, &request, &house)
}

/// `GET /chat.js`.
pub async fn chat(request: HttpRequest, house: web::Data<House>) -> HttpResponse {
    show(&CHAT, &request, &house)
}

/// `GET /roomcast.js`: for pages of all origins, so any of them may load it as a module.
pub async fn library(request: HttpRequest) -> HttpResponse {
    let mut answer = send(&LIBRARY, &request);
    let any = actix_web::http::header::HeaderValue::from_static("*");
    answer.headers_mut().insert(actix_web::http::header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
    answer
}

fn show(file: &File, request: &HttpRequest, house: &House) -> HttpResponse {
    if house.demo_is_open(request) {
        return send(file, request);
    }
    let (mut answer, text) = match house.demo.enabled {
        crate::server_settings::DemoAccess::Off => (HttpResponse::NotFound(), OFF),
        _ => (HttpResponse::Forbidden(), CLOSED),
    };
    answer.insert_header((CACHE_CONTROL, "no-store"));
    answer.insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"));
    answer.content_type("text/plain; charset=utf-8").body(text)
}

fn send(file: &File, request: &HttpRequest) -> HttpResponse {
    let known = request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let fresh =
        known.is_some_and(|list| list.split(',').any(|one| one.trim().trim_start_matches("W/") == *file.tag));
    let mut answer = match fresh {
        true => HttpResponse::NotModified(),
        false => HttpResponse::Ok(),
    };
    answer.insert_header((ETAG, file.tag.as_str()));
    answer.insert_header((CACHE_CONTROL, "no-cache"));
    answer.insert_header((CONTENT_SECURITY_POLICY, POLICY));
    answer.insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"));
    answer.insert_header((REFERRER_POLICY, "no-referrer"));
    if fresh {
        return answer.finish();
    }
    answer.content_type(file.content_type).body(file.body)
}
