//! Shards that become one, or exchange rows, must be alike: a replacement can only have what both had. Where it
//! makes no difference to answers or rights, the first shard decides: storage parameters, tablespace, statistics
//! targets, comments, storage and compression of columns, the mark of CLUSTER.

use crate::catalog::journal::Source;
use crate::error::{Error, Result};
use crate::migrate::target::{self, Part};

/// Fails if a source has something that the first has not, or has in another way.
pub fn check(sources: &[Source]) -> Result<()> {
    let Some((first, others)) = sources.split_first() else {
        return Ok(());
    };
    if others.is_empty() {
        return Ok(());
    }
    // Any name will do, as long as it is the same.
    let read = |source: &Source| target::parts(source.relation(), "shard");
    let parts = read(first)?;
    for other in others {
        if let Some(difference) = difference(first, &parts, other, &read(other)?) {
            return Err(Error::Unsupported {
                what: format!("shards \"{}\" and \"{}\" differ{difference}", first.name, other.name),
                detail: String::new(),
                hint: "Make them alike: define it on the sharded table, or in the same way on each of these shards."
                    .to_owned(),
            });
        }
    }
    Ok(())
}

/// The first difference, in words.
fn difference(first: &Source, parts: &[Part], other: &Source, others: &[Part]) -> Option<String> {
    let mut unmatched: Vec<&Part> = others.iter().filter(|part| part.same.is_some()).collect();
    for part in parts.iter().filter(|part| part.same.is_some()) {
        match unmatched.iter().position(|other| other.same == part.same) {
            Some(found) => {
                unmatched.remove(found);
            }
            None if others.iter().any(|other| other.object == part.object) => {
                return Some(format!(" in {}", part.object));
            }
            None => return Some(format!(": only \"{}\" has {}", first.name, part.object)),
        }
    }
    unmatched
        .first()
        .map(|part| format!(": only \"{}\" has {}", other.name, part.object))
}
