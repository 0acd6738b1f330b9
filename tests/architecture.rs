//! The floors of the crate: a module uses those below it, never those above.
//! This reads the sources, so that an upward arrow fails the build and not a
//! review.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The floors from the ground up, and the modules that live on each.
const FLOORS: &[&[&str]] = &[
    &["error", "resources", "varint", "fields", "backoff", "random", "stall", "fuzz", "testing"],
    &["proto"],
    &["driver"],
    &["session"],
    &["host"],
    &["net"],
    &["message"],
    &["transfer", "monitor", "pool", "recovery"],
    &["manual"],
];

/// Modules that may use less than everything below them.
const CONFINED: &[(&str, &[&str])] = &[
    ("error", &["backoff"]),
    ("message", &["error", "resources", "varint", "backoff", "stall"]),
    ("transfer", &["message", "error", "resources", "varint", "fields", "backoff", "stall"]),
];

/// What the protocol must not know: sockets, threads, locks and clocks.
const FORBIDDEN_IN_PROTO: &[&str] =
    &["Mutex", "RwLock", "Condvar", "parking_lot", "mio", "rustix", "SystemTime"];
const FORBIDDEN_STD_IN_PROTO: &[&str] = &["net", "thread", "fs", "process", "os"];

/// A file with more lines does more than one thing.
const MOST_LINES: usize = 650;

