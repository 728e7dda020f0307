//! Connections to other servers, over libpq: non-blocking, waited for together with this process' latch, so that
//! interrupts are served and nothing waits longer than it was told to. One connection or many: [`converse`] lets all
//! of them talk at the same time, so that a slow server delays nobody but its own answer.
//!
//! The one thing that libpq itself waits for is the resolution of a host's name: give `hostaddr`, or a name that is
//! found locally, where a name server can be away.

mod converse;
mod copy;
mod result;

use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;

use pgrx::pg_sys;
use pq_sys::{ConnStatusType, PGTransactionStatusType, PGconn};

pub use converse::{converse, talk};
pub use copy::Patience;
pub use result::Answer;

use crate::error::{Error, Result};

/// Options whose values must appear nowhere.
const SECRETS: [&str; 3] = ["password", "sslpassword", "oauth_client_secret"];

/// How to reach a server: options of libpq, by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Conninfo(Vec<(String, String)>);

impl Conninfo {
    /// From options of which those that libpq does not know (but postgres_fdw does) are left out; of two with the same
    /// name the later counts.
    pub fn new(options: impl IntoIterator<Item = (String, String)>) -> Self {
        let known = known_options();
        let mut all: Vec<(String, String)> = Vec::new();
        for (name, value) in options {
            if known.contains(&name) {
                all.retain(|(other, _)| *other != name);
                all.push((name, value));
            }
        }
        Self(all)
    }

    /// Adds an option unless it is given already.
    pub fn or(mut self, name: &str, value: &str) -> Self {
        if !self.0.iter().any(|(other, _)| other == name) {
            self.0.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// What must appear in no message.
    fn secrets(&self) -> Vec<String> {
        let secret = |(name, _): &&(String, String)| SECRETS.contains(&name.as_str());
        let values = self.0.iter().filter(secret).map(|(_, value)| value.clone());
        values.filter(|value| !value.is_empty()).collect()
    }
}

/// The names of the options that libpq knows.
fn known_options() -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: an array that ends with an option without a name, freed once its strings are copied.
    unsafe {
        let options = pq_sys::PQconndefaults();
        let mut option = options;
        while !option.is_null() && !(*option).keyword.is_null() {
            names.push(text((*option).keyword));
            option = option.add(1);
        }
        pq_sys::PQconninfoFree(options);
    }
    names
}

/// The name of this database's encoding, as libpq takes it.
pub fn database_encoding() -> String {
    // SAFETY: a static string.
    unsafe { text(pg_sys::GetDatabaseEncodingName()) }
}

/// A C string of libpq or PostgreSQL as ours.
///
/// # Safety
/// It must be null or end with NUL.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(string) }
        .to_string_lossy()
        .into_owned()
}

/// What a connection is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// It is being made; libpq wants to read or write next.
    Connecting(u32),
    /// Nothing was sent that is not answered.
    Idle,
    /// A statement was sent.
    Asked,
    /// It failed, or was refused.
    Broken,
}

/// A connection to a server. It is closed when it is dropped, also by an error that unwinds.
pub struct Connection {
    raw: *mut PGconn,
    /// What errors call the server, such as `node "north"`.
    server: String,
    secrets: Vec<String>,
    stage: Stage,
    /// Whether its socket was found ready.
    is_ready: bool,
    said: VecDeque<CString>,
    /// How many statements were said since the answers were last taken.
    expected: usize,
    answers: Vec<Answer>,
    failure: Option<Error>,
}

