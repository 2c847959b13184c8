//! Signals by name.

const NAMES: [(&str, i32); 15] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("BUS", 7),
];
const MORE: [(&str, i32); 4] = [("CONT", 18), ("STOP", 19), ("WINCH", 28), ("SYS", 31)];
/// Those that a client may send by name; all may be sent by number.
const SENDABLE: [&str; 10] = ["INT", "TERM", "KILL", "HUP", "QUIT", "USR1", "USR2", "WINCH", "STOP", "CONT"];

/// The number of a signal given by name, with or without `SIG` and in any case, or by number.
pub fn parse(text: &str) -> Option<i32> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if !SENDABLE.contains(&name) {
        return None;
    }
    NAMES.iter().chain(&MORE).find(|(n, _)| *n == name).map(|(_, number)| *number)
}

/// The name of a signal, with `SIG`.
pub fn name(number: i32) -> String {
    match NAMES.iter().chain(&MORE).find(|(_, n)| *n == number) {
        Some((name, _)) => format!("SIG{name}"),
        None => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_form() {
        for (text, number) in [("INT", 2), ("sigint", 2), ("SigTerm", 15), ("9", 9), ("64", 64), ("winch", 28)] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["", "0", "65", "-1", "SEGV", "banana"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(name(11), "SIGSEGV");
    }
}
