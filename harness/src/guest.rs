// SPDX-License-Identifier: GPL-2.0

//! Sets of files that a test can ask for by name: a kernel and an initramfs for a guest of its own, QEMU.

use std::path::Path;

use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;

use crate::fileset::FileSet;
use crate::kernel;
use crate::paths::Paths;

/// First process of a guest: says that it is up, does some work, powers off. `GUEST-` lines are what tests
/// look for.
const GUEST_INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
echo "GUEST-UP $(uname -r) cpus=$(grep -c ^processor /proc/cpuinfo)"
interrupts() { awk '{ for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+$/) n += $i } END { print n }' /proc/interrupts; }
before=$(interrupts)
cp /usr/bin/busybox /tmp/a || exit
sum=$(crc32 </tmp/a)
i=0
while [ $i -lt 8 ]; do (head -c 128k /tmp/a | crc32 >/dev/null) & i=$((i + 1)); done
wait
[ -n "$sum" ] && [ "$(crc32 </usr/bin/busybox)" = "$sum" ] && [ "$(crc32 </tmp/a)" = "$sum" ] && echo "GUEST-MEMORY good $sum"
[ "$(interrupts)" -gt "$before" ] && echo "GUEST-INTERRUPTS good"
echo "GUEST-CLOCK $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
dmesg | grep -E 'BUG|WARNING|Oops|Call Trace' | sed 's/^/GUEST-COMPLAINT /'
echo "GUEST-DONE"
# How a machine without a power switch ends is said to the kernel.
grep -q reboot= /proc/cmdline && reboot -f
poweroff -f
"#;

/// Adds the set of files `name`.
pub fn add(set: &mut FileSet, paths: &Paths, name: &str) -> Result<()> {
    match name {
        // The stock kernel as guest, unpacked: a decompressor in a guest in an emulator takes its time.
        "guest" => {
            let vmlinux = kernel::vmlinux(&paths.guest_kernel, &paths.cache)?;
            set.file(&vmlinux, "/guest/vmlinux")?;
            set.bytes("/guest/initrd", 0o644, initrd()?);
        }
        // In no archive that the scripts install from: whoever wants the test puts it there.
        "firecracker" => {
            let program = paths.cache.join("firecracker");
            ensure!(
                program.exists(),
                "no {}: the static binary of a release of Firecracker is to be there",
                paths.shown(&program)
            );
            set.file(&program, "/usr/bin/firecracker")?;
            set.tree(Path::new("/usr/bin/curl"), "/usr/bin/curl")?;
        }
        "vmlinuz" => set.file(&paths.guest_kernel, "/guest/vmlinuz")?,
        "qemu" => {
            set.tree(
                Path::new("/usr/bin/qemu-system-x86_64"),
                "/usr/bin/qemu-system-x86_64",
            )?;
            for firmware in [
                "qemu/bios-microvm.bin",
                "qemu/kvmvapic.bin",
                "qemu/linuxboot_dma.bin",
                "qemu/pvh.bin",
                "seabios/bios-256k.bin",
                "seabios/bios-microvm.bin",
                "seabios/vgabios-stdvga.bin",
            ] {
                let path = Path::new("/usr/share").join(firmware);
                if path.exists() {
                    let name = path.file_name().context("a firmware has no name")?;
                    set.file(
                        &path,
                        &format!("/usr/share/qemu/{}", name.to_string_lossy()),
                    )?;
                }
            }
        }
        _ => bail!("there is no set of files named {name}: guest, vmlinuz, qemu or firecracker"),
    }
    Ok(())
}

/// Initramfs of a guest: busybox and the script above.
pub fn initrd() -> Result<Vec<u8>> {
    let mut set = FileSet::default();
    set.busybox()?;
    set.bytes("init", 0o755, GUEST_INIT.as_bytes().to_vec());
    set.archive()
}
