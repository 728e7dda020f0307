//! Grants of one relation, given on another: with grant options, on columns, and by whoever gave them.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{relation, role, spi};

/// One privilege that one role gave to another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    grantor: pg_sys::Oid,
    /// Invalid for PUBLIC.
    grantee: pg_sys::Oid,
    /// As SQL writes it.
    grantee_name: String,
    privilege: String,
    is_grantable: bool,
    /// The column, or `None` for the whole relation.
    column: Option<String>,
}

/// Makes the grants on `to` the same as those on `from`. Both are relations of the same kind and owner.
pub fn copy(from: pg_sys::Oid, to: pg_sys::Oid) -> Result<()> {
    let owner = relation::owner(to)?;
    let wanted = read(from)?;
    let present = read(to)?;
    if same(&wanted, &present) {
        return Ok(());
    }
    let name = relation::name(to)?;
    // What ALTER DEFAULT PRIVILEGES gave, and what the owner has unless it was taken.
    for grant in &present {
        spi::execute(&format!("REVOKE ALL ON {name} FROM {}", grant.grantee_name))?;
    }
    for grant in in_order(owner, &wanted) {
        give(grant, owner, &name)?;
    }
    if same(&wanted, &read(to)?) {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!(
            "grants on table \"{}\" cannot be carried over",
            relation::display_name(from)?
        ),
        detail: String::new(),
        hint: "Revoke privileges that were not granted by the owner, and grant them as the owner."
            .to_owned(),
    })
}

fn give(grant: &Grant, owner: pg_sys::Oid, name: &str) -> Result<()> {
    let column = grant
        .column
        .as_ref()
        .map(|column| format!(" ({})", spi::quote_identifier(column)));
    let statement = format!(
        "GRANT {}{} ON {name} TO {}{}",
        grant.privilege,
        column.unwrap_or_default(),
        grant.grantee_name,
        if grant.is_grantable {
            " WITH GRANT OPTION"
        } else {
            ""
        }
    );
    if grant.grantor == owner {
        spi::execute(&statement)?;
    } else {
        // Whoever acts for the owner can act for a role that the owner gave the grant option to.
        role::as_owner(grant.grantor, || spi::execute(&statement))?;
    }
    Ok(())
}

/// The grants in an order in which each grantor has the grant option when its turn comes.
fn in_order(owner: pg_sys::Oid, grants: &[Grant]) -> Vec<&Grant> {
    let (mut ordered, mut waiting): (Vec<_>, Vec<_>) =
        grants.iter().partition(|grant| grant.grantor == owner);
    while !waiting.is_empty() {
        let may_give = |grant: &&Grant| {
            ordered.iter().any(|given: &&Grant| {
                given.is_grantable
                    && given.grantee == grant.grantor
                    && given.privilege == grant.privilege
                    && (given.column.is_none() || given.column == grant.column)
            })
        };
        let (ready, rest): (Vec<_>, Vec<_>) = waiting.iter().copied().partition(may_give);
        waiting = rest;
        if ready.is_empty() {
            ordered.append(&mut waiting);
        }
        ordered.extend(ready);
    }
    ordered
}

fn same(one: &[Grant], other: &[Grant]) -> bool {
    one.len() == other.len() && one.iter().all(|grant| other.contains(grant))
}

fn read(relation: pg_sys::Oid) -> Result<Vec<Grant>> {
    spi::query(
        "SELECT a.grantor, a.grantee, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                a.privilege_type, a.is_grantable, NULL::text
           FROM pg_class c,
                aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", c.relowner))) a
          WHERE c.oid = $1
          UNION ALL
         SELECT a.grantor, a.grantee, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                a.privilege_type, a.is_grantable, t.attname::text
           FROM pg_attribute t, aclexplode(t.attacl) a
          WHERE t.attrelid = $1 AND t.attnum > 0 AND NOT t.attisdropped",
        &[relation.into()],
        |row| {
            Ok(Grant {
                grantor: row.get(1)?,
                grantee: row.get(2)?,
                grantee_name: row.get(3)?,
                privilege: row.get(4)?,
                is_grantable: row.get(5)?,
                column: row.optional(6)?,
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(grantor: u32, grantee: u32, is_grantable: bool) -> Grant {
        Grant {
            grantor: pg_sys::Oid::from(grantor),
            grantee: pg_sys::Oid::from(grantee),
            grantee_name: grantee.to_string(),
            privilege: "SELECT".to_owned(),
            is_grantable,
            column: None,
        }
    }

    #[test]
    fn a_role_grants_only_after_it_was_given_the_option() {
        let grants = [grant(3, 4, false), grant(2, 3, true), grant(1, 2, true)];
        let ordered: Vec<u32> = in_order(pg_sys::Oid::from(1), &grants)
            .iter()
            .map(|grant| grant.grantee.to_u32())
            .collect();
        assert_eq!(ordered, [2, 3, 4]);
    }
}
