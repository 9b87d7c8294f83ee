//! Debian packages: tools installed by apt, guest files only downloaded and unpacked under `target/debian`.
//!
//! Nothing bootable is installed on the host. The kernel, real Xen and busybox are those of the running Debian release,
//! byte for byte.

use std::fs::{self, File};
use std::io::{IsTerminal, copy};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;

use crate::process;
use crate::progress::Step;
use crate::project;

/// The hypervisor package that Paravane is compared with.
const XEN_PACKAGE: &str = "xen-hypervisor-4.17-amd64";
/// The package that depends on the release's current kernel.
const LINUX_META_PACKAGE: &str = "linux-image-amd64";
/// The userland of the initramfs.
const BUSYBOX_PACKAGE: &str = "busybox-static";
/// Xen's toolstack with every library that one of its programs is linked with, and the shell of its scripts. What else they
/// call is busybox's.
const TOOLSTACK_PACKAGES: &[&str] = &[
    "xen-utils-4.17",
    "xen-utils-common",
    "xenstore-utils",
    "bash",
    "libc6",
    "libbz2-1.0",
    "libcom-err2",
    "libext2fs2",
    "libfdt1",
    "libgcc-s1",
    "libgcrypt20",
    "libgpg-error0",
    "liblzma5",
    "liblzo2-2",
    "libncurses6",
    "libnl-3-200",
    "libnl-route-3-200",
    "libtinfo6",
    "libuuid1",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenmisc4.17",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "libzstd1",
    "zlib1g",
];
/// Where newer compilers are, for releases that were installed without their security updates.
const SECURITY_SOURCE: &str = "deb http://deb.debian.org/debian-security bookworm-security main\n";

/// What is unpacked of the kernel package: the image, and the folders that hold the modules of [`crate::initramfs`].
const LINUX_FILES: &[&str] = &[
    "./boot/vmlinuz-*",
    "./lib/modules/*/kernel/arch/x86/crypto/*",
    "./lib/modules/*/kernel/block/*",
    "./lib/modules/*/kernel/crypto/*",
    "./lib/modules/*/kernel/drivers/ata/*",
    "./lib/modules/*/kernel/drivers/block/*",
    "./lib/modules/*/kernel/drivers/net/ethernet/intel/e1000/*",
    "./lib/modules/*/kernel/drivers/net/net_failover.ko",
    "./lib/modules/*/kernel/drivers/net/virtio_net.ko",
    "./lib/modules/*/kernel/drivers/net/xen-netback/*",
    "./lib/modules/*/kernel/drivers/net/xen-netfront.ko",
    "./lib/modules/*/kernel/drivers/scsi/*",
    "./lib/modules/*/kernel/drivers/virtio/*",
    "./lib/modules/*/kernel/drivers/xen/*",
    "./lib/modules/*/kernel/fs/ext4/*",
    "./lib/modules/*/kernel/fs/jbd2/*",
    "./lib/modules/*/kernel/fs/mbcache.ko",
    "./lib/modules/*/kernel/lib/*",
    "./lib/modules/*/kernel/net/802/*",
    "./lib/modules/*/kernel/net/bridge/bridge.ko",
    "./lib/modules/*/kernel/net/core/*",
    "./lib/modules/*/kernel/net/llc/*",
];

/// Real Xen, unpacked: a multiboot ELF for `-kernel`.
#[must_use]
pub fn xen_elf() -> PathBuf {
    project::debian().join("xen-4.17.elf")
}

/// Debian's Linux image, as the package ships it.
#[must_use]
pub fn vmlinuz() -> PathBuf {
    project::debian().join("vmlinuz")
}

/// Debian's statically linked busybox.
#[must_use]
pub fn busybox() -> PathBuf {
    project::debian().join("busybox")
}

/// The folder with the kernel's loadable modules.
#[must_use]
pub fn modules() -> PathBuf {
    project::debian().join("lib/modules")
}

