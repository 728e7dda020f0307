//! Foreign keys of other tables that reference a plain table: they reference the sharded table once it has taken
//! the plain one's place. Nothing has to be read for that: both tables are locked from before the constraint is
//! dropped until after it is added again, and the rows are the same.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::manage::table::Table;
use crate::pg::{lock, relation, role, spi};

/// A foreign key that references a plain table.
pub struct Reference {
    table: pg_sys::Oid,
    /// The referencing table, as SQL writes it.
    table_name: String,
    name: String,
    /// With ` NOT VALID` behind if it is not valid.
    definition: String,
    comment: Option<String>,
    is_valid: bool,
    is_own: bool,
    is_of_partitioned: bool,
    has_changed_triggers: bool,
}

const REFERENCES: &str = "
SELECT c.conrelid, format('%I.%I', n.nspname, r.relname), c.conname::text, pg_get_constraintdef(c.oid),
       obj_description(c.oid, 'pg_constraint'), c.convalidated, c.conrelid = $1, r.relkind = 'p',
       EXISTS (SELECT FROM pg_trigger t JOIN pg_constraint k ON k.oid = t.tgconstraint
                WHERE (k.oid = c.oid OR k.conparentid = c.oid) AND t.tgenabled <> 'O')
  FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
 WHERE c.confrelid = $1 AND c.contype = 'f' AND c.conparentid = 0
 ORDER BY c.conrelid, c.oid";

fn of(plain: &Table) -> Result<Vec<Reference>> {
    spi::query(REFERENCES, &[plain.oid.into()], |row| {
        Ok(Reference {
            table: row.get(1)?,
            table_name: row.get(2)?,
            name: row.get(3)?,
            definition: row.get(4)?,
            comment: row.optional(5)?,
            is_valid: row.get(6)?,
            is_own: row.get(7)?,
            is_of_partitioned: row.get(8)?,
            has_changed_triggers: row.get(9)?,
        })
    })
}

/// Refuses what cannot follow the table; locks what can.
pub fn check_plain(plain: &Table) -> Result<()> {
    let references = of(plain)?;
    for (what, hint, is_concerned) in REFUSALS {
        let concerned: Vec<&Reference> = references
            .iter()
            .filter(|reference| is_concerned(reference))
            .collect();
        if !concerned.is_empty() {
            return Err(refused(plain, what, &concerned, hint));
        }
    }
    for reference in &references {
        if !role::can_act_for(relation::owner(reference.table)?) {
            return Err(refused(
                plain,
                "is referenced by tables that you do not own",
                &[reference],
                "Run it as a superuser or as a member of the roles that own these tables: their foreign keys have to be made anew.",
            ));
        }
    }
    for reference in &references {
        lock::access_exclusive(reference.table);
    }
    Ok(())
}

/// What is wrong, what helps, and which references are concerned.
type Refusal = (&'static str, &'static str, fn(&Reference) -> bool);

const REFUSALS: [Refusal; 3] = [
    (
        "references itself",
        "Drop these foreign keys, and add them again once the table is managed: that checks every row.",
        |reference| reference.is_own,
    ),
    (
        "is referenced by partitioned tables",
        "Drop these foreign keys, and add them again once the table is managed: that checks every row.",
        |reference| reference.is_of_partitioned,
    ),
    (
        "is referenced by foreign keys whose triggers are disabled",
        "Enable the triggers with ALTER TABLE ... ENABLE TRIGGER ALL on both tables, or drop the foreign keys.",
        |reference| reference.has_changed_triggers,
    ),
];

fn refused(table: &Table, what: &str, references: &[&Reference], hint: &str) -> Error {
    let listed: Vec<String> = references
        .iter()
        .map(|reference| {
            format!(
                "constraint {} on table {}",
                reference.name, reference.table_name
            )
        })
        .collect();
    Error::Unsupported {
        what: format!("table \"{}\" {what}", table.name),
        detail: format!("Concerned: {}.", listed.join(", ")),
        hint: hint.to_owned(),
    }
}

/// Takes the foreign keys off the plain table.
pub fn remove(plain: &Table) -> Result<Vec<Reference>> {
    let references = of(plain)?;
    for reference in &references {
        spi::execute(&format!(
            "ALTER TABLE ONLY {} DROP CONSTRAINT {}",
            reference.table_name,
            spi::quote_identifier(&reference.name)
        ))?;
    }
    Ok(references)
}

/// Lets them reference the sharded table, which has the plain table's name.
pub fn add(references: &[Reference]) -> Result<()> {
    references.iter().try_for_each(Reference::add)
}

impl Reference {
    fn add(&self) -> Result<()> {
        let name = spi::quote_identifier(&self.name);
        // NOT ENFORCED (PostgreSQL 18) is never valid and says so itself.
        let unchecked =
            self.definition.ends_with(" NOT VALID") || self.definition.ends_with(" NOT ENFORCED");
        spi::execute(&format!(
            "ALTER TABLE {} ADD CONSTRAINT {name} {}{}",
            self.table_name,
            self.definition,
            if unchecked { "" } else { " NOT VALID" }
        ))?;
        if let Some(comment) = &self.comment {
            spi::execute(&format!(
                "COMMENT ON CONSTRAINT {name} ON {} IS {}",
                self.table_name,
                spi::quote_literal(comment)
            ))?;
        }
        if self.is_valid {
            self.mark_valid()?;
        }
        Ok(())
    }

    /// What was valid for these rows still is.
    fn mark_valid(&self) -> Result<()> {
        role::as_superuser(|| {
            spi::run(
                "WITH top AS (SELECT oid FROM pg_catalog.pg_constraint
                               WHERE conrelid = $1 AND conname = $2::name AND contype = 'f' AND conparentid = 0)
                 UPDATE pg_catalog.pg_constraint c SET convalidated = true FROM top
                  WHERE c.contype = 'f' AND top.oid IN (c.oid, c.conparentid)",
                &[self.table.into(), self.name.as_str().into()],
            )
        })?;
        Ok(())
    }
}
