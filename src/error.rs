//! The errors that repart raises: each variant has its SQLSTATE, its message and the remedy.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgSqlErrorCode, function_name, spi};
use repart_core::forecast::ForecastError;
use repart_core::state::StateError;
use thiserror::Error;

/// Short for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What SQL functions return: pgrx keeps SQLSTATE, detail and hint of this type only. (Functions that return
/// sets must spell it out: pgrx reads the signature.)
pub type SqlResult<T> = std::result::Result<T, ErrorReport>;

/// Anything that can go wrong, worded for the person who has to act.
#[derive(Debug, Error)]
pub enum Error {
    /// An argument that must be given is NULL.
    #[error("argument \"{0}\" must not be null")]
    NullArgument(&'static str),
    /// The relation is not managed.
    #[error("table \"{0}\" is not managed by repart")]
    NotManaged(String),
    /// The relation is managed already.
    #[error("table \"{0}\" is already managed by repart")]
    AlreadyManaged(String),
    /// The caller owns neither the table nor its owner's role.
    #[error("must be owner of table \"{0}\"")]
    NotOwner(String),
    /// Only a superuser may do this.
    #[error("must be superuser for {0}")]
    NotSuperuser(String),
    /// The object exists but is of a kind that cannot be used.
    #[error("{what}")]
    WrongObject {
        /// What is wrong, with the object's name.
        what: String,
        /// What helps.
        hint: String,
    },
    /// The object is fine, but it has or uses a feature that repart cannot carry over.
    #[error("{what}")]
    Unsupported {
        /// What is not supported, with the object's name.
        what: String,
        /// Which objects are concerned; may be empty.
        detail: String,
        /// What helps.
        hint: String,
    },
    /// Something has to be configured or done first.
    #[error("{what}")]
    Prerequisite {
        /// What is missing.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A parameter has a value that makes no sense here.
    #[error("{what}")]
    InvalidParameter {
        /// What is wrong with which parameter.
        what: String,
        /// What would be right.
        hint: String,
    },
    /// The new tables would not fit.
    #[error("{what}")]
    DiskFull {
        /// Where how much is missing.
        what: String,
        /// What to do.
        hint: String,
    },
    /// Something else is using the object now.
    #[error("{what}")]
    InUse {
        /// What is in use.
        what: String,
        /// What to do.
        hint: String,
    },
    /// There is no such object.
    #[error("{what}")]
    Missing {
        /// What does not exist.
        what: String,
        /// Where to look.
        hint: String,
    },
    /// The table has no such column.
    #[error("column \"{column}\" of table \"{table}\" does not exist")]
    MissingColumn {
        /// The column's name as given.
        column: String,
        /// The table's name.
        table: String,
    },
    /// The rows copied differ from the rows of the source.
    #[error("{0}")]
    VerificationFailed(String),
    /// More changes were captured than may wait.
    #[error("{0} captured changes are waiting, more than repart.max_backlog = {1}")]
    Backlog(i64, i64),
    /// The definition of a table changed while it was being migrated.
    #[error("the definition of table \"{0}\" changed during the migration")]
    DefinitionChanged(String),
    /// Somebody's transaction is in the way; said without asking for the lock.
    #[error("{0}")]
    Waiting(String),
    /// Somebody changed what is to be done with a migration meanwhile: look at it again.
    #[error("migration {0} was changed meanwhile")]
    Superseded(i64),
    /// The switch was waited for too long.
    #[error("gave up after trying to switch for {seconds} s: {reason}")]
    CutoverTimeout {
        /// How long it was tried.
        seconds: u64,
        /// Whom it waited for.
        reason: String,
    },
    /// Writers have waited long enough for copies of a table without a key that came to nothing.
    #[error("gave up after {times} copies that writers waited for, {seconds} s in all: {reason}")]
    CopiesInVain {
        /// How many.
        times: u32,
        /// How long writers waited.
        seconds: u64,
        /// What the last one was given up for.
        reason: String,
    },
    /// A forecast could not be made.
    #[error("cannot forecast shard \"{shard}\": {source}")]
    Forecast {
        /// The shard's name.
        shard: String,
        /// Why not.
        source: ForecastError,
    },
    /// Another server cannot be reached, or was lost.
    #[error("{} {server}", if *connected { "lost the connection to" } else { "could not connect to" })]
    Unreachable {
        /// Which one, such as `node "north"`.
        server: String,
        /// Why, without secrets.
        cause: String,
        /// Whether it was connected to before.
        connected: bool,
    },
    /// JSON that repart wrote or was given cannot be read.
    #[error("invalid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The server programming interface failed in a way that is not an SQL error.
    #[error("{0}")]
    Spi(#[from] spi::Error),
    /// An SQL error that a worker caught.
    #[error("{message}")]
    Sql {
        /// Its SQLSTATE.
        code: PgSqlErrorCode,
        /// Its message.
        message: String,
        /// Its detail, if any.
        detail: Option<String>,
        /// Its hint, if any.
        hint: Option<String>,
    },
    /// The life of a migration took a way that it does not have; please report it.
    #[error("internal error: {0}")]
    State(#[from] StateError),
    /// A state that the code excludes; please report it.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// The SQLSTATE to report.
    pub fn code(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode as Code;
        match self {
            Self::NullArgument(_) => Code::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Self::NotManaged(_) | Self::Prerequisite { .. } => {
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::AlreadyManaged(_) => Code::ERRCODE_DUPLICATE_OBJECT,
            Self::NotOwner(_) | Self::NotSuperuser(_) => Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Self::WrongObject { .. } => Code::ERRCODE_WRONG_OBJECT_TYPE,
            Self::Unsupported { .. } => Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            Self::InvalidParameter { .. } | Self::Json(_) => Code::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::DiskFull { .. } => Code::ERRCODE_DISK_FULL,
            Self::InUse { .. } => Code::ERRCODE_OBJECT_IN_USE,
            Self::Missing { .. } => Code::ERRCODE_UNDEFINED_OBJECT,
            Self::MissingColumn { .. } => Code::ERRCODE_UNDEFINED_COLUMN,
            Self::VerificationFailed(_) => Code::ERRCODE_DATA_CORRUPTED,
            Self::Backlog(..) => Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Self::DefinitionChanged(_)
            | Self::CutoverTimeout { .. }
            | Self::CopiesInVain { .. } => Code::ERRCODE_OBJECT_IN_USE,
            Self::Waiting(_) => Code::ERRCODE_LOCK_NOT_AVAILABLE,
            Self::Superseded(_) => Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Forecast { .. } => Code::ERRCODE_NO_DATA,
            Self::Unreachable {
                connected: true, ..
            } => Code::ERRCODE_CONNECTION_FAILURE,
            Self::Unreachable { .. } => Code::ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
            Self::Sql { code, .. } => *code,
            Self::Spi(_) | Self::State(_) | Self::Internal(_) => Code::ERRCODE_INTERNAL_ERROR,
        }
    }

    /// The detail line, if there is one.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Unsupported { detail, .. } if !detail.is_empty() => Some(detail),
            Self::Sql { detail, .. } => detail.as_deref(),
            Self::Unreachable { cause, .. } => Some(cause),
            _ => None,
        }
    }

    /// What to do about it, as a sentence.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Sql { hint, .. } => hint.clone().unwrap_or_default(),
            Self::NullArgument(name) => format!("Give a value for \"{name}\"."),
            Self::NotManaged(table) => format!("Run SELECT repart_manage('{table}') first."),
            Self::AlreadyManaged(_) => "See SELECT * FROM repart.shards.".to_owned(),
            Self::NotOwner(_) => "Only the owner of a table, or a superuser, may do this.".to_owned(),
            Self::NotSuperuser(_) => "Name one that you own, or ask a superuser.".to_owned(),
            Self::WrongObject { hint, .. }
            | Self::Unsupported { hint, .. }
            | Self::Prerequisite { hint, .. }
            | Self::InvalidParameter { hint, .. }
            | Self::DiskFull { hint, .. }
            | Self::InUse { hint, .. }
            | Self::Missing { hint, .. } => hint.clone(),
            Self::Unreachable {
                connected: false, ..
            } => {
                "Check that the server runs, and the options of the foreign server and of the user mapping.".to_owned()
            }
            Self::MissingColumn { .. } => "Give the name of a column of the table.".to_owned(),
            Self::Backlog(..) => {
                "Migrate when fewer rows are written, or raise repart.max_backlog or repart.max_copy_rate.".to_owned()
            }
            Self::DefinitionChanged(_) => "Start the migration again once the change is complete.".to_owned(),
            Self::CutoverTimeout { .. } => {
                "Let that transaction end, or raise repart.cutover_timeout, and queue the migration again.".to_owned()
            }
            Self::CopiesInVain { .. } => {
                "Migrate when no transaction reads the table and then writes to it, or add a primary key.".to_owned()
            }
            Self::Superseded(_) => "See SELECT * FROM repart.migrations, and try again.".to_owned(),
            _ => return None,
        };
        (!hint.is_empty()).then_some(hint)
    }

    /// Whether somebody cancelled the statement.
    pub fn is_cancellation(&self) -> bool {
        self.code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
    }

    /// Whether trying again a little later may help: somebody else holds a lock, or was first, or
    /// cancelled the statement, or another server is away.
    pub fn is_transient(&self) -> bool {
        use PgSqlErrorCode as Code;
        matches!(
            self.code(),
            Code::ERRCODE_LOCK_NOT_AVAILABLE
                | Code::ERRCODE_T_R_DEADLOCK_DETECTED
                | Code::ERRCODE_T_R_SERIALIZATION_FAILURE
                | Code::ERRCODE_QUERY_CANCELED
        ) || self.is_of_lost_server()
    }

    /// Whether another server is away, is going away or is not there yet.
    pub fn is_of_lost_server(&self) -> bool {
        use PgSqlErrorCode as Code;
        matches!(
            self.code(),
            Code::ERRCODE_CONNECTION_FAILURE
                | Code::ERRCODE_CONNECTION_DOES_NOT_EXIST
                | Code::ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION
                | Code::ERRCODE_ADMIN_SHUTDOWN
                | Code::ERRCODE_CRASH_SHUTDOWN
                | Code::ERRCODE_CANNOT_CONNECT_NOW
                | Code::ERRCODE_TOO_MANY_CONNECTIONS
        )
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> Self {
        let mut report = ErrorReport::new(error.code(), error.to_string(), function_name!());
        if let Some(detail) = error.detail() {
            report = report.set_detail(detail.to_owned());
        }
        if let Some(hint) = error.hint() {
            report = report.set_hint(hint);
        }
        report
    }
}
