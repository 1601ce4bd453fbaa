//! The names of the keys beside a list. Called by whoever touches a list in Redis.

use crate::chat::names::BadName;

/// The names of a list's keys. All share one Cluster slot: the list's own hash tag is kept, and a name
/// without one becomes the tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListKeys {
    list: String,
    base: String,
}

impl ListKeys {
    /// Refuses names that have braces but no usable hash tag, because the keys beside them would land in
    /// other slots.
    pub fn new(list: &str) -> Result<ListKeys, BadName> {
        if list.is_empty() || list.len() > 512 || list.chars().any(char::is_control) {
            return Err(BadName(
                "the name of a list has 1 to 512 bytes and no control characters; rename it",
            ));
        }
        let tag = list.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        let base = match tag {
            Some((tag, _)) if !tag.is_empty() => list.to_owned(),
            None if !list.contains(['{', '}']) => format!("{{{list}}}"),
            _ => {
                return Err(BadName(
                    "braces in the name of a list must hold a hash tag, as in a{b}; take them out",
                ));
            }
        };
        Ok(ListKeys { list: list.to_owned(), base })
    }

    /// The list that backends push into.
    pub fn list(&self) -> &str {
        &self.list
    }

    /// The dead letters.
    pub fn dead(&self) -> String {
        format!("{}:dead", self.base)
    }

    /// The register of nodes, by the second they were last seen.
    pub fn nodes(&self) -> String {
        format!("{}:nodes", self.base)
    }

    /// The name of the node that empties the list, where one does so at a time.
    pub fn turn(&self) -> String {
        format!("{}:turn", self.base)
    }

    /// The process that reads for a group of consumers, where the key is a stream.
    pub fn reader(&self, group: &str) -> String {
        format!("{}:reader:{group}", self.base)
    }

    /// A node's lease.
    pub fn lease(&self, node: &str) -> String {
        format!("{}:lease:{node}", self.base)
    }

    /// What a node has just been handed by a blocking wait.
    pub fn handed(&self, node: &str) -> String {
        format!("{}:in:{node}", self.base)
    }

    /// What a node works on: entry id → item.
    pub fn working(&self, node: &str) -> String {
        format!("{}:proc:{node}", self.base)
    }
}

#[cfg(test)]
mod tests {
    use redis::cluster_routing::Slot;

    use super::*;

    #[test]
    fn all_keys_of_a_list_share_its_slot() {
        for name in ["message_queue", "app:{jobs}:high", "{x}", "a b", "größe", "a{b}c{d}"] {
            let keys = ListKeys::new(name).unwrap();
            let node = "host{1}:8080";
            let slot = Slot::for_key(keys.list());
            let of_node = [keys.lease(node), keys.handed(node), keys.working(node)];
            for key in [keys.dead(), keys.nodes(), keys.turn(), keys.reader("g")].into_iter().chain(of_node) {
                assert_eq!(Slot::for_key(&key), slot, "{key}");
            }
        }
        assert_eq!(ListKeys::new("message_queue").unwrap().dead(), "{message_queue}:dead");
        assert_eq!(ListKeys::new("app:{jobs}:high").unwrap().dead(), "app:{jobs}:high:dead");
    }

    #[test]
    fn names_that_would_scatter_are_refused() {
        for name in ["", "a{}b", "a}b", "a{b", "a\nb", &"x".repeat(513)] {
            assert!(ListKeys::new(name).is_err(), "{name:?}");
        }
    }
}
