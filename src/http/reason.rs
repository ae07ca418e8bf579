//! Why a request was refused or failed: one stable token, one code, one status.
//!
//! Reasons are declared beside their cause (`pub const TOKEN_EXPIRED: Reason = …`); a test reads the sources
//! and checks that tokens and codes are unique, in range, and have a page in the manual.

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client sent something that is refused.
    Client,
    /// The upstream failed or misbehaved.
    Upstream,
    /// Ringwall itself could not do its work.
    Ringwall,
}

/// A stable reason: the token appears in logs and metrics, the code in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// `[a-z0-9_]`, at most 32 bytes, subject first.
    pub token: &'static str,
    /// The number of `RW-nnnn`.
    pub code: u16,
    /// The HTTP status of the answer.
    pub status: u16,
    /// A short title for people, without detail of the inside.
    pub title: &'static str,
    /// Who is at fault.
    pub fault: Fault,
}

impl Reason {
    /// A reason caused by what the client sent.
    pub const fn client(token: &'static str, code: u16, status: u16, title: &'static str) -> Reason {
        Reason { token, code, status, title, fault: Fault::Client }
    }

    /// A reason caused by the upstream.
    pub const fn upstream(token: &'static str, code: u16, status: u16, title: &'static str) -> Reason {
        Reason { token, code, status, title, fault: Fault::Upstream }
    }

    /// A reason within Ringwall.
    pub const fn ringwall(token: &'static str, code: u16, status: u16, title: &'static str) -> Reason {
        Reason { token, code, status, title, fault: Fault::Ringwall }
    }
}
