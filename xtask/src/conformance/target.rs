//! What the suite runs on: a hypervisor on an emulator.

use anyhow::{Result, ensure};

use crate::qemu::{Emulator, Hypervisor};

/// Whose hypervisor it is, which decides what its verdicts mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It is judged.
    Ours,
    /// It judges.
    Xen,
    /// Anything else.
    Other,
}

/// One column of the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As the user wrote it, of a path the file.
    pub name: String,
    /// What boots.
    pub hypervisor: Hypervisor,
    /// On what.
    pub emulator: Emulator,
    /// Whose it is.
    pub owner: Owner,
}

impl Target {
    /// Reads `paravane`, `xen` or the path of a multiboot ELF, with `@bochs` behind it for that emulator; `bochs` alone
    /// is `paravane@bochs`.
    ///
    /// # Errors
    /// There is no such file.
    pub fn parse(text: &str) -> Result<Self> {
        let text = if text == "bochs" { "paravane@bochs" } else { text };
        let (name, emulator) = match text.strip_suffix("@bochs") {
            Some(name) => (name, Emulator::Bochs),
            None => (text, Emulator::Qemu),
        };
        let hypervisor = Hypervisor::parse(name);
        let owner = match &hypervisor {
            Hypervisor::Paravane => Owner::Ours,
            Hypervisor::Xen => Owner::Xen,
            Hypervisor::File(path) => {
                ensure!(
                    path.is_file(),
                    "no hypervisor {name}: paravane, xen, or the path of a multiboot ELF"
                );
                Owner::Other
            }
        };
        let name = match &hypervisor {
            Hypervisor::File(path) => {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                text.replace(name, &file)
            }
            _ => text.to_owned(),
        };
        Ok(Self { name, hypervisor, emulator, owner })
    }

    /// Reads a list separated by commas; `both` is `paravane,xen`, `all` adds `bochs`.
    ///
    /// # Errors
    /// As [`Target::parse`].
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        let text = text.replace("both", "paravane,xen");
        let text = if text == "all" { "paravane,xen,bochs" } else { &text };
        let mut targets: Vec<Self> = Vec::new();
        for name in text.split(',').filter(|name| !name.is_empty()) {
            let target = Self::parse(name)?;
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        ensure!(!targets.is_empty(), "no hypervisor named");
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_targets() {
        let names = |text: &str| -> Vec<String> {
            Target::parse_list(text).unwrap().into_iter().map(|target| target.name).collect()
        };
        assert_eq!(names("both"), ["paravane", "xen"]);
        assert_eq!(names("all"), ["paravane", "xen", "paravane@bochs"]);
        assert_eq!(names("xen@bochs,bochs,bochs"), ["xen@bochs", "paravane@bochs"]);
        assert_eq!(Target::parse("bochs").unwrap().emulator, Emulator::Bochs);
        assert!(Target::parse("/no/such/file").is_err());
        assert!(Target::parse_list(",").is_err());
    }
}
