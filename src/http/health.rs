//! Whether the process lives and whether it should get new visitors. Asked by load balancers and by
//! start scripts. Whoever can be away hands in a check; nobody is known here.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, web};
use serde::Serialize;

use crate::http::routes::House;

/// Says why somebody cannot work just now, or nothing when all is well. Must not block.
pub type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Whether this node should get new visitors.
#[derive(Default)]
pub struct Readiness {
    draining: AtomicBool,
    checks: Mutex<Vec<(&'static str, Check)>>,
}

#[derive(Serialize)]
struct Report {
    ready: bool,
    reasons: Vec<String>,
}

impl Readiness {
    /// Adds somebody who can be away, by the name that operators know him under.
    pub fn add(&self, name: &'static str, check: Check) {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).push((name, check));
    }

    /// The server stops: not ready from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the server stops.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why this node should get no new visitors; empty when it should.
    pub fn reasons(&self) -> Vec<String> {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let failed =
            checks.iter().filter_map(|(name, check)| check().err().map(|why| format!("{name}: {why}")));
        self.is_draining().then(|| "draining".to_owned()).into_iter().chain(failed).collect()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("reasons", &self.reasons()).finish()
    }
}

/// `GET /healthz`: 200 as long as the process lives.
pub async fn alive() -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).content_type("text/plain").body("ok\n")
}

/// `GET /readyz`: 200, or 503 with the reasons.
pub async fn ready(house: web::Data<House>) -> HttpResponse {
    let reasons = house.ready.reasons();
    let mut answer = match reasons.is_empty() {
        true => HttpResponse::Ok(),
        false => HttpResponse::ServiceUnavailable(),
    };
    answer.insert_header((CACHE_CONTROL, "no-store"));
    answer.json(Report { ready: reasons.is_empty(), reasons })
}