#[test]
fn imports_point_downward_only() {
    let exports = root_exports(&fs::read_to_string(source_dir().join("lib.rs")).expect("lib.rs"));
    let mut wrong = Vec::new();
    for file in sources() {
        for target in file.reaches(&exports) {
            if !may_use(&file.top, &target) {
                wrong.push(format!("{} uses crate::{target}", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that do not point downward:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_floor() {
    for file in sources() {
        assert!(floor(&file.top).is_some(), "{}: `{}` is on no floor", file.name, file.top);
    }
}

#[test]
fn the_protocol_knows_no_socket_thread_lock_or_clock() {
    let mut wrong = Vec::new();
    // The simulation times itself, and is compiled for tests only.
    let in_proto = |file: &&Source| file.top == "proto" && !file.name.contains("/sim/");
    for file in sources().iter().filter(in_proto) {
        for word in FORBIDDEN_IN_PROTO {
            if words(&file.code).any(|w| w == *word) {
                wrong.push(format!("{}: {word}", file.name));
            }
        }
        for module in heads_after(&file.code, "std::") {
            if FORBIDDEN_STD_IN_PROTO.contains(&module.as_str()) {
                wrong.push(format!("{}: std::{module}", file.name));
            }
        }
        if file.code.contains("Instant::now") {
            wrong.push(format!("{}: Instant::now", file.name));
        }
    }
    assert!(wrong.is_empty(), "not sans-I/O:\n{}", wrong.join("\n"));
}

#[test]
fn files_stay_short() {
    for file in sources() {
        assert!(file.lines <= MOST_LINES, "{}: {} lines", file.name, file.lines);
    }
}

#[test]
fn the_reader_of_imports_sees_every_form() {
    let file = |module: &[&str], source: &str| Source::new(module, "a file", source);
    let exports = root_exports("pub use net::{Conn, Listener};\npub use error::Error;");
    let found = |module: &[&str], source: &str| file(module, source).reaches(&exports);

    assert_eq!(found(&["proto", "buf"], "use crate::driver::Link;"), ["driver"]);
    assert_eq!(found(&["proto"], "use crate::{error::Error, net::{Conn, x}};"), ["error", "net"]);
    assert_eq!(found(&["proto"], "fn f() -> crate::host::Host {}"), ["host"]);
    assert_eq!(found(&["proto"], "use crate::Conn;"), ["net"], "through the root's exports");
    assert_eq!(found(&["proto"], "use super::driver::Link;"), ["driver"]);
    assert_eq!(found(&["proto", "buf"], "use super::super::net;"), ["net"]);
    assert_eq!(found(&["proto", "buf"], "use super::{a, super::host::Host};"), ["host"]);
    assert!(found(&["proto", "buf"], "use super::net;").is_empty(), "its own sibling");
    assert!(found(&["proto"], "// crate::net\n/* crate::host */ \"crate::net\"").is_empty());
    let tests = "#[cfg(test)]\nmod tests {\n use crate::net::Conn;\n}";
    assert!(found(&["proto"], tests).is_empty(), "tests may look up");
    assert!(may_use("net", "proto") && !may_use("proto", "net") && !may_use("message", "net"));
    assert!(may_use("varint", "error") && !may_use("error", "varint"));
}

/// A source file, without comments, strings and unit tests.
struct Source {
    /// Its module path from the crate root.
    module: Vec<String>,
    /// The first part of that path.
    top: String,
    name: String,
    code: String,
    lines: usize,
}

impl Source {
    fn new(module: &[&str], name: &str, text: &str) -> Source {
        Source {
            module: module.iter().map(|part| part.to_string()).collect(),
            top: module[0].to_owned(),
            name: name.to_owned(),
            code: without_tests(&without_comments(text)),
            lines: text.lines().count(),
        }
    }

    /// The top-level modules that this file names, by whatever path.
    fn reaches(&self, exports: &HashMap<String, String>) -> Vec<String> {
        let mut heads = heads_after(&self.code, "crate::");
        let to_root = "super::".repeat(self.module.len());
        heads.extend(heads_after(&self.code, &to_root));
        if let [_, parents @ ..] = self.module.as_slice()
            && !parents.is_empty()
        {
            // `use super::{a, super::b}`: the last step is inside the braces.
            let group = format!("{}{{", "super::".repeat(parents.len()));
            for (at, _) in self.code.match_indices(&group) {
                let inner = &self.code[at + group.len() - 1..];
                for item in items(inner) {
                    heads.extend(heads_after(&item, "super::"));
                }
            }
        }
        let resolved = heads.into_iter().map(|head| exports.get(&head).cloned().unwrap_or(head));
        resolved.filter(|head| floor(head).is_some()).collect()
    }
}

fn sources() -> Vec<Source> {
    let root = source_dir();
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let read = |path: PathBuf| {
        let relative = path.strip_prefix(&root).expect("under src").with_extension("");
        let parts = relative.iter().map(|part| part.to_str().expect("UTF-8").to_owned());
        let mut module: Vec<_> = parts.collect();
        if ["mod", "lib"].contains(&module.last().expect("a name").as_str()) {
            module.pop();
        }
        let name = format!("src/{}", path.strip_prefix(&root).expect("under src").display());
        (module, name, fs::read_to_string(&path).expect("a source"))
    };
    let files: Vec<_> = files.into_iter().map(read).collect();
    let for_tests: Vec<_> = files.iter().flat_map(|(m, _, text)| test_modules(m, text)).collect();
    let is_for_tests = |module: &[String]| for_tests.iter().any(|test| module.starts_with(test));
    files
        .iter()
        .filter(|(module, ..)| !module.is_empty() && !is_for_tests(module))
        .map(|(module, name, text)| {
            let module: Vec<_> = module.iter().map(String::as_str).collect();
            Source::new(&module, name, text)
        })
        .collect()
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// The modules that the file of `module` declares for tests only.
fn test_modules(module: &[String], text: &str) -> Vec<Vec<String>> {
    let declared = text.match_indices("#[cfg(test)]").filter_map(|(at, attribute)| {
        let (head, _) = text[at + attribute.len()..].split_once(';')?;
        let (_, name) = head.split_once("mod ")?;
        (!name.contains(['{', ' '])).then(|| [module, &[name.to_owned()]].concat())
    });
    declared.collect()
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn may_use(from: &str, to: &str) -> bool {
    if from == to {
        return true;
    }
    if let Some((_, allowed)) = CONFINED.iter().find(|(module, _)| *module == from) {
        return allowed.contains(&to);
    }
    match (floor(from), floor(to)) {
        // The ground floor's modules are small tools that may use each other.
        (Some(0), Some(0)) => true,
        (Some(from), Some(to)) => to < from,
        _ => false,
    }
}

/// What the crate root offers under its own name, and the module it is from.
fn root_exports(lib: &str) -> HashMap<String, String> {
    let code = without_comments(lib);
    let mut exports = HashMap::new();
    for (at, word) in code.match_indices("use ") {
        let path = code[at + word.len()..].split(';').next().unwrap_or_default();
        let path = path.trim_start_matches("crate::");
        let Some((module, rest)) = path.split_once("::") else { continue };
        for item in items(rest) {
            let name = item.rsplit([':', ' ']).next().unwrap_or_default();
            exports.insert(name.to_owned(), module.trim().to_owned());
        }
    }
    exports
}

/// The first name of each path that follows `prefix` in `code`, braces opened.
fn heads_after(code: &str, prefix: &str) -> Vec<String> {
    let starts_a_path = |at: usize| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    };
    let mut heads = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if starts_a_path(at) {
            for item in items(&code[at + prefix.len()..]) {
                heads.extend(words(&item).next().map(str::to_owned));
            }
        }
    }
    heads.retain(|head| head != "super");
    heads
}

/// `{a::b, c::{d, e}} …` is `a::b` and `c::{d, e}`; anything else is itself.
fn items(tree: &str) -> Vec<String> {
    let Some(inner) = tree.trim_start().strip_prefix('{') else {
        return vec![tree.split([';', ',', ')', '(', '<', ' ']).next().unwrap_or("").to_owned()];
    };
    let mut items = vec![String::new()];
    let mut depth = 0;
    for c in inner.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                items.last_mut().expect("never empty").push(c);
            }
        }
    }
    items.into_iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The text without `//`, `/* */` and the insides of string literals.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            '"' => string_len(rest),
            // `'"'` and `'\"'` are characters and open no string.
            '\'' if rest.starts_with("'\"'") => 3,
            '\'' if rest.starts_with("'\\\"'") => 4,
            _ => {
                code.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[skip..];
    }
    code
}

/// The length of the string literal that `text` starts with.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The code up to its unit tests, which stand last and may use anything.
fn without_tests(code: &str) -> String {
    for (at, attribute) in code.match_indices("#[cfg(test)]") {
        let rest = code[at + attribute.len()..].trim_start();
        let is_inline = rest.split(['{', ';']).next().is_some_and(|head| head.contains("mod "))
            && rest.find('{').unwrap_or(usize::MAX) < rest.find(';').unwrap_or(usize::MAX);
        if is_inline {
            return code[..at].to_owned();
        }
    }
    code.to_owned()
}
