//! Single servers behind an address: which one is the primary now, and plain connections to it. For callers that
//! speak to one server directly and look for it anew after every trouble.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::cluster_routing::Slot;
use redis::{
    AsyncConnectionConfig, ConnectionInfo, ErrorKind, ProtocolVersion, PushInfo, RedisResult, Value,
};
use tokio::sync::mpsc::UnboundedSender;

use crate::redis_link::address::Kind;
use crate::redis_link::{CONNECT_MAX, RedisLink, SENTINEL_MAX, check_primary, tls, within};

/// Host and port of a server.
pub type Host = (String, u16);

/// Where the primary of a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Primary {
    /// There.
    pub host: Host,
    /// Other servers that the Cluster spoke of; they can be asked the next time.
    pub others: Vec<Host>,
}

impl RedisLink {
    /// Whether rooms are spread over several primaries.
    pub fn is_cluster(&self) -> bool {
        self.0.kind == Kind::Cluster
    }

    /// The primary that has `key` now. Sentinels and Cluster nodes are asked all at once; the first answer counts
    /// that leads to a server that says that it is a primary. `more` are asked beside those of the address.
    pub async fn primary_of(&self, key: &str, more: &[Host]) -> RedisResult<Primary> {
        if self.0.kind == Kind::Single {
            return Ok(Primary { host: self.0.hosts[0].clone(), others: Vec::new() });
        }
        let new = |host: &&Host| !self.0.hosts.contains(host);
        let asked: Vec<&Host> = self.0.hosts.iter().chain(more.iter().filter(new)).collect();
        let follow = async |whom: &Host| -> RedisResult<Primary> {
            let found = match &self.0.kind {
                Kind::Sentinel { master } => {
                    Primary { host: self.ask_sentinel(whom, master).await?, others: Vec::new() }
                }
                _ => within(SENTINEL_MAX, "asking a cluster node", self.ask_cluster(whom, key)).await?,
            };
            let mut connection = self.connect_to(&found.host, SENTINEL_MAX, None).await?;
            check_primary(&mut connection).await?;
            Ok(found)
        };
        let mut attempts: FuturesUnordered<_> = asked.into_iter().map(follow).collect();
        let mut trouble = None;
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(found) => return Ok(found),
                Err(error) => trouble = Some(error),
            }
        }
        Err(trouble.unwrap_or_else(|| (ErrorKind::Io, "no server is named").into()))
    }

    /// A new connection to one server, whatever its role. `response` is the longest that a command may take. With
    /// `pushes` it speaks RESP3, and what is published comes there.
    pub async fn connect_to(
        &self,
        host: &Host,
        response: Duration,
        pushes: Option<UnboundedSender<PushInfo>>,
    ) -> RedisResult<MultiplexedConnection> {
        match pushes {
            Some(pushes) => self.connect_listening(host, response, pushes).await,
            None => self.open(self.info(host, true)?, to_one(response)).await,
        }
    }

    /// The same with RESP3; what is published comes to `pushes`, which must not block.
    pub async fn connect_listening(
        &self,
        host: &Host,
        response: Duration,
        pushes: impl AsyncPushSender,
    ) -> RedisResult<MultiplexedConnection> {
        let info = self.info(host, true)?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        self.open(info.set_redis_settings(settings), to_one(response).set_push_sender(pushes)).await
    }

    async fn open(
        &self,
        info: ConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let client = tls::client(info)?;
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        within(CONNECT_MAX, "connecting", connecting).await
    }

    async fn ask_cluster(&self, node: &Host, key: &str) -> RedisResult<Primary> {
        let mut connection = self.connect_to(node, SENTINEL_MAX, None).await?;
        let table: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
        let rows = rows_of(table, node);
        let slot = slot_of(key);
        let owner = rows.iter().find(|row| (row.from..=row.to).contains(&slot));
        let host = owner.and_then(|row| row.hosts.first()).cloned();
        let mut others: Vec<Host> = rows.into_iter().flat_map(|row| row.hosts).collect();
        others.sort_unstable();
        others.dedup();
        match host {
            Some(host) => Ok(Primary { host, others }),
            None => Err((ErrorKind::Io, "no node of the cluster has the slot", slot.to_string()).into()),
        }
    }
}

fn to_one(response: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_MAX))
        .set_response_timeout(Some(response))
}

/// The slot of a key, by the rules of Redis Cluster (the part in braces, if there is one, decides).
pub fn slot_of(key: &str) -> u16 {
    let slot = Slot::for_key(key);
    (0..16_384).find(|number| Slot::new(*number) == Some(slot)).unwrap_or(0)
}

struct Row {
    from: u16,
    to: u16,
    /// The primary first.
    hosts: Vec<Host>,
}

/// The answer to CLUSTER SLOTS. A node that does not know its own address leaves it out: it is the one asked.
fn rows_of(table: Value, asked: &Host) -> Vec<Row> {
    let Value::Array(rows) = table else { return Vec::new() };
    let host_of = |value: Value| -> Option<Host> {
        let Value::Array(parts) = value else { return None };
        let mut parts = parts.into_iter();
        let name: Option<String> = redis::from_redis_value(parts.next()?).ok()?;
        let port: u16 = redis::from_redis_value(parts.next()?).ok()?;
        Some((name.filter(|name| !name.is_empty()).unwrap_or_else(|| asked.0.clone()), port))
    };
    let row_of = |value: Value| -> Option<Row> {
        let Value::Array(parts) = value else { return None };
        let mut parts = parts.into_iter();
        let from = redis::from_redis_value(parts.next()?).ok()?;
        let to = redis::from_redis_value(parts.next()?).ok()?;
        Some(Row { from, to, hosts: parts.filter_map(host_of).collect() })
    };
    rows.into_iter().filter_map(row_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_braces_decide_about_the_slot() {
        assert_eq!(slot_of("foo"), 12_182, "as redis-cli cluster keyslot says");
        assert_eq!(slot_of("a{foo}b"), slot_of("foo"));
    }

    #[test]
    fn the_table_of_a_cluster_is_read() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |host: &str, port| Value::Array(vec![text(host), Value::Int(port), text("id")]);
        let row = Value::Array(vec![Value::Int(0), Value::Int(99), node("", 7000), node("b", 7001)]);
        let rows = rows_of(Value::Array(vec![row, Value::Nil]), &("a".into(), 1));
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].from, rows[0].to), (0, 99));
        assert_eq!(rows[0].hosts, [("a".to_owned(), 7000), ("b".to_owned(), 7001)]);
    }
}
