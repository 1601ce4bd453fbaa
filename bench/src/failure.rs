//! Why a run could not be made, and the exit code that tells so. A run that was made and found faults is no failure of
//! this kind; the report counts those.

use std::fmt;
use std::io;

#[derive(Debug)]
pub enum Failure {
    /// Something went wrong on the way (exit code 1).
    Run(String),
    /// The command line asks for something that cannot be (exit code 2).
    Usage(String),
    /// A program or a server that is needed is not there (exit code 69).
    Missing(String),
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Run(_) => 1,
            Self::Usage(_) => 2,
            Self::Missing(_) => 69,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(text) | Self::Usage(text) | Self::Missing(text) => out.write_str(text),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Run(error.to_string())
    }
}
