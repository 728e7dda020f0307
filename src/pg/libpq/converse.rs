//! Letting connections talk: sending, waiting and receiving, for all of them at the same time.

use std::ffi::{CStr, c_int};
use std::ptr;
use std::time::Instant;

use pgrx::pg_sys;
use pq_sys::PostgresPollingStatusType;

use super::{Connection, Stage};
use crate::error::{Error, Result};
use crate::pg::background;

/// Says everything that is to be said, over all of these connections at once, until all is answered or the deadline
/// is over: a connection that is not done by then is given up. What became of each, [`Connection::answers`] says.
///
/// An interrupt ends it with an error that unwinds; connections are then closed by being dropped, and the server there
/// rolls back what was not committed.
pub fn converse(connections: &mut [&mut Connection], deadline: Instant) -> Result<()> {
    talk(connections, deadline)?;
    for connection in connections.iter_mut() {
        connection.require_settled();
    }
    Ok(())
}

/// As [`converse`], but those that are not done by then can go on later.
pub fn talk(connections: &mut [&mut Connection], deadline: Instant) -> Result<()> {
    let mut woken = false;
    loop {
        let mut waits = Vec::new();
        for (n, connection) in connections.iter_mut().enumerate() {
            let events = connection.advance();
            if !connection.is_settled() {
                // SAFETY: a live connection; the number is not used as a file here.
                let socket = unsafe { pq_sys::PQsocket(connection.raw) };
                if socket < 0 {
                    connection.break_off();
                } else {
                    waits.push((n, socket, events));
                }
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if waits.is_empty() || left.is_zero() {
            break;
        }
        let milliseconds = i64::try_from(left.as_millis()).unwrap_or(i64::MAX).max(1);
        let occurred = wait(&waits, milliseconds)?;
        woken |= occurred.woken;
        for n in occurred.ready {
            if let Some(connection) = connections.get_mut(n) {
                connection.is_ready = true;
            }
        }
    }
    if woken {
        background::wake_myself();
    }
    Ok(())
}

/// What a wait ended with.
pub(super) struct Occurred {
    /// Whether somebody woke this process.
    pub(super) woken: bool,
    /// The connections whose sockets are ready.
    pub(super) ready: Vec<usize>,
}

/// Waits until one of the sockets (of so-many-th connections, for these events) is ready, the time is over, or somebody
/// wakes this process; serves interrupts.
pub(super) fn wait(sockets: &[(usize, c_int, u32)], milliseconds: i64) -> Result<Occurred> {
    // Before the sockets there are the latch and the postmaster.
    let count = c_int::try_from(sockets.len() + 2)
        .map_err(|_| Error::Internal("too many connections".to_owned()))?;
    let mut events = vec![pg_sys::WaitEvent::default(); sockets.len() + 2];
    // SAFETY: the set is freed below, or leaks a file descriptor of this process if PostgreSQL raises an error while
    // it is filled, which it does only when it is out of memory or files. Sockets and latch are valid while it exists,
    // and there is room for as many events as it has members.
    let occurred = unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let set = pg_sys::CreateWaitEventSet(pg_sys::CurrentMemoryContext, count);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let set = pg_sys::CreateWaitEventSet(ptr::null_mut(), count);
        let null = ptr::null_mut();
        pg_sys::AddWaitEventToSet(set, pg_sys::WL_LATCH_SET, -1, pg_sys::MyLatch, null);
        pg_sys::AddWaitEventToSet(set, pg_sys::WL_EXIT_ON_PM_DEATH, -1, ptr::null_mut(), null);
        for (_, socket, events) in sockets {
            pg_sys::AddWaitEventToSet(set, *events, *socket, ptr::null_mut(), null);
        }
        let occurred = pg_sys::WaitEventSetWait(
            set,
            milliseconds,
            events.as_mut_ptr(),
            count,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::FreeWaitEventSet(set);
        occurred
    };
    events.truncate(usize::try_from(occurred).unwrap_or(0));
    let woken = events
        .iter()
        .any(|event| event.events & pg_sys::WL_LATCH_SET != 0);
    if woken {
        background::reset_latch();
    }
    background::check_for_interrupts();
    let socket_of = |event: &pg_sys::WaitEvent| {
        let position = usize::try_from(event.pos).ok()?.checked_sub(2)?;
        sockets.get(position).map(|(n, _, _)| *n)
    };
    Ok(Occurred {
        woken,
        ready: events.iter().filter_map(socket_of).collect(),
    })
}

impl Connection {
    /// Gives the server up, unless all was answered.
    pub fn require_settled(&mut self) {
        if !self.is_settled() {
            self.give_up("no answer within repart.node_timeout");
        }
    }

    /// Does what can be done without waiting; returns for which events of its socket to wait next.
    pub(super) fn advance(&mut self) -> u32 {
        loop {
            match self.stage {
                Stage::Broken => return 0,
                // libpq must not be asked before its socket is ready.
                Stage::Connecting(events) if !self.is_ready => return events,
                Stage::Connecting(_) => {
                    self.is_ready = false;
                    if let Some(events) = self.connect() {
                        return events;
                    }
                }
                Stage::Idle => {
                    let Some(next) = self.said.pop_front() else {
                        return 0;
                    };
                    self.send(&next);
                }
                Stage::Asked => {
                    if let Some(events) = self.receive() {
                        return events;
                    }
                }
            }
        }
    }

    /// Goes on connecting.
    fn connect(&mut self) -> Option<u32> {
        // SAFETY: a connection that was begun; non-blocking but for the resolution of names.
        let status = unsafe { pq_sys::PQconnectPoll(self.raw) };
        let events = match status {
            PostgresPollingStatusType::PGRES_POLLING_READING => pg_sys::WL_SOCKET_READABLE,
            PostgresPollingStatusType::PGRES_POLLING_WRITING => pg_sys::WL_SOCKET_WRITEABLE,
            PostgresPollingStatusType::PGRES_POLLING_OK => {
                // SAFETY: a connection that is made.
                if unsafe { pq_sys::PQsetnonblocking(self.raw, 1) } == 0 {
                    self.stage = Stage::Idle;
                } else {
                    self.break_off();
                }
                return None;
            }
            _ => {
                self.break_off();
                return None;
            }
        };
        self.stage = Stage::Connecting(events);
        Some(events)
    }

    pub(super) fn send(&mut self, sql: &CStr) {
        // SAFETY: a string that outlives the call, which copies it.
        if unsafe { pq_sys::PQsendQuery(self.raw, sql.as_ptr()) } == 1 {
            self.stage = Stage::Asked;
        } else {
            self.break_off();
        }
    }

    /// Sends what is left to be sent, and takes what has arrived.
    fn receive(&mut self) -> Option<u32> {
        // SAFETY: a connection that is made; neither call waits.
        let (received, unsent) =
            unsafe { (pq_sys::PQconsumeInput(self.raw), pq_sys::PQflush(self.raw)) };
        if received == 1 && self.take_results() {
            if !self.is_broken() {
                self.stage = Stage::Idle;
            }
            // A server that ends the session says why in a last result.
            // SAFETY: asks for what libpq knows.
            let lost =
                unsafe { pq_sys::PQstatus(self.raw) } != pq_sys::ConnStatusType::CONNECTION_OK;
            if lost && !self.is_broken() {
                self.break_off();
            }
            return None;
        }
        if received == 0 || unsent < 0 {
            self.break_off();
            return None;
        }
        Some(match unsent {
            0 => pg_sys::WL_SOCKET_READABLE,
            _ => pg_sys::WL_SOCKET_READABLE | pg_sys::WL_SOCKET_WRITEABLE,
        })
    }
}
