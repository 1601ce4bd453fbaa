//! What a panic may take down. Code that serves one session may panic and end that session; a panic
//! anywhere else ends the process, because a worker that has lost its hub would be deaf and look alive.
//! The wiring installs the hook; sessions and handler calls mark their code.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs code whose panic concerns one session only. Returns none when it panicked.
pub fn contained<T>(code: impl FnOnce() -> T) -> Option<T> {
    let before = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(code)).ok();
    CONTAINED.set(before);
    result
}

/// From now on a panic outside [`contained`] ends the process with the message on standard error.
pub fn install_hook() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        if !CONTAINED.get() {
            eprintln!(
                "roomcast: a panic outside session code; the process ends so that clients resume elsewhere"
            );
            std::process::abort();
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contained_panic_is_an_answer() {
        assert_eq!(contained(|| 7), Some(7));
        assert_eq!(contained(|| -> u32 { panic!("a handler broke") }), None);
        assert!(!CONTAINED.get());
    }
}
