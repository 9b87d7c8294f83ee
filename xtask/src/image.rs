//! `cargo xtask image`: an ISO that boots by GRUB, from CD or USB stick, on BIOS machines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::Step;
use crate::qemu::Hypervisor;
use crate::setup::Need;
use crate::{build, debian, initramfs, process, project, run, setup};

/// The choices of `cargo xtask image`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// The first domain: `linux`, or a guest of guest-pv-lib/examples
    #[arg(long, default_value = "linux")]
    pub guest: String,
    /// Put in this kernel instead, without initrd and arguments of the guest
    #[arg(long)]
    pub kernel: Option<PathBuf>,
    /// Put in this initrd
    #[arg(long)]
    pub initrd: Option<PathBuf>,
    /// Add to the kernel's command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub args: String,
    /// The hypervisor's command line
    #[arg(long, default_value = "console=com1,vga com1=115200,8n1", allow_hyphen_values = true)]
    pub hv_args: String,
    /// Where the image goes
    #[arg(long, default_value = "target/dist/paravane.iso")]
    pub output: PathBuf,
}

/// What an image holds.
pub struct Contents {
    /// A multiboot1 ELF.
    pub hypervisor: PathBuf,
    /// Its command line.
    pub hypervisor_args: String,
    /// The first domain's kernel.
    pub kernel: PathBuf,
    /// Its command line.
    pub kernel_args: String,
    /// Its initrd.
    pub initrd: Option<PathBuf>,
}

/// Builds everything and makes the image.
///
/// # Errors
/// Something is missing or does not build.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Need::ImageTools, Need::Compiler])?;
    build::hypervisor()?;
    let mut contents = Contents {
        hypervisor: Hypervisor::Paravane.path(),
        hypervisor_args: options.hv_args.clone(),
        kernel: PathBuf::new(),
        kernel_args: String::new(),
        initrd: None,
    };
    if let Some(kernel) = &options.kernel {
        contents.kernel.clone_from(kernel);
    } else if options.guest == "linux" {
        setup::ensure(&[Need::GuestFiles])?;
        contents.kernel = debian::vmlinuz();
        contents.initrd = Some(initramfs::build()?);
        run::LINUX_ARGS.clone_into(&mut contents.kernel_args);
    } else {
        build::guests()?;
        contents.kernel = project::guest_elf(&options.guest);
    }
    if options.initrd.is_some() {
        contents.initrd.clone_from(&options.initrd);
    }
    contents.kernel_args = format!("{} {}", contents.kernel_args, options.args).trim().to_owned();
    let step = Step::start(format!("making {}", options.output.display()));
    make(&contents, &options.output)?;
    step.done();
    Ok(())
}

/// Makes an image at `output`.
///
/// # Errors
/// A file is missing, or GRUB's tool failed.
pub fn make(contents: &Contents, output: &Path) -> Result<()> {
    // Beside the image, so that images made at the same time do not meet.
    let tree = output.with_extension("tree");
    let _ = fs::remove_dir_all(&tree);
    let boot = tree.join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    copy(&contents.hypervisor, &boot.join("hypervisor"))?;
    copy(&contents.kernel, &boot.join("kernel"))?;
    if let Some(initrd) = &contents.initrd {
        copy(initrd, &boot.join("initrd"))?;
    }
    fs::write(boot.join("grub/grub.cfg"), grub_config(contents))?;
    let mut grub = Command::new("grub-mkrescue");
    grub.args(["-d", "/usr/lib/grub/i386-pc", "-o"]).arg(output).arg(&tree);
    process::output(&mut grub)?;
    fs::remove_dir_all(&tree)?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {} into the image", from.display()))?;
    Ok(())
}

/// GRUB talks on the first serial port as well, where the hypervisor and the guest go on. A module's first word is its
/// name for GRUB, not part of the kernel's command line.
fn grub_config(contents: &Contents) -> String {
    let mut text = String::from(
        "serial --unit=0 --speed=115200\nterminal_input console serial\nterminal_output console serial\nset timeout=0\n",
    );
    text.push_str("menuentry Paravane {\n");
    text.push_str(&format!("    multiboot /boot/hypervisor {}\n", contents.hypervisor_args));
    text.push_str(&format!("    module /boot/kernel {}\n", contents.kernel_args));
    if contents.initrd.is_some() {
        text.push_str("    module /boot/initrd\n");
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_each_module() {
        let contents = Contents {
            hypervisor: "h".into(),
            hypervisor_args: "console=com1".into(),
            kernel: "k".into(),
            kernel_args: "console=hvc0".into(),
            initrd: Some("i".into()),
        };
        let text = grub_config(&contents);
        assert!(text.contains("multiboot /boot/hypervisor console=com1\n"));
        assert!(text.contains("module /boot/kernel console=hvc0\n    module /boot/initrd\n"));
    }
}
