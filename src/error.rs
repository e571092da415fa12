//! The one error that people see: what failed, on which object, where it was written, why, and what
//! to do next. Modules keep typed errors of their own; they become a [`Fault`] where they leave the
//! engine. It travels over the API as JSON, and its [`Class`] is the exit status.

use serde::{Deserialize, Serialize};

use crate::oci::ReferenceError;

/// What kind of failure this is; each has one exit status (see `docs/OPERATIONS.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// The answer is no: differences found, not converged, timed out, a step failed.
    No,
    /// Wrong usage of the command line.
    Usage,
    /// An invalid manifest or configuration.
    Invalid,
    /// No such object.
    NotFound,
    /// It exists, is in use, locked, or still declared elsewhere.
    Refused,
    /// A registry or the network.
    Registry,
    /// `runc`, a shim or the kernel.
    Runtime,
    /// A bug of ours.
    Bug,
}

impl Class {
    /// The exit status of the command line.
    pub fn exit_status(self) -> u8 {
        match self {
            Class::No => 1,
            Class::Usage => 2,
            Class::Invalid => 3,
            Class::NotFound => 4,
            Class::Refused => 5,
            Class::Registry => 6,
            Class::Runtime => 7,
            Class::Bug => 70,
        }
    }
}

/// A failure, ready to be shown. `message` names the object; no trailing dots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// Its class, and with it the exit status.
    pub class: Class,
    /// What failed, on which object, why.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Where it was written, as `file:line:column`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

impl Fault {
    /// A fault with no place and no help yet.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), help: None, place: None }
    }

    /// The same, with the next step.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same, with the place it was written at.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }
}

impl From<ReferenceError> for Fault {
    fn from(error: ReferenceError) -> Self {
        let fault = Self::new(Class::Usage, error.to_string());
        match error {
            ReferenceError::Short { suggestion, .. } => fault.help(format!("write {suggestion}")),
            _ => fault,
        }
    }
}

/// The result of whatever ends at a person.
pub type Result<T> = std::result::Result<T, Fault>;
