//! What stands in the address of a call of the server API: the room in its path and the words behind the question
//! mark. What cannot be read gets an error that names it.

use std::borrow::Cow;

use actix_web::{HttpRequest, web};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::chat::names::RoomName;
use crate::protocols::codes::Problem;

/// Entries of a page when the call does not say.
pub const PAGE: usize = 100;
/// Most entries of a page.
pub const PAGE_MAX: usize = 1_000;

/// Which part of a list is wanted.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PageAsked {
    /// Only names that start with this.
    pub prefix: Option<String>,
    /// Only names that come after this one: the last of the page before.
    pub after: Option<String>,
    /// At most so many.
    n: Option<String>,
}

impl PageAsked {
    /// How many, [`PAGE`] by default.
    pub fn n(&self) -> Result<usize, Problem> {
        page_size(self.n.as_deref())
    }
}

/// The size of a page: 1 to [`PAGE_MAX`], [`PAGE`] by default.
pub fn page_size(n: Option<&str>) -> Result<usize, Problem> {
    let Some(text) = n else { return Ok(PAGE) };
    match text.parse() {
        Ok(n @ 1..=PAGE_MAX) => Ok(n),
        _ => Err(bad_query(format!("n: write a number from 1 to {PAGE_MAX}"))),
    }
}

/// What stands behind the question mark cannot be meant.
pub fn bad_query(msg: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(400, "bad-query", msg)
}

/// Reads what stands behind the question mark; a word that is not known is refused, so that a slip does not change
/// what is asked.
pub fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Problem> {
    let read = web::Query::<T>::from_query(request.query_string());
    let bad = |error| bad_query(format!("{error}; see docs/api.md for what may stand behind the ?"));
    read.map(web::Query::into_inner).map_err(bad)
}

/// The room in the path.
pub fn room(request: &HttpRequest) -> Result<RoomName, Problem> {
    Ok(RoomName::named_by_client(&segment(request, "room"))?)
}

/// A part of the path. The router has decoded all but these three, which it must not split at.
pub fn segment(request: &HttpRequest, name: &str) -> String {
    let text = request.match_info().query(name);
    text.replace("%2F", "/").replace("%2f", "/").replace("%2B", "+").replace("%2b", "+").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn asked(uri: &str) -> Result<PageAsked, Problem> {
        query(&TestRequest::with_uri(uri).to_http_request())
    }

    #[test]
    fn a_page_is_read_and_what_is_wrong_in_it_named() {
        let page = asked("/?prefix=team-&after=team%2D1+x&n=7").unwrap();
        assert_eq!((page.prefix.as_deref(), page.after.as_deref()), (Some("team-"), Some("team-1 x")));
        assert_eq!(page.n(), Ok(7));
        assert_eq!(asked("/").unwrap().n(), Ok(PAGE));
        for bad in ["0", "1001", "-1", "x", ""] {
            assert_eq!(asked(&format!("/?n={bad}")).unwrap().n().unwrap_err().why, "bad-query", "{bad}");
        }
        assert!(asked("/?key=secret").unwrap_err().msg.contains("unknown field"), "a key in the URL is none");
        assert!(asked("/?n=1&n=2").unwrap_err().msg.contains("duplicate"));
    }
}
