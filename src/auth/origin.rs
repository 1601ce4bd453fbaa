//! Which web pages may talk to this server with a visitor's browser. A browser sends a page's origin with
//! every WebSocket and every cross-site POST (RFC 6454); without this check any page on the web could
//! open a WebSocket in its visitors' names. Asked by every door before a handshake is answered.

use std::net::Ipv6Addr;

use actix_web::http::header::HeaderMap;

use crate::auth::visitor;

/// The rules of `server.origins`.
#[derive(Debug, Clone)]
pub struct Origins(Vec<Rule>);

#[derive(Debug, Clone)]
enum Rule {
    /// Every origin.
    Any,
    /// Pages that this server's own name was asked for.
    Same,
    /// Exactly this origin.
    Exact(Origin),
    /// Every host below this one: scheme, `.example.com`, port.
    Below { scheme: String, suffix: String, port: Option<u16> },
}

/// A scheme, a host and a port, all in one written form.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origins {
    /// Reads `"same"`, exact origins (`"https://example.com"`), wildcards for the left of a host
    /// (`"https://*.example.com"`) and `"*"`.
    pub fn new(list: &[String]) -> Result<Origins, String> {
        list.iter().map(|text| Rule::parse(text)).collect::<Result<_, _>>().map(Origins)
    }

    /// Whether a request may pass that carries these headers. `authority` is the host of the request line
    /// where it has one; it stands in for a missing `Host`.
    pub fn allow_request(&self, headers: &HeaderMap, authority: Option<&str>) -> bool {
        if !headers.contains_key("origin") {
            return self.allows(None, None);
        }
        // Two origins, or bytes that are no text: no browser writes that.
        let Some(origin) = visitor::single(headers, "origin") else {
            return false;
        };
        self.allows(Some(origin), visitor::host(headers).or(authority))
    }

    /// Whether a page of this origin may talk to the server under this `Host`. No origin means that no
    /// browser is asking; the opaque origin `null` passes only where every origin does.
    pub fn allows(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(text) = origin else { return true };
        if self.0.iter().any(|rule| matches!(rule, Rule::Any)) {
            return true;
        }
        let Some(origin) = Origin::parse(text) else {
            return false;
        };
        self.0.iter().any(|rule| rule.covers(&origin, host))
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Rule, String> {
        let wrong = || {
            format!(
                "server.origins: {text:?} is no origin; write \"same\", \"https://example.com\", \
                 \"https://*.example.com\" or \"*\""
            )
        };
        match text {
            "*" => return Ok(Rule::Any),
            "same" => return Ok(Rule::Same),
            _ => {}
        }
        let Some((scheme, host)) = text.split_once("://*.") else {
            return Origin::parse(text).map(Rule::Exact).ok_or_else(wrong);
        };
        let parent = Origin::parse(&format!("{scheme}://{host}")).ok_or_else(wrong)?;
        if parent.host.starts_with('[') {
            return Err(wrong());
        }
        Ok(Rule::Below { scheme: parent.scheme, suffix: format!(".{}", parent.host), port: parent.port })
    }

    fn covers(&self, origin: &Origin, host: Option<&str>) -> bool {
        match self {
            Rule::Any => true,
            Rule::Same => host.is_some_and(|host| origin.is_same_as(host)),
            Rule::Exact(exact) => exact == origin,
            Rule::Below { scheme, suffix, port } => {
                let below = origin.host.strip_suffix(suffix.as_str()).is_some_and(|left| !left.is_empty());
                below && *scheme == origin.scheme && *port == origin.port
            }
        }
    }
}

impl Origin {
    /// Reads `scheme://host[:port]` and nothing else: no user, no path, no space, no other alphabet.
    fn parse(text: &str) -> Option<Origin> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        if !scheme_ok {
            return None;
        }
        let (host, port) = parse_host(rest)?;
        let port = port.or(default_port(&scheme));
        Some(Origin { scheme, host, port })
    }

    /// Whether `host` (of the `Host` header) names the same host and port. Behind a TLS proxy the server
    /// cannot know whether the page came by http or https, so either is the same.
    fn is_same_as(&self, host: &str) -> bool {
        let Some(default) = default_port(&self.scheme) else {
            return false;
        };
        let Some((host, port)) = parse_host(host) else {
            return false;
        };
        host == self.host && port.unwrap_or(default) == self.port.unwrap_or(default)
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Reads `host[:port]`; the host comes out in lower case, an IPv6 address in its shortest form.
fn parse_host(text: &str) -> Option<(String, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = match after {
            "" => None,
            _ => Some(parse_port(after.strip_prefix(':')?)?),
        };
        return Some((format!("[{address}]"), port));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(parse_port(port)?)),
        None => (text, None),
    };
    let name_ok = !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    name_ok.then(|| (name.to_ascii_lowercase(), port))
}

