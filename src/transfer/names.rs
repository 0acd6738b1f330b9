//! Names that a peer chose: data, checked before they name anything here.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorCode, Result};

/// The name of something in a directory: one component of a path, never `.`,
/// `..` or empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// A name that the peer sent.
    pub(crate) fn from_peer(bytes: &[u8]) -> Result<Name> {
        let wrong = match bytes {
            [] => "it is empty",
            b"." | b".." => "it is a directory's own",
            _ if bytes.contains(&b'/') => "it has a slash in it",
            _ if bytes.contains(&0) => "it has a zero byte in it",
            _ if bytes.len() > LONGEST => "it is longer than 255 bytes",
            _ if cfg!(windows) && is_special_on_windows(bytes) => "it is special on Windows",
            _ => return Ok(Name(bytes.to_vec())),
        };
        let what = format!("the peer sent a name that cannot be one here: {wrong}");
        Err(Error::new(ErrorCode::InvalidName, what).with_context("name", shown(bytes)))
    }

    /// The same for a file of its own: in the user's directory our names
    /// for what is not complete are not the peer's to use, in capitals neither: to
    /// some file systems that is the same.
    pub(crate) fn from_peer_at_top(bytes: &[u8]) -> Result<Name> {
        let name = Name::from_peer(bytes)?;
        let ends_in = |suffix: &str| {
            let end = &bytes[bytes.len().saturating_sub(suffix.len())..];
            end.eq_ignore_ascii_case(suffix.as_bytes())
        };
        if ends_in(PART) || ends_in(CHECK) {
            let what = format!("the peer sent a name ending in {PART} or {CHECK}, which are ours");
            return Err(Error::new(ErrorCode::InvalidName, what)
                .with_context("name", shown(bytes))
                .advise("receive it under a name of your own, with receive_file"));
        }
        Ok(name)
    }

    /// A name from this machine.
    pub(crate) fn from_os(name: &OsStr) -> Result<Name> {
        match to_bytes(name) {
            Some(bytes) if !bytes.is_empty() => Ok(Name(bytes)),
            _ => {
                let what = format!("the name {name:?} cannot be sent or received");
                Err(Error::new(ErrorCode::InvalidName, what))
            }
        }
    }

    /// The last component of a path, and what is before it.
    pub(crate) fn of_path(path: &Path) -> Result<(PathBuf, Name)> {
        let Some(name) = path.file_name() else {
            let advice = format!("name something in a directory, not {}", path.display());
            return Err(Error::new(ErrorCode::InvalidName, "the path does not end in a name")
                .advise(advice));
        };
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        Ok((parent.unwrap_or(Path::new(".")).to_owned(), Name::from_os(name)?))
    }

    /// Where it is put together until it is complete.
    pub(crate) fn part(&self) -> Name {
        self.with(PART)
    }

    /// Where is written down how much of it there is.
    pub(crate) fn check(&self) -> Name {
        self.with(CHECK)
    }

    /// With something behind it. Of a name too long for that the end is
    /// replaced by its hash.
    fn with(&self, suffix: &str) -> Name {
        let mut bytes = self.0.clone();
        if bytes.len() + CHECK.len() > LONGEST {
            let hash = blake3::hash(&bytes).to_hex();
            let text = std::str::from_utf8(&bytes).unwrap_or("");
            let keep = (0..=KEPT).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
            bytes.truncate(keep);
            bytes.extend_from_slice(b"~");
            bytes.extend_from_slice(&hash.as_bytes()[..16]);
        }
        bytes.extend_from_slice(suffix.as_bytes());
        Name(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn to_path(&self) -> PathBuf {
        from_bytes(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

/// A name in a form that does nothing to a terminal or a log.
fn shown(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(80).collect();
    format!("\"{}\"", text.escape_debug())
}

/// Device names, with anything behind a dot; what Windows forbids or drops.
fn is_special_on_windows(bytes: &[u8]) -> bool {
    let stem: Vec<u8> = bytes.iter().copied().take_while(|&b| b != b'.').collect();
    let stem = stem.trim_ascii_end().to_ascii_uppercase();
    let numbered = |prefix: &[u8]| {
        stem.strip_prefix(prefix).is_some_and(|n| matches!(n, [b'0'..=b'9'])) // COM1, LPT1
    };
    matches!(&stem[..], b"CON" | b"PRN" | b"AUX" | b"NUL" | b"CONIN$" | b"CONOUT$")
        || numbered(b"COM")
        || numbered(b"LPT")
        || bytes.iter().any(|b| b"\\:*?\"<>|".contains(b) || *b < 0x20)
        || matches!(bytes.last(), Some(b'.' | b' '))
}

pub(crate) fn to_bytes(name: &OsStr) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    Some(name.as_bytes().to_vec())
}

pub(crate) fn from_bytes(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    OsStr::from_bytes(bytes).into()
}

/// Behind the name of what is not complete yet.
pub(crate) const PART: &str = ".part";

/// Behind the name of a checkpoint.
pub(crate) const CHECK: &str = ".part.check";

/// The longest name that common file systems take.
const LONGEST: usize = 255;

/// So much of a long name is kept in the names of its part and checkpoint.
const KEPT: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_single_component_is_refused() {
        let long = [b'x'; 256];
        let bad: [&[u8]; 9] =
            [b"", b".", b"..", b"/", b"/etc", b"../x", b"a/b", b"nul\0byte", &long];
        for bytes in bad {
            assert_eq!(Name::from_peer(bytes).unwrap_err().code(), ErrorCode::InvalidName);
        }
        for bytes in [&b"a"[..], b"...", b"..x", b"a b", b"\xff\xfe", b"-rf", &long[..255]] {
            assert_eq!(Name::from_peer(bytes).unwrap().as_bytes(), bytes);
        }
        for bytes in [&b"x.part"[..], b".part", b"x.part.check", b"x.PART", b"x.Part.Check"] {
            assert!(Name::from_peer(bytes).is_ok());
            let e = Name::from_peer_at_top(bytes).unwrap_err();
            assert_eq!(e.code(), ErrorCode::InvalidName);
        }
    }

    #[test]
    fn the_names_of_parts_are_never_too_long_and_never_the_same() {
        let a = Name(vec![b'x'; 255]);
        let b = Name([vec![b'x'; 254], vec![b'y']].concat());
        for name in [&a, &b, &Name("ü".repeat(127).into_bytes()), &Name(b"short".to_vec())] {
            assert!(name.part().0.len() <= LONGEST && name.check().0.len() <= LONGEST);
        }
        assert_ne!(a.part(), b.part());
        assert_eq!(Name(b"short".to_vec()).part().0, b"short.part");
    }

    #[test]
    fn what_is_special_on_windows_is_known() {
        let special =
            ["CON", "nul", "Aux.txt", "com1", "LPT9.x", "a:b", "a\\b", "dot.", "sp ", "\u{1}"];
        for name in special {
            assert!(is_special_on_windows(name.as_bytes()), "{name}");
        }
        for name in ["console", "com10", "a.con", "nullable", "x"] {
            assert!(!is_special_on_windows(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_is_printed_does_nothing_to_a_terminal() {
        let name = Name::from_peer(b"\x1b[2Jx\ny").unwrap();
        assert_eq!(name.to_string(), "\"\\u{1b}[2Jx\\ny\"");
    }
}