impl Connection {
    /// Begins to connect; [`converse`] goes on with it.
    pub fn begin(server: &str, conninfo: &Conninfo) -> Result<Self> {
        let c = |text: &str| {
            CString::new(text)
                .map_err(|_| Error::Internal(format!("an option of {server} contains NUL")))
        };
        let mut names = Vec::new();
        let mut values = Vec::new();
        for (name, value) in &conninfo.0 {
            names.push(c(name)?);
            values.push(c(value)?);
        }
        let ends = |strings: &[CString]| {
            let mut pointers: Vec<*const c_char> = strings.iter().map(|s| s.as_ptr()).collect();
            pointers.push(ptr::null());
            pointers
        };
        let (name_pointers, value_pointers) = (ends(&names), ends(&values));
        // SAFETY: two arrays of the same length that end with a null; libpq copies the strings.
        let raw = unsafe {
            pq_sys::PQconnectStartParams(name_pointers.as_ptr(), value_pointers.as_ptr(), 0)
        };
        if raw.is_null() {
            return Err(Error::Internal("libpq is out of memory".to_owned()));
        }
        let mut connection = Self {
            raw,
            server: server.to_owned(),
            secrets: conninfo.secrets(),
            // As libpq's documentation asks for.
            stage: Stage::Connecting(pg_sys::WL_SOCKET_WRITEABLE),
            is_ready: false,
            said: VecDeque::new(),
            expected: 0,
            answers: Vec::new(),
            failure: None,
        };
        // SAFETY: a connection that was just made; the function lives as long as the library.
        unsafe {
            pq_sys::PQsetNoticeProcessor(raw, Some(ignore_notice), ptr::null_mut());
            if pq_sys::PQstatus(raw) == ConnStatusType::CONNECTION_BAD {
                connection.break_off();
            }
        }
        Ok(connection)
    }

    /// Adds statements to what is to be said: together one transaction, unless they say otherwise.
    pub fn say(&mut self, sql: &str) -> Result<()> {
        let sql = CString::new(sql)
            .map_err(|_| Error::Internal("a statement contains NUL".to_owned()))?;
        self.said.push_back(sql);
        self.expected += 1;
        Ok(())
    }

    /// The answers to all that was said since the last call, at least one to each, or what went wrong. After an error of
    /// one statement, the ones behind it were not said. Of a server that is lost there is never an answer, not even
    /// none: whoever takes silence for "nothing there" or "done" would be wrong.
    pub fn answers(&mut self) -> Result<Vec<Answer>> {
        let answers = std::mem::take(&mut self.answers);
        let expected = std::mem::take(&mut self.expected);
        match self.failure.take() {
            Some(failure) => Err(failure),
            None if self.is_broken() || answers.len() < expected => Err(Error::Unreachable {
                server: self.server.clone(),
                cause: "not everything was answered".to_owned(),
                connected: true,
            }),
            None => Ok(answers),
        }
    }

    /// The last of [`Connection::answers`].
    pub fn last_answer(&mut self) -> Result<Answer> {
        let answers = self.answers()?;
        answers
            .into_iter()
            .next_back()
            .ok_or_else(|| Error::Internal(format!("nothing was asked of {}", self.server)))
    }

    /// Whether the server has been lost, or was never reached.
    pub fn is_broken(&self) -> bool {
        self.stage == Stage::Broken
    }

    /// Whether a transaction is open there, and was not aborted.
    pub fn in_transaction(&self) -> bool {
        // SAFETY: asks for what libpq knows of the connection.
        unsafe { pq_sys::PQtransactionStatus(self.raw) == PGTransactionStatusType::PQTRANS_INTRANS }
    }

    /// Whether there is nothing to wait for.
    pub fn is_settled(&self) -> bool {
        match self.stage {
            Stage::Broken => true,
            Stage::Idle => self.said.is_empty(),
            Stage::Connecting(_) | Stage::Asked => false,
        }
    }

    /// Gives the server up, for the reason that libpq has.
    fn break_off(&mut self) {
        // SAFETY: a message that belongs to the connection, copied at once.
        let message = unsafe { text(pq_sys::PQerrorMessage(self.raw)) };
        self.give_up(message.trim());
    }

    /// Gives the server up.
    fn give_up(&mut self, cause: &str) {
        let cause = if cause.is_empty() {
            "the connection was closed".to_owned()
        } else {
            self.without_secrets(cause)
        };
        let connected = !matches!(self.stage, Stage::Connecting(_));
        self.stage = Stage::Broken;
        self.said.clear();
        self.failure.get_or_insert(Error::Unreachable {
            server: self.server.clone(),
            cause,
            connected,
        });
    }

    fn without_secrets(&self, message: &str) -> String {
        let mut message = message.to_owned();
        for secret in &self.secrets {
            message = message.replace(secret.as_str(), "********");
        }
        message
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: made by libpq, and freed here only. It does not wait: the connection is non-blocking, or not made.
        unsafe { pq_sys::PQfinish(self.raw) }
    }
}

/// Otherwise libpq would write what a server says besides to this server's log.
unsafe extern "C" fn ignore_notice(_argument: *mut c_void, _message: *const c_char) {}
