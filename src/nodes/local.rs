//! What this server itself is doing: the observer looks.

use crate::catalog::nodes::{self, LOCAL};
use crate::error::{Error, Result};
use crate::nodes::facts::Facts;
use crate::nodes::reading::{self, Reading};
use crate::pg::{spi, time};

/// What this server was doing at the last look.
#[derive(Default)]
pub struct Local(Option<Reading>);

impl Local {
    /// Looks, and stores the load since the last look. Inside a transaction.
    pub fn measure(&mut self) -> Result<()> {
        let facts = Facts::here()?;
        let json = spi::value::<String>(&reading::question(&facts), &[])?
            .ok_or_else(|| Error::Internal("a query without a row".to_owned()))?;
        let now: Reading = serde_json::from_str(&json)?;
        nodes::note_seen(LOCAL, &serde_json::to_string(&facts)?)?;
        if let Some(sample) = self
            .0
            .as_ref()
            .and_then(|before| reading::sample(before, &now))
        {
            nodes::insert_sample(LOCAL, time::clock(), &sample)?;
        }
        self.0 = Some(now);
        Ok(())
    }
}
