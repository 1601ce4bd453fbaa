//! The house stands: a file of `src/` imports only from floors below its own, or from its own room. This
//! keeps the plan in docs/architecture.md true: without circles, each part can be read without those above.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms and files of `src/` with their floors. A folder stands for all files in it.
const FLOORS: [(&str, u8); 26] = [
    ("main", 9),
    ("cli", 8),
    ("wiring", 7),
    ("http", 6),
    ("transports", 5),
    ("config", 5),
    ("actors", 4),
    ("engines", 3),
    ("hooks", 3),
    ("collector", 3),
    ("store", 2),
    ("protocols", 2),
    ("sources", 2),
    ("forwards", 2),
    ("auth", 2),
    ("chat", 1),
    ("clouds", 1),
    ("redis_link", 1),
    ("metrics", 1),
    ("limits", 1),
    ("server_settings", 1),
    ("http_client", 0),
    ("log", 1),
    ("clock", 0),
    ("traces", 0),
    ("units", 0),
];

/// `src/actors/hub.rs` stands in `actors`, `src/cli.rs` in `cli`.
fn place(file: &Path) -> String {
    let inside = file.strip_prefix("src").expect("only src/ is read");
    let first = inside.iter().next().expect("a file has a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src/ can be read") {
        let path = entry.expect("src/ can be read").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The first names after `crate::` in a file, with their lines; also from `use crate::{a::b, c}`.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let line = text[..at].matches('\n').count() + 1;
        let start_of_line = text[..at].rfind('\n').map_or(0, |n| n + 1);
        if text[start_of_line..at].trim_start().starts_with("//") {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        let name =
            |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let Some(group) = rest.strip_prefix('{') else {
            found.push((line, name(rest)));
            continue;
        };
        // Only the outermost names of the group matter.
        let (mut depth, mut at_name) = (0, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_name = true,
                c if at_name && !c.is_whitespace() => {
                    found.push((line, name(&group[i..])));
                    at_name = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// Every import that does not point down: `file:line imports what`.
fn climbing(files: &[(PathBuf, String)]) -> Vec<String> {
    let floors: BTreeMap<&str, u8> = FLOORS.into();
    let mut wrong = Vec::new();
    for (path, text) in files {
        let own = place(path);
        if own == "lib" {
            continue;
        }
        let Some(own_floor) = floors.get(own.as_str()) else {
            wrong.push(format!("{}: stands on no floor; give it one in this test", path.display()));
            continue;
        };
        for (line, name) in imports(text) {
            let down = floors.get(name.as_str()).is_some_and(|floor| floor < own_floor);
            if name != own && !down {
                wrong.push(format!("{}:{line}: {own} (floor {own_floor}) imports {name}", path.display()));
            }
        }
    }
    wrong
}

#[test]
fn imports_point_down() {
    let mut paths = Vec::new();
    sources(Path::new("src"), &mut paths);
    assert!(paths.len() > 40, "the house has more files than {}", paths.len());
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source file is text");
        (path, text)
    };
    let files: Vec<_> = paths.into_iter().map(read).collect();
    let wrong = climbing(&files);
    assert!(wrong.is_empty(), "imports that climb:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "bench/src"] {
        sources(Path::new(folder), &mut paths);
    }
    let silent =
        |path: &PathBuf| !fs::read_to_string(path).expect("a source file is text").starts_with("//! ");
    let silent: Vec<PathBuf> = paths.into_iter().filter(silent).collect();
    assert!(silent.is_empty(), "without a paragraph at their head: {silent:?}");
}

#[test]
fn a_climbing_import_is_seen() {
    let file = |path: &str, text: &str| (PathBuf::from(path), text.to_owned());
    let straight =
        file("src/actors/hub.rs", "use crate::chat::room::Room;\nuse crate::{metrics, protocols::native};\n");
    assert_eq!(climbing(&[straight]), Vec::<String>::new());
    let up = file(
        "src/chat/room.rs",
        "//! crate::actors is fine in a comment\nuse crate::{\n    units,\n    actors::hub::Hub,\n};\n",
    );
    assert_eq!(climbing(&[up]), ["src/chat/room.rs:2: chat (floor 1) imports actors"]);
    let aside = file("src/auth/token.rs", "fn f() { crate::sources::settings::x() }");
    assert_eq!(climbing(&[aside]).len(), 1, "two rooms of one floor do not know each other");
    let unknown = file("src/cellar/wine.rs", "");
    assert_eq!(climbing(&[unknown]).len(), 1);
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut paths = Vec::new();
    sources(Path::new("src"), &mut paths);
    for path in paths {
        let text = fs::read_to_string(&path).expect("a source file is text");
        let part_of_another = path.ends_with("tests.rs") || path.iter().any(|part| part == "tests");
        assert!(text.starts_with("//!") || part_of_another, "{} has no opening paragraph", path.display());
    }
}
