//! One stay at one server: the connections to the primary of a partition, checked to lead to the same process, and
//! the subscription through which everything for this node comes. Opened by the partition, thrown away as a
//! whole at the first trouble.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, PushInfo, RedisResult, Value};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::engines::redis::keys::Keys;
use crate::engines::shared::NodeSlot;
use crate::redis_link::RedisLink;
use crate::redis_link::nodes::Host;

/// Longest that a command may take before the server counts as dead.
pub const RESPONSE_MAX: Duration = Duration::from_secs(2);

/// The connections of a stay.
pub struct Session {
    /// For what gives places; waits for replicas happen on it.
    pub publish: MultiplexedConnection,
    /// For everything else.
    pub control: MultiplexedConnection,
    /// What comes for this node.
    pub pushes: UnboundedReceiver<PushInfo>,
    /// Names the server process.
    pub run_id: String,
    /// The channel that proves this session.
    pub channel: String,
    /// Replicas that were connected when it was last looked.
    pub replicas: usize,
    /// Where the server is.
    pub host: Host,
    /// Ends the subscription when it is dropped.
    inbox: MultiplexedConnection,
}

impl Session {
    /// Finds the primary that has `key` and connects. Also tells what other servers there are; `more` are asked for
    /// the primary too.
    pub async fn open(link: &RedisLink, key: &str, more: &[Host]) -> RedisResult<(Session, Vec<Host>)> {
        let primary = link.primary_of(key, more).await?;
        let host = primary.host;
        let (sender, pushes) = unbounded_channel();
        let (publish, control, inbox) = tokio::join!(
            link.connect_to(&host, RESPONSE_MAX, None),
            link.connect_to(&host, RESPONSE_MAX, None),
            link.connect_to(&host, RESPONSE_MAX, Some(sender)),
        );
        let (mut publish, mut control, mut inbox) = (publish?, control?, inbox?);
        let (replicas, run_id) = who(&mut publish).await?;
        for connection in [&mut control, &mut inbox] {
            if who(connection).await?.1 != run_id {
                return Err((ErrorKind::Io, "the server was replaced while it was connected to").into());
            }
        }
        let session =
            Session { publish, control, pushes, run_id, channel: String::new(), replicas, host, inbox };
        Ok((session, primary.others))
    }

    /// Subscribes what is for this node. `sharded`: in a Cluster.
    pub async fn subscribe(&mut self, keys: &Keys, node: NodeSlot, sharded: bool) -> RedisResult<()> {
        self.channel = keys.session(node, rand::random());
        let subscribe = if sharded { "SSUBSCRIBE" } else { "SUBSCRIBE" };
        for name in [&keys.inbox(node), &self.channel] {
            self.inbox.send_packed_command(redis::cmd(subscribe).arg(name)).await?.extract_error()?;
        }
        let count = if sharded { "SHARDNUMSUB" } else { "NUMSUB" };
        let (_, listening): (String, u64) =
            redis::cmd("PUBSUB").arg(count).arg(&self.channel).query_async(&mut self.control).await?;
        if listening == 0 {
            return Err((ErrorKind::Io, "the server does not know of the subscription").into());
        }
        Ok(())
    }
}

/// Connected replicas and run id of the primary at the other end.
pub async fn who(connection: &mut MultiplexedConnection) -> RedisResult<(usize, String)> {
    let (role, info): (Value, String) =
        redis::pipe().cmd("ROLE").cmd("INFO").arg("server").query_async(connection).await?;
    let replicas = replicas_of(role)?;
    let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    match run_id {
        Some(run_id) => Ok((replicas, run_id.trim().to_owned())),
        None => Err((ErrorKind::Io, "INFO server names no run_id; this node must tell servers apart").into()),
    }
}

/// How many replicas a primary has; an error for any other server.
fn replicas_of(role: Value) -> RedisResult<usize> {
    let (role, rest) = match role {
        Value::Array(mut parts) if !parts.is_empty() => (parts.remove(0), parts),
        other => (other, Vec::new()),
    };
    let role: String = redis::from_redis_value(role)?;
    if role != "master" {
        return Err((ErrorKind::Io, "this server is no primary but a", role).into());
    }
    match rest.into_iter().nth(1) {
        Some(Value::Array(replicas)) => Ok(replicas.len()),
        _ => Ok(0),
    }
}
