//! How things are printed: in lines of at most [`WIDTH`] characters.

/// The width of a line.
pub const WIDTH: usize = 116;

/// A headline.
pub fn headline(text: &str) {
    println!(
        "\n== {text} {}",
        "=".repeat(WIDTH.saturating_sub(text.chars().count() + 4))
    );
}

/// A text in lines, with a label in front of the first.
pub fn labelled(label: &str, text: &str) {
    let indent = 15;
    let mut line = format!("  {label:<width$}", width = indent - 2);
    let mut length = indent;
    for word in text.split_whitespace() {
        let more = word.chars().count() + 1;
        if length + more > WIDTH && length > indent {
            println!("{}", line.trim_end());
            line = " ".repeat(indent);
            length = indent;
        }
        line.push_str(word);
        line.push(' ');
        length += more;
    }
    println!("{}", line.trim_end());
}

/// A text in lines.
pub fn paragraph(text: &str) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.chars().count() + word.chars().count() + 1 > WIDTH {
            println!("{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    println!("{line}");
}

/// A number with thousands separated, as English texts do.
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// A bar of a share in percent, one character per 10 %; `!` above 100 %.
pub fn bar(percent: f64) -> String {
    let full = (percent / 10.0).round().clamp(0.0, 15.0) as usize;
    let (within, beyond) = (full.min(10), full.saturating_sub(10));
    format!("{}{}", "#".repeat(within), "!".repeat(beyond))
}

/// A number, or a dash.
pub fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
}
