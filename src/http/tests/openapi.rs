//! The description of the server API against the table of routes, both ways.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::http::Method;

use super::*;
use crate::http::openapi::DESCRIPTION;

/// All methods that a path could have.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// What is described: paths with their methods; where there is GET there is HEAD.
fn described() -> BTreeMap<String, BTreeSet<String>> {
    let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
    assert_eq!(description["openapi"], "3.1.0");
    let methods = |item: &Value| {
        let named = item.as_object().unwrap().keys().map(|method| method.to_uppercase());
        let mut methods: BTreeSet<String> = named.collect();
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        methods
    };
    let paths = description["paths"].as_object().unwrap();
    paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

/// Every path below `/api` that stands in the table of routes.
fn routed() -> BTreeSet<String> {
    let table = include_str!("../routes.rs");
    let paths = table.split('"').filter(|text| text.starts_with("/api/")).map(str::to_owned);
    paths.collect()
}

#[actix_web::test]
async fn each_route_is_described_and_each_description_has_its_route() {
    let described = described();
    assert_eq!(described.keys().cloned().collect::<BTreeSet<_>>(), routed());
    let (house, _) = Scene::default().build();
    for (path, methods) in described {
        let uri = path.replace("{room}", "lobby").replace("{s}", "128");
        for method in METHODS {
            let request = TestRequest::with_uri(&uri).method(Method::from_bytes(method.as_bytes()).unwrap());
            let answer = ask(&house, LOCAL, request).await;
            let is_there = answer.status() != StatusCode::METHOD_NOT_ALLOWED;
            assert_ne!(answer.status(), StatusCode::NOT_FOUND, "{method} {path}");
            assert_eq!(is_there, methods.contains(method), "{method} {path}");
            if !is_there {
                let allowed = header_of(&answer, header::ALLOW);
                let allowed: BTreeSet<String> = allowed.split(", ").map(str::to_owned).collect();
                assert_eq!(allowed, methods, "{path}");
            }
        }
    }
}

#[actix_web::test]
async fn the_description_is_for_everybody() {
    let (house, _) = Scene::with_key().build();
    let answer = ask(&house, FAR, TestRequest::get().uri("/api/openapi.json")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header_of(&answer, header::CONTENT_TYPE), "application/json");
    assert_eq!(json_of(answer).await["openapi"], "3.1.0");
}

#[test]
fn each_call_says_what_it_needs() {
    let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, call) in item.as_object().unwrap() {
            let is_open = path == "/api/openapi.json";
            let wanted = if is_open { json!([]) } else { json!([{"key": []}]) };
            assert_eq!(call["security"], wanted, "{method} {path}");
            assert!(call["operationId"].is_string() && call["summary"].is_string(), "{method} {path}");
            let refusals = call["responses"].as_object().unwrap().keys().filter(|code| *code != "200");
            let named: Vec<&String> = refusals.collect();
            let complete = ["401", "403", "503"].iter().all(|code| named.iter().any(|named| named == code));
            assert!(is_open || complete, "{method} {path}: {named:?}");
        }
    }
}
