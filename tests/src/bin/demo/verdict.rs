//! What is checked at the end.

use crate::Result;
use crate::clients::{Findings, owner, remembered};
use crate::observed::Observed;
use crate::pages::body;
use crate::text::grouped;

/// The checks made so far.
#[derive(Default)]
pub struct Verdict {
    noted: Vec<(bool, String)>,
    failed: usize,
}

impl Verdict {
    /// Keeps a check, to be printed with the first one that is made.
    pub fn note(&mut self, holds: bool, what: &str) {
        self.noted.push((holds, what.to_owned()));
    }

    /// Prints a check and remembers whether it held.
    pub fn check(&mut self, holds: bool, what: &str) {
        for (holds, what) in std::mem::take(&mut self.noted) {
            self.check(holds, &what);
        }
        println!("  {}  {what}", if holds { "ok    " } else { "FAILED" });
        self.failed += usize::from(!holds);
    }

    /// Whether all held.
    pub fn is_clean(&self) -> bool {
        self.failed == 0
    }

    /// Checks what the clients found, and prints the first of what was wrong.
    pub fn check_clients(&mut self, clients: &[Findings], statements: u64) {
        let errors: Vec<&String> = clients.iter().flat_map(|client| &client.errors).collect();
        let wrong: Vec<&String> = clients.iter().flat_map(|client| &client.wrong).collect();
        let statements = grouped(i64::try_from(statements).unwrap_or(i64::MAX));
        let refused = match clients.iter().map(|client| client.refused).sum::<u64>() {
            0 => String::new(),
            refused => format!(", of which {refused} met a serialization failure"),
        };
        self.check(
            errors.is_empty(),
            &format!(
                "client errors: {} in {statements} transactions{refused}",
                errors.len()
            ),
        );
        self.check(wrong.is_empty(), &format!("wrong answers: {}", wrong.len()));
        for what in errors.into_iter().chain(wrong).take(5) {
            println!("          {what}");
        }
    }

    /// Compares the whole table with what the clients remember.
    pub fn check_rows(
        &mut self,
        observed: &mut Observed,
        keys: i64,
        clients: &[Findings],
    ) -> Result<()> {
        let expected = |key: i64| {
            let memory = clients
                .get(owner(key) as usize)
                .map(|client| &client.memory);
            memory.and_then(|memory| remembered(memory, key))
        };
        let (mut rows, mut doubled, mut wrong, mut met) = (0, 0, 0, 0);
        let mut last = None;
        observed.all_rows(|key, revision, text| {
            rows += 1;
            match expected(key) {
                _ if last == Some(key) => doubled += 1,
                Some(expected) => {
                    met += 1;
                    wrong += i64::from(revision != expected || text != body(key, revision));
                }
                None => wrong += 1,
            }
            last = Some(key);
        })?;
        let all = (0..keys).filter(|key| expected(*key).is_some()).count() as i64;
        let lost = all - met;
        let text = format!(
            "rows: {} expected, {} found; {lost} lost, {doubled} doubled, {wrong} other than written",
            grouped(all),
            grouped(rows)
        );
        self.check(
            lost == 0 && doubled == 0 && wrong == 0 && rows == all,
            &text,
        );
        Ok(())
    }
}
