//! One GET at a time, for /readyz and /metrics. Nothing here runs while something is measured.

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

/// How long connecting, and each silence within an answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Status and body of `GET path`.
pub fn get(address: SocketAddrV4, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = vec![];
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) =
        text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("an answer without a head"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("an answer without a status"))?;
    Ok((status, body.to_owned()))
}

/// Sum of all samples of one metric in the Prometheus text format, whatever their labels.
pub fn metric(page: &str, name: &str) -> Option<f64> {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    samples.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::metric;

    #[test]
    fn samples_are_summed_over_labels_and_longer_names_left_alone() {
        let page = "# HELP writes_total x\nwrites_total{worker=\"0\"} 3\nwrites_total{worker=\"1\"} 4 1700\n\
                    writes_total_more 9\nplain 2.5\n";
        assert_eq!(metric(page, "writes_total"), Some(7.0));
        assert_eq!(metric(page, "plain"), Some(2.5));
        assert_eq!(metric(page, "absent"), None);
    }
}