/// The folder with Xen's toolstack, unpacked when it is asked for the first time.
///
/// # Errors
/// As [`ensure_guest_files`].
pub fn toolstack() -> Result<PathBuf> {
    let folder = project::debian().join("toolstack");
    let list = project::debian().join("toolstack.unpacked");
    let all = fs::read_to_string(&list).is_ok_and(|list| list == TOOLSTACK_PACKAGES.join("\n"));
    if !folder.is_dir() || !all {
        let step = Step::start("Debian's toolstack for Xen");
        let _ = fs::remove_dir_all(&folder);
        let apt = Apt::system();
        let whole = project::debian().join("unpack-toolstack");
        let _ = fs::remove_dir_all(&whole);
        fs::create_dir_all(&whole)?;
        for package in TOOLSTACK_PACKAGES {
            let part = apt.unpack(package, &["./*"], &step)?;
            process::output(Command::new("cp").arg("-a").arg(part.join(".")).arg(&whole))?;
            fs::remove_dir_all(part)?;
        }
        fs::rename(whole, &folder)?;
        fs::write(&list, TOOLSTACK_PACKAGES.join("\n"))?;
        step.done();
    }
    Ok(folder)
}

/// Downloads and unpacks the guest files that are missing.
///
/// # Errors
/// Not a Debian system, no network, or a package without the expected file.
pub fn ensure_guest_files() -> Result<()> {
    fs::create_dir_all(project::debian())?;
    let apt = Apt::system();
    if !xen_elf().is_file() {
        let step = Step::start("Debian's Xen 4.17");
        let root = apt.unpack(XEN_PACKAGE, &["./boot/xen-4.17-amd64.gz"], &step)?;
        let packed = File::open(root.join("boot/xen-4.17-amd64.gz"))?;
        let mut elf = File::create(root.join("xen"))?;
        copy(&mut GzDecoder::new(packed), &mut elf).context("unpacking Debian's Xen")?;
        finish(&root, "xen", &xen_elf())?;
        step.done();
    }
    if !busybox().is_file() {
        let step = Step::start("Debian's busybox");
        let root = apt.unpack(BUSYBOX_PACKAGE, &["./bin/busybox"], &step)?;
        finish(&root, "bin/busybox", &busybox())?;
        step.done();
    }
    // What an older list left out is unpacked by the newer one.
    let list = project::debian().join("lib/unpacked");
    let all = fs::read_to_string(&list).is_ok_and(|list| list == LINUX_FILES.join("\n"));
    if !vmlinuz().is_file() || !all {
        let step = Step::start("Debian's Linux kernel");
        let package = apt.linux_package()?;
        let root = apt.unpack(&package, LINUX_FILES, &step)?;
        let _ = fs::remove_dir_all(project::debian().join("lib"));
        fs::rename(root.join("lib"), project::debian().join("lib"))?;
        fs::write(&list, LINUX_FILES.join("\n"))?;
        let image = package.replacen("linux-image", "boot/vmlinuz", 1);
        finish(&root, &image, &vmlinuz())?;
        step.done();
    }
    Ok(())
}

/// Moves the wanted file out of the unpacked tree in one step, so that an interrupted run leaves nothing half done.
fn finish(root: &Path, file: &str, to: &Path) -> Result<()> {
    fs::rename(root.join(file), to).with_context(|| format!("the package holds no {file}"))?;
    fs::remove_dir_all(root)?;
    Ok(())
}

/// Installs host packages unless all of them are there already.
///
/// # Errors
/// One sentence that says what to do: no apt, no root, no network, or an unknown package.
pub fn install(packages: &[&str]) -> Result<()> {
    Apt::system().install(packages)
}

/// Installs compilers of at least `oldest` (`"1.93"`), from Debian's security updates when the release has older ones.
///
/// # Errors
/// As [`install`].
pub fn install_at_least(packages: &[&str], oldest: &str) -> Result<()> {
    let system = Apt::system();
    let first = packages.first().context("no package named")?;
    if system.offers(first, oldest) {
        return system.install(packages);
    }
    system.update()?;
    if system.offers(first, oldest) {
        return system.install(packages);
    }
    let apt = Apt::with_security_updates()?;
    apt.update()?;
    apt.install(packages)
}

