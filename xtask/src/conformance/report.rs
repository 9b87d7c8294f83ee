//! The matrix for people and for programs: `matrix.md`, `matrix.json`, `matrix.html`, `junit.xml`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::verdict::{Judged, Matrix, Row};

mod html;
mod json;
mod junit;
mod markdown;
pub mod terminal;

/// Writes all forms into `folder`.
///
/// # Errors
/// The folder is not writable.
pub fn write(matrix: &Matrix, folder: &Path, junit_path: Option<&Path>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let junit_path = junit_path.map_or_else(|| folder.join("junit.xml"), Path::to_owned);
    for (path, text) in [
        (folder.join("matrix.md"), markdown::page(matrix)),
        (folder.join("matrix.json"), json::document(matrix)),
        (folder.join("matrix.html"), html::page(matrix)),
        (junit_path, junit::document(matrix)?),
    ] {
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    println!("matrix: {}", folder.join("matrix.html").display());
    Ok(())
}

/// What a row has to say: the reasons of its ends, each once.
fn reasons(row: &Row) -> Vec<&str> {
    let mut reasons: Vec<&str> = Vec::new();
    for Judged { reason, .. } in row.judged.iter().flatten() {
        if !reason.is_empty() && !reasons.contains(&reason.as_str()) {
            reasons.push(reason);
        }
    }
    reasons
}

/// Rows in the order in which they are to be read: differences first, then what did not succeed, then the rest.
fn by_interest(matrix: &Matrix) -> Vec<&Row> {
    let mut rows: Vec<&Row> = matrix.rows.iter().collect();
    rows.sort_by_key(|row| (!row.differs(), std::cmp::Reverse(row.worst())));
    rows
}
