//! COPY over a connection, and statements that may take long: nobody waits for a server that is gone, and nobody gives
//! up one that is merely busy.

use std::ffi::{CString, c_char, c_int};
use std::ptr;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use pq_sys::{ExecStatusType, PGresult};

use super::converse::wait;
use super::result::Owned;
use super::{Answer, Connection, Conninfo, Stage, converse};
use crate::error::{Error, Result};
use crate::pg::background;

/// For how long to wait for a server.
pub enum Patience<'a> {
    /// Until then, and no longer: somebody waits for us.
    Until(Instant),
    /// As long as the server answers to another connection whenever it has been silent for so long.
    WhileAlive(Duration, &'a Conninfo),
}

/// A wait that may be prolonged.
struct Waiting<'a> {
    patience: &'a Patience<'a>,
    since: Instant,
    woken: bool,
    /// Whether the last wait ended because the socket is ready.
    is_ready: bool,
}

impl<'a> Waiting<'a> {
    fn begin(patience: &'a Patience<'a>) -> Self {
        Self {
            patience,
            since: Instant::now(),
            woken: false,
            is_ready: false,
        }
    }

    /// Waits for the socket; `false` once the server is to be given up.
    fn wait(&mut self, connection: &Connection, events: u32) -> Result<bool> {
        self.is_ready = false;
        let left = match self.patience {
            Patience::Until(deadline) => deadline.saturating_duration_since(Instant::now()),
            Patience::WhileAlive(silence, _) => silence.saturating_sub(self.since.elapsed()),
        };
        if left.is_zero() {
            let Patience::WhileAlive(silence, conninfo) = self.patience else {
                return Ok(false);
            };
            if !is_alive(&connection.server, conninfo, *silence)? {
                return Ok(false);
            }
            self.since = Instant::now();
            return Ok(true);
        }
        // SAFETY: a live connection; the number is not used as a file here.
        let socket = unsafe { pq_sys::PQsocket(connection.raw) };
        if socket < 0 {
            return Ok(false);
        }
        let milliseconds = i64::try_from(left.as_millis()).unwrap_or(i64::MAX).max(1);
        let occurred = wait(&[(0, socket, events)], milliseconds)?;
        self.woken |= occurred.woken;
        self.is_ready = !occurred.ready.is_empty();
        if self.is_ready {
            self.since = Instant::now();
        }
        Ok(true)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.woken {
            background::wake_myself();
        }
    }
}

/// Whether the server answers to a new connection.
fn is_alive(server: &str, conninfo: &Conninfo, limit: Duration) -> Result<bool> {
    let mut probe = Connection::begin(server, conninfo)?;
    probe.say("SELECT 1")?;
    converse(&mut [&mut probe], Instant::now() + limit)?;
    Ok(probe.answers().is_ok())
}

impl Connection {
    /// Says a statement, or several, and waits for the answers.
    pub fn ask(&mut self, sql: &str, patience: &Patience) -> Result<Vec<Answer>> {
        self.say(sql)?;
        let mut waiting = Waiting::begin(patience);
        loop {
            let events = self.advance();
            if self.is_settled() {
                return self.answers();
            }
            if !waiting.wait(self, events)? {
                self.give_up("no answer within repart.node_timeout");
                return self.answers();
            }
            self.is_ready = waiting.is_ready;
        }
    }

    /// Begins to send rows: `sql` is a COPY … FROM STDIN. Nothing else was said that is not answered.
    pub fn begin_copy_in(&mut self, sql: &str, patience: &Patience) -> Result<()> {
        self.begin_copy(sql, ExecStatusType::PGRES_COPY_IN, patience)
    }

    /// Begins to receive rows: `sql` is a COPY … TO STDOUT.
    pub fn begin_copy_out(&mut self, sql: &str, patience: &Patience) -> Result<()> {
        self.begin_copy(sql, ExecStatusType::PGRES_COPY_OUT, patience)
    }

    fn begin_copy(
        &mut self,
        sql: &str,
        expected: ExecStatusType,
        patience: &Patience,
    ) -> Result<()> {
        let sql = CString::new(sql)
            .map_err(|_| Error::Internal("a statement contains NUL".to_owned()))?;
        if self.stage != Stage::Idle || !self.said.is_empty() {
            self.give_up("a COPY was to begin while something else went on");
            return self.failed();
        }
        self.send(&sql);
        let Some(result) = self.next_result(patience)? else {
            return self.failed();
        };
        // SAFETY: a result that lives as long as the call.
        if unsafe { pq_sys::PQresultStatus(result.0) } == expected {
            return Ok(());
        }
        self.take(&result);
        self.finish(patience)
    }

