// SPDX-License-Identifier: GPL-2.0

//! Where things are: the cache, the kernel's files, the build's results. `scripts/in-env` sets the variables.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;

/// The folders the harness works with.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Cache outside the checkout.
    pub cache: PathBuf,
    /// Folder of the machine's kernel: a stock kernel's unpacked packages, or the debug kernel in their shape.
    pub stock: PathBuf,
    /// `lib/modules/<release>` of the machine's kernel: vmlinuz, modules.
    pub modules: PathBuf,
    /// Release of the machine's kernel (`uname -r`).
    pub release: String,
    /// Whether that is the debug kernel.
    pub debug: bool,
    /// The vmlinuz that guests boot: always a stock one.
    pub guest_kernel: PathBuf,
    /// The cache as it is named outside the environment, for messages.
    pub cache_outside: PathBuf,
    /// Statically linked host programs (rkvm-init, the selftests).
    pub bin: PathBuf,
}

impl Paths {
    /// Finds the folders from `RKVM_CACHE`, `RKVM_STOCK`, `RKVM_FLAVOUR` and `RKVM_BIN`.
    pub fn find() -> Result<Paths> {
        let var =
            |name: &str, default: &str| PathBuf::from(env::var(name).unwrap_or(default.into()));
        let cache = var("RKVM_CACHE", "/cache");
        let stock = var("RKVM_STOCK", "/kernel/stock-cloud");
        let debug = env::var("RKVM_FLAVOUR").is_ok_and(|flavour| flavour == "debug");
        let (modules, release) = kernel_in(&stock)?;
        let guest_kernel = if debug {
            kernel_in(&stock.with_file_name("stock-cloud"))?.0
        } else {
            modules.clone()
        }
        .join("vmlinuz");
        let own = env::current_exe().context("finding the harness's own folder")?;
        let beside = own.parent().unwrap_or(Path::new("/")).to_path_buf();
        let bin = env::var("RKVM_BIN").map_or(beside, PathBuf::from);
        let cache_outside = env::var("RKVM_CACHE_OUTSIDE").map_or(cache.clone(), PathBuf::from);
        Ok(Paths {
            cache,
            stock,
            modules,
            release,
            debug,
            guest_kernel,
            cache_outside,
            bin,
        })
    }

    /// How many times as long as on a stock kernel everything may take.
    pub fn slowness(&self) -> u32 {
        if self.debug {
            8
        } else {
            1
        }
    }

    /// A path in the cache as it is named outside the environment.
    pub fn shown(&self, path: &Path) -> String {
        match path.strip_prefix(&self.cache) {
            Ok(rest) => self.cache_outside.join(rest).display().to_string(),
            Err(_) => path.display().to_string(),
        }
    }
}

/// Makes a folder under `parent` that nobody else has. (A process id would not do for a name: it is often the
/// same in the pid namespaces that harnesses run in.)
pub fn new_folder(parent: &Path, purpose: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent)?;
    for number in 0u32.. {
        let folder = parent.join(format!("{purpose}-{number}"));
        match fs::create_dir(&folder) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            made => {
                made.with_context(|| format!("making {}", folder.display()))?;
                return Ok(folder);
            }
        }
    }
    anyhow::bail!("{} is full", parent.display())
}

/// The `lib/modules/<release>` of a kernel's folder, and the release.
fn kernel_in(stock: &Path) -> Result<(PathBuf, String)> {
    let versions = stock.join("usr/lib/modules");
    let release = only_entry(&versions).with_context(|| {
        format!(
            "no kernel under {} (run scripts/setup first)",
            versions.display()
        )
    })?;
    Ok((versions.join(&release), release))
}

/// Name of the entry of a folder that holds exactly one.
fn only_entry(folder: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    anyhow::ensure!(
        names.len() == 1,
        "expected one entry, found {}",
        names.len()
    );
    names.pop().context("the folder is empty")
}