/// A port is digits alone: `str::parse` would take `+80` as well.
fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origins(list: &[&str]) -> Origins {
        Origins::new(&list.iter().map(|text| text.to_string()).collect::<Vec<_>>()).unwrap()
    }

    #[track_caller]
    fn same(origin: &str, host: &str, expected: bool) {
        assert_eq!(origins(&["same"]).allows(Some(origin), Some(host)), expected, "{origin} at {host}");
    }

    #[test]
    fn the_same_host_and_port_pass() {
        same("http://example.com", "example.com", true);
        same("https://example.com", "example.com", true);
        same("https://example.com", "example.com:443", true);
        same("http://example.com:80", "EXAMPLE.com", true);
        same("HTTP://Example.COM:8080", "example.com:8080", true);
        same("http://[::1]:8080", "[0:0:0:0:0:0:0:1]:8080", true);
        same("http://127.0.0.1:8080", "127.0.0.1:8080", true);
    }

    #[test]
    fn another_host_or_port_does_not() {
        same("http://example.com", "example.com:443", false);
        same("https://example.com", "example.com:80", false);
        same("http://example.com:8080", "example.com", false);
        same("http://example.com:8080", "example.com:8081", false);
        same("http://example.com.evil.com", "example.com", false);
        same("http://evilexample.com", "example.com", false);
        same("http://sub.example.com", "example.com", false);
        same("http://example.com.", "example.com", false);
        same("ftp://example.com", "example.com", false);
        same("file://", "", false);
        assert!(
            !origins(&["same"]).allows(Some("http://example.com"), None),
            "no host, nothing to be the same as"
        );
    }

    #[test]
    fn what_is_no_origin_does_not_pass() {
        for text in [
            "",
            "null",
            "example.com",
            "//example.com",
            "http:example.com",
            "http:///example.com",
            "http://user@example.com",
            "http://example.com@evil.com",
            "http://evil.com?https://example.com",
            "http://evil.com#example.com",
            "http://example.com/",
            "http://example.com\\.evil.com",
            "http://example.com:",
            "http://example.com:+80",
            "http://example.com:80:80",
            "http://example.com:99999",
            "http://example.com:080000",
            "http://example.com ",
            " http://example.com",
            "http://exam%70le.com",
            "http://example.com,http://evil.com",
            "http://example.com http://evil.com",
            "http://[::1",
            "http://::1",
            "http://[::1]evil.com",
            "http://ex\u{e4}mple.com",
            "1http://example.com",
            "http\n://example.com",
            "http://.example.com",
        ] {
            let rules = origins(&["same", "http://example.com", "http://*.example.com"]);
            assert!(!rules.allows(Some(text), Some("example.com")), "{text:?}");
        }
    }

    #[test]
    fn exact_origins_are_exact() {
        let rules = origins(&["https://Good.com", "http://good.com:8080", "capacitor://localhost"]);
        for good in
            ["https://good.com", "https://good.com:443", "http://good.com:8080", "capacitor://localhost"]
        {
            assert!(rules.allows(Some(good), Some("api.example.com")), "{good}");
        }
        for bad in [
            "http://good.com",
            "https://good.com:444",
            "https://good.com.evil.com",
            "https://good.com.",
            "https://www.good.com",
            "https://evil.com",
            "ionic://localhost",
        ] {
            assert!(!rules.allows(Some(bad), Some("good.com")), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_covers_what_is_below_it_only() {
        let rules = origins(&["https://*.example.com"]);
        for good in ["https://a.example.com", "https://a.b.example.com", "https://A.EXAMPLE.com:443"] {
            assert!(rules.allows(Some(good), None), "{good}");
        }
        for bad in [
            "https://example.com",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://aexample.com",
            "https://a.example.com.evil.com",
            "https://evil.com/.example.com",
            "https://evil.com?.example.com",
            "https://.example.com",
            "https://a.example.com.",
        ] {
            assert!(!rules.allows(Some(bad), None), "{bad}");
        }
    }

    #[test]
    fn only_a_star_lets_everything_pass() {
        assert!(
            origins(&["*"]).allows(Some("null"), None)
                && origins(&["*"]).allows(Some("http://evil.com"), None)
        );
        assert!(!origins(&["same"]).allows(Some("null"), Some("null")));
        assert!(!origins(&[]).allows(Some("http://a.com"), Some("a.com")));
        assert!(origins(&[]).allows(None, Some("a.com")), "no origin, no browser");
    }

    #[test]
    fn two_origins_in_one_request_do_not_pass() {
        let mut headers = HeaderMap::new();
        let append = |headers: &mut HeaderMap, name: &'static str, value: &'static str| {
            headers.append(actix_web::http::header::HeaderName::from_static(name), value.parse().unwrap());
        };
        append(&mut headers, "host", "a.com");
        assert!(origins(&["same"]).allow_request(&headers, None));
        append(&mut headers, "origin", "http://a.com");
        assert!(origins(&["same"]).allow_request(&headers, None));
        append(&mut headers, "origin", "http://evil.com");
        assert!(!origins(&["same"]).allow_request(&headers, None));
    }

    #[test]
    fn a_rule_that_means_nothing_is_refused() {
        for wrong in [
            "",
            "example.com",
            "https://",
            "https://*",
            "*.example.com",
            "https://a.*.com",
            "https://a.com/x",
            "https://*.[::1]",
            "null",
            "https://*.*.com",
        ] {
            assert!(Origins::new(&[wrong.into()]).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        /// Whatever is glued before or after a good origin makes a bad one, unless it is its own port.
        #[test]
        fn nothing_can_be_glued_to_a_good_origin(before in "[ -~]{0,8}", after in "[ -~]{0,8}") {
            prop_assume!(!(before.is_empty() && matches!(after.as_str(), "" | ":443" | ":0443" | ":00443")));
            let text = format!("{before}https://good.com{after}");
            prop_assert!(!origins(&["https://good.com"]).allows(Some(&text), None), "{}", text);
        }

        /// A wildcard needs the dot and something before it.
        #[test]
        fn a_wildcard_is_about_whole_labels(left in "[a-z0-9-]{1,12}") {
            let rules = origins(&["https://*.good.com"]);
            let (below, beside) = (format!("https://{left}.good.com"), format!("https://{left}good.com"));
            prop_assert!(rules.allows(Some(&below), None));
            prop_assert!(!rules.allows(Some(&beside), None));
        }
    }
}
