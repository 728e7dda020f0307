//! Rows in the format of COPY, out of a query here and into a table here: what lets rows come from, and go to, another
//! server without a connection of this one to itself. PostgreSQL's own COPY can send rows to a function only since
//! version 16, and never those of a query that runs as somebody else.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;

use pgrx::{pg_guard, pg_sys};

use crate::error::{Error, Result};

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As their types send them.
    Binary,
    /// As text: of types whose binary form holds numbers that mean something on one server only.
    Text,
}

impl Format {
    /// As an option of COPY.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Text => "text",
        }
    }
}

/// Bytes that are collected before they are given on.
const CHUNK: usize = 65_536;

/// With what binary rows begin: signature, flags, length of an extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// With what they end.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// Where rows go to.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// A receiver of PostgreSQL's executor with what it needs. PostgreSQL knows its first member only.
#[repr(C)]
struct Receiver<'a, 'b> {
    base: pg_sys::DestReceiver,
    format: Format,
    sink: &'a mut Sink<'b>,
    functions: Vec<pg_sys::FmgrInfo>,
    context: pg_sys::MemoryContext,
    buffer: Vec<u8>,
    error: Option<Error>,
}

/// Runs a query and gives its rows, in the format of COPY, to `sink`; returns how many there were.
pub fn of_query(sql: &str, format: Format, sink: &mut Sink) -> Result<u64> {
    let sql =
        CString::new(sql).map_err(|_| Error::Internal("a statement contains NUL".to_owned()))?;
    let mut receiver = Receiver {
        base: pg_sys::DestReceiver {
            receiveSlot: Some(receive),
            rStartup: Some(start),
            rShutdown: Some(ignore),
            rDestroy: Some(ignore),
            mydest: pg_sys::CommandDest::DestTuplestore,
        },
        format,
        sink,
        functions: Vec::new(),
        context: ptr::null_mut(),
        buffer: Vec::with_capacity(2 * CHUNK),
        error: None,
    };
    if format == Format::Binary {
        receiver.buffer.extend_from_slice(HEADER);
    }
    // SAFETY: inside a transaction, as all our code is. The receiver outlives the call; an SQL error unwinds past it,
    // and the transaction's abort ends SPI and frees the context.
    let (code, rows) = unsafe {
        pg_sys::SPI_connect();
        let options = pg_sys::SPIExecuteOptions {
            dest: (&raw mut receiver).cast(),
            ..pg_sys::SPIExecuteOptions::default()
        };
        let code = pg_sys::SPI_execute_extended(sql.as_ptr(), &raw const options);
        let rows = pg_sys::SPI_processed;
        pg_sys::SPI_finish();
        (code, rows)
    };
    if let Some(error) = receiver.error.take() {
        return Err(error);
    }
    if code < 0 {
        return Err(Error::Internal(format!("a query failed with code {code}")));
    }
    if format == Format::Binary {
        receiver.buffer.extend_from_slice(&TRAILER);
    }
    receiver.flush()?;
    Ok(rows)
}

impl Receiver<'_, '_> {
    fn flush(&mut self) -> Result<()> {
        let outcome = (self.sink)(&self.buffer);
        self.buffer.clear();
        outcome
    }

    /// Adds a row.
    ///
    /// # Safety
    /// As many values and flags as there are functions.
    unsafe fn add(&mut self, values: *const pg_sys::Datum, nulls: *const bool) {
        let count = self.functions.len();
        if self.format == Format::Binary {
            // No table has more than 1600 columns.
            self.buffer.extend_from_slice(&(count as i16).to_be_bytes());
        }
        for n in 0..count {
            // SAFETY: see the contract.
            unsafe {
                let value = (!*nulls.add(n)).then(|| *values.add(n));
                match self.format {
                    Format::Binary => self.add_binary(n, value),
                    Format::Text => self.add_text(n, value),
                }
            }
        }
        if self.format == Format::Text {
            self.buffer.push(b'\n');
        }
    }

