//! Loops over queues of clouds: a target whose entries this server would take in again. Called by the check of the
//! configuration, which looks at Redis itself. Knows names alone, and tells only what they make plain; opens nothing.

use std::collections::BTreeSet;

use url::Url;

use crate::forwards::settings::{TargetKind, TargetSettings};
use crate::sources::source_settings::{SourceKind, SourceSettings};

/// Port of NATS where an address names none.
const NATS_PORT: &str = "4222";

/// What is wrong with the first target from which entries would come back in; none: nothing that names show.
pub fn complaint(targets: &[TargetSettings], sources: &[SourceSettings]) -> Option<String> {
    targets.iter().find_map(|target| {
        let source = sources.iter().find(|source| leads_back(target, source))?;
        let (what, other) = match target.kind {
            TargetKind::Nats => ("subject", "subject, or another subject for the source"),
            _ => ("queue", "queue"),
        };
        Some(format!(
            "forward.targets: {:?}: queue.sources {:?} takes items from the same {what}, so entries would come back in \
             for ever; choose another {other}",
            target.name, source.name
        ))
    })
}

fn leads_back(target: &TargetSettings, source: &SourceSettings) -> bool {
    match (target.kind, source.kind) {
        (TargetKind::Sqs, SourceKind::Sqs) => {
            let differ = |one: &str, other: &str| !one.is_empty() && !other.is_empty() && one != other;
            let same = queue(&target.url).is_some_and(|queue_of| queue(&source.url) == Some(queue_of));
            // Stand-ins for tests may have the same names of queues.
            same && !differ(target.endpoint.trim_end_matches('/'), source.endpoint.trim_end_matches('/'))
        }
        (TargetKind::Nats, SourceKind::Nats) => {
            !servers(&target.url).is_disjoint(&servers(&source.url)) && takes(source, &target.subject)
        }
        // Which topic a subscription belongs to is known to Google alone.
        _ => false,
    }
}

/// A queue of SQS: its server, and its path without a slash at the end.
fn queue(url: &str) -> Option<(String, String)> {
    let url = Url::parse(url).ok()?;
    let port = url.port_or_known_default().unwrap_or_default();
    Some((format!("{}:{port}", url.host_str()?), url.path().trim_end_matches('/').to_owned()))
}

/// Hosts and ports of a list of NATS servers.
fn servers(urls: &str) -> BTreeSet<String> {
    let server = |url: &str| {
        let rest = url.trim().split_once("://").map_or(url.trim(), |(_, rest)| rest);
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host).trim_end_matches('/').to_lowercase();
        let has_port =
            host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|digit| digit.is_ascii_digit()));
        if has_port { host } else { format!("{host}:{NATS_PORT}") }
    };
    urls.split(',').filter(|url| !url.trim().is_empty()).map(server).collect()
}

/// Whether a source takes what is said under a subject. A stream that was made without subjects takes that of its name.
fn takes(source: &SourceSettings, subject: &str) -> bool {
    match source.subject.as_str() {
        "" => source.stream == subject,
        pattern => matches(pattern, subject),
    }
}

/// Whether a subject fits a pattern: `*` is one word, `>` at the end is one or more.
/// <https://docs.nats.io/nats-concepts/subjects#wildcards>
fn matches(pattern: &str, subject: &str) -> bool {
    let mut words = subject.split('.');
    for part in pattern.split('.') {
        match (part, words.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(word)) if part == word => {}
            _ => return false,
        }
    }
    words.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, source: &str) -> Option<String> {
        let target = toml::from_str(&format!("name = \"out\"\n{target}")).unwrap();
        let source = toml::from_str(&format!("name = \"in\"\n{source}")).unwrap();
        complaint(&[target], &[source])
    }

    #[test]
    fn a_queue_of_sqs_that_is_taken_from_is_no_target() {
        let sqs = |url: &str, endpoint: &str| {
            format!("kind = \"sqs\"\nregion = \"eu-west-1\"\nurl = \"{url}\"\nendpoint = \"{endpoint}\"")
        };
        let jobs = "https://sqs.eu-west-1.amazonaws.com/1/jobs";
        let error =
            check(&sqs(jobs, ""), &sqs("https://SQS.eu-west-1.amazonaws.com:443/1/jobs/", "")).unwrap();
        for word in ["forward.targets: \"out\"", "queue.sources \"in\"", "come back in"] {
            assert!(error.contains(word), "{error}");
        }
        assert!(check(&sqs(jobs, "http://127.0.0.1:9324"), &sqs(jobs, "")).is_some());
        assert_eq!(check(&sqs(jobs, "http://127.0.0.1:1"), &sqs(jobs, "http://127.0.0.1:2")), None);
        for other in
            ["https://sqs.eu-west-1.amazonaws.com/1/jobs.fifo", "https://sqs.eu-west-2.amazonaws.com/1/jobs"]
        {
            assert_eq!(check(&sqs(jobs, ""), &sqs(other, "")), None, "{other}");
        }
    }

    #[test]
    fn a_subject_of_nats_that_is_taken_is_no_target() {
        let target =
            |url: &str, subject: &str| format!("kind = \"nats\"\nurl = \"{url}\"\nsubject = \"{subject}\"");
        let source = |url: &str, subject: &str| {
            format!("kind = \"nats\"\nurl = \"{url}\"\nstream = \"orders\"\nsubject = \"{subject}\"")
        };
        let here = "nats://user:pw@h:4222";
        for (subject, taken) in [
            ("a.b", "a.b"),
            ("a.b", "a.*"),
            ("a.b.c", "a.>"),
            ("a.b", ">"),
            // A stream without subjects of its own takes the one of its name.
            ("orders", ""),
        ] {
            let error = check(&target(here, subject), &source("nats://other:4222,nats://H", taken)).unwrap();
            assert!(error.contains("queue.sources \"in\"") && !error.contains("pw"), "{error}");
        }
        for (subject, taken) in [("a.b", "a"), ("a", "a.>"), ("a.b.c", "a.*"), ("a.b", "b.a"), ("a.b", "")] {
            assert_eq!(check(&target(here, subject), &source(here, taken)), None, "{subject} {taken}");
        }
        assert_eq!(check(&target(here, "a"), &source("nats://h:4223", "a")), None, "another server");
    }

    #[test]
    fn what_names_do_not_show_is_not_refused() {
        let topic = "kind = \"pubsub\"\ntopic = \"projects/p/topics/t\"";
        assert_eq!(check(topic, "kind = \"pubsub\"\nsubscription = \"projects/p/subscriptions/t\""), None);
    }
}