    /// Sends a part of the rows.
    pub fn put(&mut self, bytes: &[u8], patience: &Patience) -> Result<()> {
        let length = c_int::try_from(bytes.len())
            .map_err(|_| Error::Internal("a row is too long".to_owned()))?;
        // SAFETY: libpq copies the bytes.
        let put = unsafe { pq_sys::PQputCopyData(self.raw, bytes.as_ptr().cast(), length) };
        if put != 1 {
            return self.refused(patience);
        }
        self.flush(patience)
    }

    /// Ends sending rows; the rows count once this has returned.
    pub fn end_copy_in(&mut self, patience: &Patience) -> Result<()> {
        // SAFETY: no message means that all is well.
        if unsafe { pq_sys::PQputCopyEnd(self.raw, ptr::null()) } != 1 {
            return self.refused(patience);
        }
        self.flush(patience)?;
        self.finish(patience)
    }

    /// The server ended the COPY: what it says why.
    fn refused(&mut self, patience: &Patience) -> Result<()> {
        self.finish(patience)?;
        self.give_up("the COPY ended early");
        self.failed()
    }

    fn flush(&mut self, patience: &Patience) -> Result<()> {
        let mut waiting = Waiting::begin(patience);
        loop {
            // SAFETY: a connection that is made; does not wait.
            match unsafe { pq_sys::PQflush(self.raw) } {
                0 => return Ok(()),
                1 => {}
                _ => {
                    self.break_off();
                    return self.failed();
                }
            }
            let events = pg_sys::WL_SOCKET_READABLE | pg_sys::WL_SOCKET_WRITEABLE;
            if !waiting.wait(self, events)? {
                self.give_up("it takes no more rows");
                return self.failed();
            }
            // What it says meanwhile must be read, or it may wait for that.
            // SAFETY: as above.
            if unsafe { pq_sys::PQconsumeInput(self.raw) } != 1 {
                self.break_off();
                return self.failed();
            }
        }
    }

    /// The next part of the rows: one row, or the header. `None` after the last.
    pub fn get(&mut self, patience: &Patience) -> Result<Option<Vec<u8>>> {
        let mut waiting = Waiting::begin(patience);
        loop {
            let mut buffer: *mut c_char = ptr::null_mut();
            // SAFETY: a connection inside a COPY; the buffer is copied and freed.
            unsafe {
                match pq_sys::PQgetCopyData(self.raw, &raw mut buffer, 1) {
                    length @ 1.. => {
                        let bytes = std::slice::from_raw_parts(
                            buffer.cast::<u8>(),
                            usize::try_from(length).unwrap_or(0),
                        )
                        .to_vec();
                        pq_sys::PQfreemem(buffer.cast());
                        return Ok(Some(bytes));
                    }
                    0 => {}
                    -1 => {
                        self.finish(patience)?;
                        return Ok(None);
                    }
                    _ => {
                        self.break_off();
                        self.failed()?;
                    }
                }
            }
            if !waiting.wait(self, pg_sys::WL_SOCKET_READABLE)? {
                self.give_up("no rows within repart.node_timeout");
                self.failed()?;
            }
            // SAFETY: does not wait.
            if unsafe { pq_sys::PQconsumeInput(self.raw) } != 1 {
                self.break_off();
                self.failed()?;
            }
        }
    }

    /// Takes the results that are left; the first failure counts.
    fn finish(&mut self, patience: &Patience) -> Result<()> {
        while let Some(result) = self.next_result(patience)? {
            self.take(&result);
            if self.is_broken() {
                return self.failed();
            }
        }
        if !self.is_broken() {
            self.stage = Stage::Idle;
        }
        self.answers.clear();
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Waits for the next result; `None` after the last.
    fn next_result(&mut self, patience: &Patience) -> Result<Option<Owned>> {
        let mut waiting = Waiting::begin(patience);
        loop {
            if self.is_broken() {
                self.failed()?;
            }
            // SAFETY: a connection that is made; nothing of it waits once PQisBusy says 0.
            let result: *mut PGresult = unsafe {
                if pq_sys::PQflush(self.raw) < 0 {
                    self.break_off();
                    continue;
                }
                if pq_sys::PQisBusy(self.raw) == 0 {
                    pq_sys::PQgetResult(self.raw)
                } else {
                    let events = pg_sys::WL_SOCKET_READABLE;
                    if !waiting.wait(self, events)? {
                        self.give_up("no answer within repart.node_timeout");
                    } else if pq_sys::PQconsumeInput(self.raw) != 1 {
                        self.break_off();
                    }
                    continue;
                }
            };
            return Ok((!result.is_null()).then(|| Owned(result)));
        }
    }

    /// What went wrong.
    fn failed(&mut self) -> Result<()> {
        self.expected = 0;
        self.answers.clear();
        Err(self.failure.take().unwrap_or(Error::Unreachable {
            server: self.server.clone(),
            cause: "the connection was given up".to_owned(),
            connected: true,
        }))
    }
}