/// One way of calling apt.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn system() -> Self {
        Self { options: Vec::new() }
    }

    /// Apt with the security archive beside the system's own sources, which are not changed.
    fn with_security_updates() -> Result<Self> {
        let parts = project::target().join("apt/sources.list.d");
        fs::create_dir_all(&parts)?;
        fs::write(parts.join("security.list"), SECURITY_SOURCE)?;
        for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
            fs::copy(entry.path(), parts.join(entry.file_name()))?;
        }
        Ok(Self { options: vec![format!("Dir::Etc::SourceParts={}", parts.display())] })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        command
    }

    /// An `apt-get` that may change the system.
    fn privileged(&self, what: &str) -> Result<Command> {
        ensure!(
            process::exists("apt-get"),
            "{what}: this system has no apt-get; use Debian 12 or install it by hand"
        );
        if fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0) {
            return Ok(self.command("apt-get"));
        }
        ensure!(process::exists("sudo"), "{what}: needs root; run this command once as root");
        let mut command = Command::new("sudo");
        if !std::io::stderr().is_terminal() {
            command.arg("-n");
        }
        command.args(["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "apt-get"]);
        for option in &self.options {
            command.args(["-o", option]);
        }
        Ok(command)
    }

    fn install(&self, packages: &[&str]) -> Result<()> {
        let list = packages.join(" ");
        let what = format!("installing {list}");
        if packages.iter().any(|package| !self.knows(package)) {
            self.update()?;
        }
        let step = Step::start(&what);
        let mut command = self.privileged(&what)?;
        command
            .args(["-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends"])
            .args(packages);
        process::run_in_step(&mut command, &step)
            .with_context(|| format!("could not install {list}: run `apt-get install {list}` as root"))?;
        step.done();
        Ok(())
    }

    fn update(&self) -> Result<()> {
        let step = Step::start("apt-get update");
        let mut command = self.privileged("refreshing the package lists")?;
        process::run_in_step(command.arg("update"), &step)
            .context("no package lists: connect to the network and run `apt-get update` as root")?;
        step.done();
        Ok(())
    }

    /// The version that apt would install.
    fn candidate(&self, package: &str) -> Option<String> {
        let text = process::output(self.command("apt-cache").args(["policy", package])).ok()?;
        let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
        (version != "(none)").then(|| version.to_owned())
    }

    fn knows(&self, package: &str) -> bool {
        self.candidate(package).is_some()
    }

    fn offers(&self, package: &str, oldest: &str) -> bool {
        self.candidate(package).is_some_and(|version| {
            let mut compare = Command::new("dpkg");
            compare.args(["--compare-versions", &version, "ge", oldest]);
            compare.status().is_ok_and(|status| status.success())
        })
    }

    /// The real package behind the kernel's meta package.
    fn linux_package(&self) -> Result<String> {
        if !self.knows(LINUX_META_PACKAGE) {
            self.update()?;
        }
        let text = process::output(self.command("apt-cache").args(["depends", LINUX_META_PACKAGE]))?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with("linux-image-"))
            .map(str::to_owned)
            .with_context(|| format!("{LINUX_META_PACKAGE} names no kernel package"))
    }

    /// Downloads a package and unpacks the files matching `patterns`; returns the folder they are in.
    fn unpack(&self, package: &str, patterns: &[&str], step: &Step) -> Result<PathBuf> {
        let dir = project::debian().join(format!("unpack-{package}"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        if !self.knows(package) {
            self.update()?;
        }
        let mut download = self.command("apt-get");
        // As root apt would hand the download to its own user, who may not enter the checkout.
        download.args(["-o", "APT::Sandbox::User=root", "download", package]).current_dir(&dir);
        if process::run_in_step(&mut download, step).is_err() {
            self.update()?;
            process::run_in_step(&mut download, step).with_context(|| {
                format!("could not download {package}: check the network and `apt-get update`")
            })?;
        }
        let archive = fs::read_dir(&dir)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|ext| ext == "deb"))
            .with_context(|| format!("apt-get download {package} left no file"))?;
        let mut contents = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&archive)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start dpkg-deb")?;
        let mut tar = Command::new("tar");
        tar.args(["-x", "--no-same-owner", "--wildcards"]).args(patterns).current_dir(&dir);
        let status = tar.stdin(contents.stdout.take().expect("stdout is piped")).status()?;
        let unpacked = contents.wait()?.success();
        if !status.success() || !unpacked {
            bail!("{package}: the archive does not hold what was expected of it");
        }
        fs::remove_file(archive)?;
        Ok(dir)
    }
}
