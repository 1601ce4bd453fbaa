//! The scripts that run inside Redis. Loaded at the beginning of every session; called by the partition and by
//! what it starts.

use std::sync::LazyLock;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, RedisResult, Script, Value};

/// Gives places.
pub static PUBLISH: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/publish.lua")));
/// Lets a node hear of rooms.
pub static JOIN: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/join.lua")));
/// Ends that.
pub static LEAVE: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/leave.lua")));
/// Tells Redis what the archive knows of a room.
pub static SEED: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/seed.lua")));
/// A sign of life.
pub static TICK: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/tick.lua")));
/// Begins a repair.
pub static REPAIR_BEGIN: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/repair_begin.lua")));
/// Stages entries.
pub static REPAIR_PUSH: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/repair_push.lua")));
/// A node has staged all it has.
pub static REPAIR_DONE: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/repair_done.lua")));
/// Appends the staged entries of a room.
pub static REPAIR_APPLY: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/repair_apply.lua")));
/// Ends a repair.
pub static REPAIR_FINISH: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/repair_finish.lua")));

/// One script.
pub struct Lua {
    code: &'static str,
    hash: String,
}

impl Lua {
    fn new(code: &'static str) -> Lua {
        Lua { code, hash: Script::new(code).get_hash().to_owned() }
    }

    /// A call with so many keys; keys and further arguments are appended.
    pub fn call(&self, keys: usize) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.hash.as_str()).arg(keys);
        command
    }

    /// Loads it.
    pub async fn load(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        redis::cmd("SCRIPT").arg("LOAD").arg(self.code).query_async(connection).await
    }

    /// Runs a call of this script; loads the script if the server does not have it.
    pub async fn run(&self, connection: &mut MultiplexedConnection, command: &Cmd) -> RedisResult<Value> {
        let answer = connection.req_packed_command(command).await.and_then(Value::extract_error);
        match answer {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                self.load(connection).await?;
                connection.req_packed_command(command).await?.extract_error()
            }
            answer => answer,
        }
    }
}
