//! What the door tells clients that ask who it is, before or beside their pushes.
//! Part of a connection's mind, apart from what reaches the rooms.

use bytes::Bytes;

use super::{DoorSession, REDIS_VERSION, shown};
use crate::sources::door_commands::{COMMANDS, CommandInfo, find};

impl DoorSession {
    pub(super) fn greet(&mut self) {
        let (id, replies) = (self.id, &mut self.replies);
        replies.map(7);
        for (key, value) in
            [("server", "redis"), ("version", REDIS_VERSION), ("mode", "standalone"), ("role", "master")]
        {
            replies.bulk(key.as_bytes());
            replies.bulk(value.as_bytes());
        }
        replies.bulk(b"proto");
        replies.integer(if replies.resp3 { 3 } else { 2 });
        replies.bulk(b"id");
        replies.integer(id as i64);
        replies.bulk(b"modules");
        replies.array(0);
    }

    pub(super) fn client(&mut self, rest: &[Bytes]) {
        match (rest[0].to_ascii_lowercase().as_slice(), &rest[1..]) {
            (b"setname", [name]) => {
                self.client_name = name.clone();
                self.replies.simple("OK");
            }
            (b"setinfo" | b"no-evict" | b"no-touch", _) => self.replies.simple("OK"),
            (b"getname", []) if self.client_name.is_empty() => self.replies.null(),
            (b"getname", []) => self.replies.bulk(&self.client_name),
            (b"id", []) => self.replies.integer(self.id as i64),
            (b"info" | b"list", _) => {
                let (name, resp) = (shown(&self.client_name), if self.replies.resp3 { 3 } else { 2 });
                let line = format!("id={} laddr={} name={name} db=0 resp={resp}\n", self.id, self.address);
                self.replies.bulk(line.as_bytes());
            }
            _ => self
                .replies
                .error(&format!("ERR unknown subcommand '{}' of CLIENT at Roomcast's door", shown(&rest[0]))),
        }
    }

    pub(super) fn info(&mut self) {
        let text = format!(
            "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nroomcast_version:{}\r\n\
             # Persistence\r\nloading:0\r\n# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\
             # Cluster\r\ncluster_enabled:0\r\n",
            env!("CARGO_PKG_VERSION")
        );
        self.replies.bulk(text.as_bytes());
    }

    pub(super) fn commands(&mut self, rest: &[Bytes]) {
        match rest.first().map(|word| word.to_ascii_lowercase()).as_deref() {
            None => self.describe(COMMANDS.iter().map(Some)),
            Some(b"count") => self.replies.integer(COMMANDS.len() as i64),
            Some(b"docs") => self.replies.map(0),
            Some(b"info") => self.describe(rest[1..].iter().map(|name| find(name))),
            Some(b"list") => {
                self.replies.array(COMMANDS.len());
                COMMANDS.iter().for_each(|command| self.replies.bulk(command.name.as_bytes()));
            }
            Some(_) => self.replies.error("ERR unknown subcommand of COMMAND at Roomcast's door"),
        }
    }

    fn describe<'a>(&mut self, commands: impl ExactSizeIterator<Item = Option<&'a CommandInfo>>) {
        self.replies.array(commands.len());
        for command in commands {
            let Some(command) = command else {
                self.replies.null();
                continue;
            };
            self.replies.array(6);
            self.replies.bulk(command.name.as_bytes());
            self.replies.integer(command.arity);
            self.replies.array(1);
            self.replies.simple(if command.writes { "write" } else { "fast" });
            for number in [command.key, command.key, command.key.signum()] {
                self.replies.integer(number);
            }
        }
    }

    pub(super) fn config(&mut self, rest: &[Bytes]) {
        if !rest[0].eq_ignore_ascii_case(b"get") {
            return self.replies.error("ERR CONFIG: the door is set up in config.toml, under [queue.door]");
        }
        let known =
            [("save", ""), ("appendonly", "no"), ("databases", "1"), ("maxmemory", "0"), ("timeout", "0")];
        let asked: Vec<_> = known
            .iter()
            .filter(|(key, _)| rest[1..].iter().any(|asked| asked.eq_ignore_ascii_case(key.as_bytes())))
            .collect();
        self.replies.map(asked.len());
        for (key, value) in asked {
            self.replies.bulk(key.as_bytes());
            self.replies.bulk(value.as_bytes());
        }
    }

    /// A cluster of one node that has all slots, for clients that insist on a cluster.
    pub(super) fn cluster(&mut self, rest: &[Bytes]) {
        let (host, port) = (self.address.ip().to_string(), self.address.port());
        let node = format!("{:040x}", 1);
        match rest[0].to_ascii_lowercase().as_slice() {
            b"slots" => {
                self.replies.array(1);
                self.replies.array(3);
                self.replies.integer(0);
                self.replies.integer(16_383);
                self.replies.array(3);
                self.replies.bulk(host.as_bytes());
                self.replies.integer(port.into());
                self.replies.bulk(node.as_bytes());
            }
            b"nodes" => {
                let line = format!("{node} {host}:{port}@{port} myself,master - 0 0 1 connected 0-16383\n");
                self.replies.bulk(line.as_bytes());
            }
            b"myid" => self.replies.bulk(node.as_bytes()),
            b"info" => self
                .replies
                .bulk(b"cluster_enabled:1\r\ncluster_state:ok\r\ncluster_slots_assigned:16384\r\n"),
            other => self
                .replies
                .error(&format!("ERR unknown subcommand '{}' of CLUSTER at Roomcast's door", shown(other))),
        }
    }
}
