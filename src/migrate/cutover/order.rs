//! In which order the tables of a group are locked: those that are referenced first, as a transaction does that
//! inserts a row and then rows that reference it.

/// Numbers below `tables`, each behind those that it references (`(referencing, referenced)`), otherwise
/// ascending. A circle is broken at its lowest number.
pub fn referenced_first(tables: usize, references: &[(usize, usize)]) -> Vec<usize> {
    let mut waiting: Vec<usize> = (0..tables).collect();
    let mut ordered = Vec::with_capacity(tables);
    while !waiting.is_empty() {
        let is_free = |table: usize| {
            references.iter().all(|(referencing, referenced)| {
                *referencing != table || *referenced == table || !waiting.contains(referenced)
            })
        };
        let next = waiting
            .iter()
            .position(|table| is_free(*table))
            .unwrap_or_default();
        ordered.push(waiting.remove(next));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::referenced_first;

    #[test]
    fn tables_without_references_keep_their_order() {
        assert_eq!(referenced_first(3, &[]), [0, 1, 2]);
        assert_eq!(referenced_first(0, &[]), [0; 0]);
    }

    #[test]
    fn a_chain_begins_at_the_table_that_references_none() {
        assert_eq!(referenced_first(4, &[(0, 1), (1, 2), (2, 3)]), [3, 2, 1, 0]);
    }

    #[test]
    fn a_table_waits_for_all_that_it_references() {
        assert_eq!(referenced_first(4, &[(0, 2), (0, 3), (1, 3)]), [2, 3, 0, 1]);
    }

    #[test]
    fn a_table_may_reference_itself() {
        assert_eq!(referenced_first(2, &[(0, 0), (0, 1)]), [1, 0]);
    }

    #[test]
    fn a_circle_ends_and_has_every_table_once() {
        assert_eq!(referenced_first(3, &[(0, 1), (1, 0), (2, 0)]), [0, 1, 2]);
    }
}
