//! Where the names of keys and servers come from: the environment of this process, or of a test. Called by whoever
//! looks for keys. Knows no variable's name.

/// The value of a variable of the environment; none: it is not there.
pub type Environment = fn(&str) -> Option<String>;

/// A variable of this process's environment, if it is there and not empty.
pub fn of_this_process(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
