// SPDX-License-Identifier: GPL-2.0

//! Whether tests can run on this host itself (`VM=none`). What would fail later, and in the kernel's words, is said before
//! anything is loaded, with what to do.

use std::fs;
use std::path::Path;

use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;

/// Looks at this host, whose `/proc` and `/sys` are below `root`, and at the module that it is to load.
pub fn check(root: &Path, is_root: bool, module: &[u8]) -> Result<()> {
    ensure!(
        is_root,
        "VM=none loads rkvm.ko on this host: run it as root"
    );
    check_processor(&text(root, "proc/cpuinfo"))?;
    check_loaded(root)?;
    let release = text(root, "proc/sys/kernel/osrelease");
    check_release(module, release.trim())?;
    check_lockdown(root, module)
}

/// Whether this process is root for the kernel, too, and not only in a user namespace.
pub fn is_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    nix::unistd::geteuid().is_root() && map.split_whitespace().take(2).eq(["0", "0"])
}

/// The release of the kernel that runs here.
pub fn release() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    Ok(release.context("no /proc of this host")?.trim().to_string())
}

/// The release of the kernel that a module was built for.
pub fn built_for(module: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"vermagic=";
    let start = module.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let rest = module.get(start..)?;
    let end = rest.iter().position(|byte| matches!(byte, b' ' | 0))?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}

/// Whether somebody has signed a module.
pub fn is_signed(module: &[u8]) -> bool {
    module.ends_with(b"~Module signature appended~\n")
}

/// A file's text; what is not there says nothing.
fn text(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_default()
}

fn check_processor(cpuinfo: &str) -> Result<()> {
    let has = |flag| cpuinfo.split_whitespace().any(|word| word == flag);
    ensure!(
        !has("svm"),
        "this host's processor is AMD's, rkvm is for Intel VMX: use VM=bochs"
    );
    ensure!(
        has("vmx"),
        "this host has no VT-x: switch it on in the firmware's settings or, if the host is a guest itself, have it nested \
         virtualisation; or use VM=bochs"
    );
    Ok(())
}

/// rkvm and C KVM exclude each other, and the tests load both.
fn check_loaded(root: &Path) -> Result<()> {
    let modules = text(root, "proc/modules");
    let loaded = |name| {
        modules
            .lines()
            .any(|line| line.split(' ').next() == Some(name))
    };
    for name in ["kvm_intel", "kvm_amd", "kvm"] {
        if loaded(name) {
            let and_kvm = if name == "kvm" { "" } else { " kvm" };
            bail!("{name} is loaded on this host: end its guests, then rmmod {name}{and_kvm}");
        }
    }
    ensure!(
        !root.join("sys/module/kvm").exists(),
        "KVM is a part of this host's kernel (CONFIG_KVM=y) and can't be unloaded: rkvm needs a kernel with KVM=m or without"
    );
    ensure!(
        !loaded("rkvm"),
        "rkvm is loaded on this host: end its guests, then rmmod rkvm"
    );
    Ok(())
}

fn check_release(module: &[u8], release: &str) -> Result<()> {
    let built = built_for(module).context("the module does not say what kernel it is for")?;
    ensure!(
        built == release,
        "rkvm.ko is for the kernel {built}, this host runs {release}: make test VM=none KDIR=/lib/modules/{release}/build"
    );
    Ok(())
}

fn check_lockdown(root: &Path, module: &[u8]) -> Result<()> {
    ensure!(
        text(root, "proc/sys/kernel/modules_disabled").trim() != "1",
        "this host loads no modules any more (kernel.modules_disabled): boot it without that setting"
    );
    if is_signed(module) {
        return Ok(());
    }
    let lockdown = text(root, "sys/kernel/security/lockdown");
    ensure!(
        !lockdown.contains("[integrity]") && !lockdown.contains("[confidentiality]"),
        "this host's kernel is locked down (Secure Boot) and loads signed modules only: switch Secure Boot off in the \
         firmware's settings, or sign rkvm.ko with a key that was enrolled (mokutil --import)"
    );
    ensure!(
        !matches!(text(root, "sys/module/module/parameters/sig_enforce").trim(), "Y" | "1"),
        "this host loads signed modules only (module.sig_enforce): boot it without that, or sign rkvm.ko"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::new_folder;

    const MODULE: &[u8] =
        b"\x7fELF\0license=GPL\0vermagic=7.2.12+deb13-amd64 SMP preempt mod_unload \0rest";
    const GOOD: [(&str, &str); 6] = [
        ("proc/cpuinfo", "flags\t\t: fpu vmx est\n"),
        (
            "proc/modules",
            "zram 1 0 - Live 0x0\nrkvm_like 1 0 - Live 0x0\n",
        ),
        ("proc/sys/kernel/osrelease", "7.2.12+deb13-amd64\n"),
        ("proc/sys/kernel/modules_disabled", "0\n"),
        (
            "sys/kernel/security/lockdown",
            "[none] integrity confidentiality\n",
        ),
        ("sys/module/module/parameters/sig_enforce", "N\n"),
    ];

    /// What is said of a host that is good but for these files.
    fn said(changes: &[(&str, &str)], module: &[u8]) -> String {
        let root = new_folder(&std::env::temp_dir(), "host").unwrap();
        for (path, text) in GOOD.iter().chain(changes) {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let result = check(&root, true, module);
        fs::remove_dir_all(root).unwrap();
        result.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_good_host_is_taken() {
        assert_eq!(said(&[], MODULE), "");
        assert!(check(Path::new("/nowhere"), false, MODULE)
            .unwrap_err()
            .to_string()
            .contains("root"));
    }

    #[test]
    fn whatever_is_wrong_is_said_with_what_to_do() {
        for (path, text, words) in [
            ("proc/cpuinfo", "flags : fpu\n", "no VT-x"),
            ("proc/cpuinfo", "flags : fpu svm\n", "AMD"),
            (
                "proc/modules",
                "kvm_intel 1 0 - Live 0x0\nkvm 1 1 kvm_intel\n",
                "rmmod kvm_intel kvm",
            ),
            ("proc/modules", "kvm 1 0 - Live 0x0\n", "rmmod kvm"),
            ("proc/modules", "rkvm 1 0 - Live 0x0\n", "rmmod rkvm"),
            ("sys/module/kvm/x", "", "CONFIG_KVM=y"),
            (
                "proc/sys/kernel/osrelease",
                "7.3.0\n",
                "KDIR=/lib/modules/7.3.0/build",
            ),
            (
                "proc/sys/kernel/modules_disabled",
                "1\n",
                "modules_disabled",
            ),
            (
                "sys/kernel/security/lockdown",
                "none [integrity] confidentiality\n",
                "Secure Boot",
            ),
            (
                "sys/module/module/parameters/sig_enforce",
                "Y\n",
                "sig_enforce",
            ),
        ] {
            let said = said(&[(path, text)], MODULE);
            assert!(said.contains(words), "{path}: {said}");
        }
    }

    #[test]
    fn a_signed_module_may_be_loaded_under_lockdown() {
        let signed = [MODULE, b"~Module signature appended~\n"].concat();
        let locked = (
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
        );
        assert_eq!(said(&[locked], &signed), "");
    }

    #[test]
    fn the_release_is_that_of_the_vermagic() {
        assert_eq!(built_for(MODULE).as_deref(), Some("7.2.12+deb13-amd64"));
        assert_eq!(built_for(b"no module"), None);
    }
}
