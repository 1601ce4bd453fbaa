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
    path: &'static str,
    body: &'static str,
    content_type: &'static str,
    tag: LazyLock<String>,
}

/// A file of `static/` under the path that it is served at.
macro_rules! file {
    ($path:literal, $name:literal, $content_type:literal) => {
        File {
            path: $path,
            body: include_str!(concat!("../../static/", $name)),
            content_type: concat!($content_type, "; charset=utf-8"),
            tag: LazyLock::new(|| tag(include_str!(concat!("../../static/", $name)))),
        }
    };
}

/// The page and what it is made of.
static PARTS: [File; 7] = [
    file!("/", "index.html", "text/html"),
    file!("/style.css", "style.css", "text/css"),
    file!("/chat.js", "chat.js", "text/javascript"),
    file!("/timeline.js", "timeline.js", "text/javascript"),
    file!("/lines.js", "lines.js", "text/javascript"),
    file!("/tools.js", "tools.js", "text/javascript"),
    file!("/find.js", "find.js", "text/javascript"),
];
/// The library, and the part of it that is loaded where no WebSocket gets through.
static LIBRARY: [File; 2] = [
    file!("/roomcast.js", "roomcast.js", "text/javascript"),
    file!("/roomcast-http.js", "roomcast-http.js", "text/javascript"),
];

/// The same in every process of this version, so that a browser may ask any node.
fn tag(body: &str) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(body.as_bytes());
    format!("\"{:016x}\"", hasher.finish())
}

/// The paths of the page and its parts, each for [`part`].
pub fn paths() -> impl Iterator<Item = &'static str> {
    PARTS.iter().map(|file| file.path)
}

/// `GET` of one of [`paths`].
pub async fn part(request: HttpRequest, house: web::Data<House>) -> HttpResponse {
    let path = request.match_pattern(); // not the path as it was written, which may be escaped
    let file = PARTS.iter().find(|file| Some(file.path) == path.as_deref()).expect("routed by the same list");
    show(file, &request, &house)
}

/// The paths of the library, each for [`library`].
pub fn library_paths() -> impl Iterator<Item = &'static str> {
    LIBRARY.iter().map(|file| file.path)
}

/// `GET` of one of [`library_paths`]: for pages of all origins, so any of them may load it as a module.
pub async fn library(request: HttpRequest) -> HttpResponse {
    let path = request.match_pattern();
    let file =
        LIBRARY.iter().find(|file| Some(file.path) == path.as_deref()).expect("routed by the same list");
    let mut answer = send(file, &request);
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
