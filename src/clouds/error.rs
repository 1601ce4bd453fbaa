//! Why a service of a cloud did not do what it was asked. Made by those who ask, read by sources and targets. Knows
//! no service.

use std::fmt;

/// Longest text of a service that is told.
const TEXT_CHARS_MAX: usize = 300;

/// What came instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloudError {
    /// Nobody answered, or nobody who can be understood.
    Away(String),
    /// The service says no, with a word for it and a text.
    Refused {
        /// The service's own word, such as `NOT_FOUND` or `QueueDoesNotExist`.
        code: String,
        /// The service's own words, or what stands for them; cut when they are long.
        text: String,
    },
}

impl CloudError {
    /// Nobody answered, for this reason.
    pub fn away(why: impl fmt::Display) -> CloudError {
        CloudError::Away(why.to_string())
    }

    /// The service says no.
    pub fn refused(code: impl Into<String>, text: &str) -> CloudError {
        CloudError::Refused { code: code.into(), text: text.chars().take(TEXT_CHARS_MAX).collect() }
    }

    /// The same, with what was being done before it.
    pub fn during(self, action: &str) -> CloudError {
        match self {
            CloudError::Away(why) => CloudError::Away(format!("{action}: {why}")),
            CloudError::Refused { code, text } => {
                CloudError::Refused { code, text: format!("{action}: {text}") }
            }
        }
    }

    /// The service's word for it, if it has answered.
    pub fn code(&self) -> Option<&str> {
        match self {
            CloudError::Away(_) => None,
            CloudError::Refused { code, .. } => Some(code),
        }
    }
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloudError::Away(why) => f.write_str(why),
            CloudError::Refused { code, text } => write!(f, "{code}: {text}"),
        }
    }
}