    unsafe fn add_binary(&mut self, n: usize, value: Option<pg_sys::Datum>) {
        let (Some(value), Some(function)) = (value, self.functions.get_mut(n)) else {
            self.buffer.extend_from_slice(&(-1_i32).to_be_bytes());
            return;
        };
        // SAFETY: the function sends values of this column; what it returns is not compressed and lives until the
        // context is reset.
        let bytes = unsafe {
            let sent = pg_sys::SendFunctionCall(function, value);
            let length = pgrx::varsize_4b(sent) - pg_sys::VARHDRSZ;
            std::slice::from_raw_parts(pgrx::vardata_4b(sent).cast::<u8>(), length)
        };
        self.buffer
            .extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        self.buffer.extend_from_slice(bytes);
    }

    unsafe fn add_text(&mut self, n: usize, value: Option<pg_sys::Datum>) {
        if n > 0 {
            self.buffer.push(b'\t');
        }
        let (Some(value), Some(function)) = (value, self.functions.get_mut(n)) else {
            self.buffer.extend_from_slice(b"\\N");
            return;
        };
        // SAFETY: the function writes values of this column as strings.
        let text = unsafe { CStr::from_ptr(pg_sys::OutputFunctionCall(function, value)) };
        for byte in text.to_bytes() {
            match byte {
                b'\\' => self.buffer.extend_from_slice(b"\\\\"),
                b'\n' => self.buffer.extend_from_slice(b"\\n"),
                b'\r' => self.buffer.extend_from_slice(b"\\r"),
                b'\t' => self.buffer.extend_from_slice(b"\\t"),
                byte => self.buffer.push(*byte),
            }
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn start(
    this: *mut pg_sys::DestReceiver,
    _operation: c_int,
    columns: pg_sys::TupleDesc,
) {
    // SAFETY: PostgreSQL passes back the receiver of `of_query`, and the columns of its query.
    unsafe {
        let this = &mut *this.cast::<Receiver>();
        this.context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"repart rows".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        for n in 0..(*columns).natts {
            let of_type = pgrx::PgTupleDesc::from_pg_unchecked(columns)
                .get(usize::try_from(n).unwrap_or(0))
                .map_or(pg_sys::InvalidOid, |column| column.atttypid);
            let mut function = pg_sys::InvalidOid;
            let mut is_varlena = false;
            match this.format {
                Format::Binary => {
                    pg_sys::getTypeBinaryOutputInfo(of_type, &raw mut function, &raw mut is_varlena)
                }
                Format::Text => {
                    pg_sys::getTypeOutputInfo(of_type, &raw mut function, &raw mut is_varlena)
                }
            }
            let mut info = pg_sys::FmgrInfo::default();
            pg_sys::fmgr_info_cxt(function, &raw mut info, pg_sys::CurrentMemoryContext);
            this.functions.push(info);
        }
    }
}

/// `false` ends the query.
#[pg_guard]
unsafe extern "C-unwind" fn receive(
    slot: *mut pg_sys::TupleTableSlot,
    this: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: as in `start`; a slot holds as many values as its query has columns.
    unsafe {
        let this = &mut *this.cast::<Receiver>();
        pg_sys::slot_getallattrs(slot);
        pg_sys::MemoryContextReset(this.context);
        let caller = pg_sys::MemoryContextSwitchTo(this.context);
        this.add((*slot).tts_values, (*slot).tts_isnull);
        pg_sys::MemoryContextSwitchTo(caller);
        if this.buffer.len() < CHUNK {
            return true;
        }
        match this.flush() {
            Ok(()) => true,
            Err(error) => {
                this.error = Some(error);
                false
            }
        }
    }
}

unsafe extern "C-unwind" fn ignore(_this: *mut pg_sys::DestReceiver) {}

/// Where rows come from: the next bytes, none after the last.
pub type Supply<'a> = dyn FnMut() -> Result<Option<Vec<u8>>> + 'a;

/// What PostgreSQL's COPY asks for bytes, since it passes nothing of the caller's back.
struct Feed<'a, 'b> {
    supply: &'a mut Supply<'b>,
    left: Vec<u8>,
    at: usize,
}

thread_local! {
    static FEED: Cell<*mut c_void> = const { Cell::new(ptr::null_mut()) };
}

/// Writes rows in the format of COPY to a table here, with all that COPY does: constraints, generated columns, indexes.
/// Returns how many there were.
pub fn into_table(
    table: pg_sys::Oid,
    columns: &[String],
    format: Format,
    supply: &mut Supply,
) -> Result<u64> {
    let mut feed = Feed {
        supply,
        left: Vec::new(),
        at: 0,
    };
    let before = FEED.replace((&raw mut feed).cast());
    // SAFETY: inside a transaction; the feed outlives the call. On an SQL error the transaction's abort closes the
    // table; the pointer is then set anew before it is used again.
    let rows = unsafe { copy_from(table, columns, format) };
    FEED.set(before);
    rows
}

unsafe fn copy_from(table: pg_sys::Oid, columns: &[String], format: Format) -> Result<u64> {
    // SAFETY: lists and strings live in the current memory context, which outlives the copy.
    unsafe {
        let string = |text: &str| -> Result<*mut pg_sys::Node> {
            let text = CString::new(text)
                .map_err(|_| Error::Internal("a name contains NUL".to_owned()))?;
            Ok(pg_sys::makeString(pg_sys::pstrdup(text.as_ptr())).cast())
        };
        let mut names = pgrx::PgList::<pg_sys::Node>::new();
        for column in columns {
            names.push(string(column)?);
        }
        let mut options = pgrx::PgList::<pg_sys::Node>::new();
        options.push(
            pg_sys::makeDefElem(
                pg_sys::pstrdup(c"format".as_ptr()),
                string(format.as_str())?,
                -1,
            )
            .cast(),
        );
        let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        let parse_state = pg_sys::make_parsestate(ptr::null_mut());
        pg_sys::addRangeTableEntryForRelation(
            parse_state,
            relation,
            pg_sys::RowExclusiveLock as i32,
            ptr::null_mut(),
            false,
            false,
        );
        let state = pg_sys::BeginCopyFrom(
            parse_state,
            relation,
            ptr::null_mut(),
            ptr::null(),
            false,
            Some(next_bytes),
            names.into_pg(),
            options.into_pg(),
        );
        let rows = pg_sys::CopyFrom(state);
        pg_sys::EndCopyFrom(state);
        pg_sys::free_parsestate(parse_state);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        pg_sys::CommandCounterIncrement();
        Ok(rows)
    }
}

/// Puts the next bytes, at most `most`, where COPY wants them; 0 after the last. An error of the supply ends the rows
/// early, and is raised.
#[pg_guard]
unsafe extern "C-unwind" fn next_bytes(buffer: *mut c_void, _least: c_int, most: c_int) -> c_int {
    // SAFETY: set by `into_table`, whose feed lives while COPY runs; the buffer has room for `most` bytes.
    unsafe {
        let feed = &mut *FEED.get().cast::<Feed>();
        let most = usize::try_from(most).unwrap_or(0);
        let mut written = 0;
        while written < most {
            if feed.at == feed.left.len() {
                match (feed.supply)() {
                    Ok(Some(bytes)) => {
                        feed.left = bytes;
                        feed.at = 0;
                        continue;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        let report = pgrx::pg_sys::panic::ErrorReport::from(error);
                        report.report(pgrx::PgLogLevel::ERROR);
                        break;
                    }
                }
            }
            let length = (most - written).min(feed.left.len() - feed.at);
            ptr::copy_nonoverlapping(
                feed.left.as_ptr().add(feed.at),
                buffer.cast::<u8>().add(written),
                length,
            );
            feed.at += length;
            written += length;
        }
        c_int::try_from(written).unwrap_or(0)
    }
}
