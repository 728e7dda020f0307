//! Reading a partition bound as PostgreSQL prints it: `FOR VALUES FROM ('a') TO (MAXVALUE)`.

use crate::error::{Error, Result};

/// One end of a shard's range: a literal of the key type, or `None` for MINVALUE or MAXVALUE.
pub type Bound = Option<String>;

/// The range of a shard, `[lower, upper)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The lowest key; `None` for MINVALUE.
    pub lower: Bound,
    /// The first key above; `None` for MAXVALUE.
    pub upper: Bound,
}

/// Parses a bound of a partition with one key column; `None` for DEFAULT.
pub fn parse(bound: &str) -> Result<Option<Range>> {
    if bound == "DEFAULT" {
        return Ok(None);
    }
    let unexpected = || Error::Internal(format!("unexpected partition bound: {bound}"));
    let rest = bound
        .strip_prefix("FOR VALUES FROM (")
        .ok_or_else(unexpected)?;
    let (lower, rest) = datum(rest).ok_or_else(unexpected)?;
    let rest = rest.strip_prefix(") TO (").ok_or_else(unexpected)?;
    let (upper, rest) = datum(rest).ok_or_else(unexpected)?;
    if rest == ")" {
        Ok(Some(Range { lower, upper }))
    } else {
        Err(unexpected())
    }
}

/// One value and what follows it.
fn datum(text: &str) -> Option<(Bound, &str)> {
    for unbounded in ["MINVALUE", "MAXVALUE"] {
        if let Some(rest) = text.strip_prefix(unbounded) {
            return Some((None, rest));
        }
    }
    if let Some(quoted) = text.strip_prefix("E'") {
        return string(quoted, true);
    }
    // A bit string, whose type reads it as well without the letter.
    if let Some(quoted) = text.strip_prefix("B'") {
        return string(quoted, false);
    }
    if let Some(quoted) = text.strip_prefix('\'') {
        return string(quoted, false);
    }
    // Numbers and booleans are printed bare.
    let end = text.find([')', ','])?;
    Some((Some(text[..end].to_owned()), &text[end..]))
}

/// The rest of a quoted string: quotes are doubled, and backslashes too where the string is escaped.
fn string(text: &str, escaped: bool) -> Option<(Bound, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' => match characters.peek() {
                Some((_, '\'')) => {
                    characters.next();
                    value.push('\'');
                }
                _ => return Some((Some(value), &text[at + 1..])),
            },
            '\\' if escaped => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(lower: Option<&str>, upper: Option<&str>) -> Option<Range> {
        Some(Range {
            lower: lower.map(str::to_owned),
            upper: upper.map(str::to_owned),
        })
    }

    #[test]
    fn bounds_of_every_form_are_read() {
        let cases = [
            ("FOR VALUES FROM (MINVALUE) TO (5)", range(None, Some("5"))),
            (
                "FOR VALUES FROM ('-5') TO (MAXVALUE)",
                range(Some("-5"), None),
            ),
            (
                "FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')",
                range(Some("2024-01-01"), Some("2024-02-01")),
            ),
            (
                "FOR VALUES FROM ('') TO ('it''s) TO (')",
                range(Some(""), Some("it's) TO (")),
            ),
            (
                r"FOR VALUES FROM (E'a\\b') TO ('ü')",
                range(Some(r"a\b"), Some("ü")),
            ),
            (
                "FOR VALUES FROM (B'0101') TO (true)",
                range(Some("0101"), Some("true")),
            ),
            (
                "FOR VALUES FROM ('NaN') TO ('line\nbreak')",
                range(Some("NaN"), Some("line\nbreak")),
            ),
            ("DEFAULT", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn a_bound_of_another_form_is_an_error() {
        for text in [
            "FOR VALUES IN (1)",
            "FOR VALUES WITH (modulus 2, remainder 0)",
            "FOR VALUES FROM (1, 2) TO (3, 4)",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
