//! The arrows between the houses: each may use those to its right, never one to its left.

use std::path::Path;

/// From left to right.
const HOUSES: [&str; 6] = ["server", "replication", "client", "protocol", "engine", "chunkstore"];

/// Packages that a house must not know.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("client", &["pleach-replication", "clap", "serde"]),
    ("replication", &["pleach-client", "clap"]),
    ("chunkstore", &["tokio", "tonic", "prost", "clap", "serde"]),
    ("engine", &["tokio", "tonic", "prost", "clap", "serde"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Names of the packages in the `[dependencies]` of a house.
fn dependencies(house: &str) -> Vec<String> {
    let manifest = std::fs::read_to_string(root().join(house).join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    section
        .lines()
        .filter_map(|line| line.split(['=', '.']).next())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect()
}

#[test]
fn houses_depend_only_on_those_to_their_right() {
    for (position, house) in HOUSES.iter().enumerate() {
        let dependencies = dependencies(house);
        for left in &HOUSES[..=position] {
            assert!(!dependencies.contains(&format!("pleach-{left}")), "{house} must not use {left}");
        }
    }
}

#[test]
fn houses_know_nothing_of_what_is_not_their_business() {
    for (house, forbidden) in FORBIDDEN {
        for package in dependencies(house) {
            assert!(!forbidden.contains(&package.as_str()), "{house} must not use {package}");
        }
    }
}

fn sources(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_source_file_says_what_it_owns() {
    let mut files = Vec::new();
    HOUSES.iter().for_each(|house| sources(&root().join(house).join("src"), &mut files));
    assert!(files.len() > 30);
    for file in files {
        let is_test = file.to_string_lossy().contains("tests");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(is_test || text.starts_with("//!"), "{} begins without `//!`", file.display());
    }
}

#[test]
fn libraries_read_no_environment() {
    let mut files = Vec::new();
    HOUSES[1..].iter().for_each(|house| sources(&root().join(house).join("src"), &mut files));
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("env::var"), "{} reads the environment", file.display());
    }
}
