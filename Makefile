# SPDX-License-Identifier: GPL-2.0
#
# rkvm: out-of-tree module, its tests and their environment. "make help" lists the targets. What kbuild reads is in Kbuild.

# A developer's own settings, not committed (KDIR=..., VM=..., RKVM_CACHE=...).
-include config.mk

# The kernel that is built against: by default the stock Debian kernel in the environment that scripts/setup makes;
# with KDIR=... any kernel >= 7.2 with CONFIG_RUST=y, by the tool chain of this machine.
ifdef KDIR
kbuild := $(MAKE) -C $(KDIR) M=$(CURDIR)
prepare := check-kdir
else
kbuild := scripts/kbuild
prepare := setup
endif

# KERNEL=debug: everything with the debug kernel, see Documentation/testing.rst.
ifeq ($(KERNEL),debug)
FLAVOUR := debug
endif

VM ?= bochs
V ?= 0
export VM V FLAVOUR RKVM_CACHE KDIR

.DEFAULT_GOAL := modules
.PHONY: setup check-kdir modules modules_install clean help rust-analyzer docs host images run check gates test upstream host-test bench fuzz

setup:
	@scripts/setup

# Says in words what kbuild would stumble over.
check-kdir:
	@scripts/check-kdir "$(KDIR)"

modules: $(prepare)
	@$(kbuild) modules

# Without KDIR, for the running kernel, as depmod and modprobe expect it.
modules_install: INSTALL_KDIR := $(or $(KDIR),/lib/modules/$(shell uname -r)/build)
modules_install:
	$(MAKE) -C $(INSTALL_KDIR) M=$(CURDIR) modules_install

clean:
	@scripts/clean

rust-analyzer: $(prepare)
	@$(kbuild) rust-analyzer
	@$(if $(KDIR),,scripts/in-env) scripts/rust-analyzer

host: setup
	@scripts/build-host

docs: setup
	@scripts/docs

run: setup
	@scripts/run run $(ARGS)

test: setup
	@scripts/run test $(ARGS)

# KVM's own selftests.
upstream: setup
	@scripts/run test 'upstream/*' $(ARGS)

bench: setup
	@scripts/run bench $(ARGS)

check:
	@scripts/check

gates: modules
	@scripts/in-env scripts/gates/all

host-test: setup
	@scripts/in-env cargo test --locked --workspace

fuzz: setup
	@scripts/fuzz $(ARGS)

help:
	@echo 'What there is to make (nothing has to be installed before, see README.md):'
	@echo '  modules          - rkvm.ko for the stock Debian kernel (the default)'
	@echo '                     KDIR=<folder>: for that kernel, with the tool chain of this machine'
	@echo '                     FLAVOUR=cloud|generic: which of the stock kernels'
	@echo '                     KERNEL=debug: for a kernel that watches itself (KASAN, lockdep, ...), which is built first'
	@echo '                     CLIPPY=1, V=1: as in the kernel'
	@echo '  modules_install  - install rkvm.ko for the running kernel, or for KDIR'
	@echo '  clean            - remove what kbuild made; the cache stays (RKVM_CACHE, ~/.cache/rkvm)'
	@echo '  rust-analyzer    - rust-project.json for the editor'
	@echo '  docs             - rustdoc of all that cargo builds: core, harness, selftests, ...'
	@echo '  setup            - only the environment: tool chain, emulators, kernel build folder'
	@echo '  host             - only the host programs: harness, selftests'
	@echo
	@echo 'In machines: VM=bochs (default), VM=qemu (needs nested VT-x), VM=none (this machine itself)'
	@echo '  run              - boot a machine with rkvm.ko and a second Linux on it, live'
	@echo '  check            - all tests, with gates and host tests; closes with "N passed, N failed"'
	@echo '                     KERNEL=debug: the machine tests and those of failing allocations on the debug kernel'
	@echo '  test             - only the machine tests; ARGS="--list", ARGS="-v pio*", ARGS="--on rkvm"'
	@echo '  upstream         - the selftests that KVM brings itself, on rkvm and on C KVM; ARGS="--on rkvm"'
	@echo '  bench            - cost of the exits, rkvm and C KVM in turn'
	@echo
	@echo 'On this machine:'
	@echo '  gates            - borders, panics, style, lints, pages'
	@echo '  host-test        - cargo test: core, harness and what else is built for this machine'
	@echo '  fuzz             - fuzz targets, property tests and the emulator beside the processor, with new cases;'
	@echo '                     ARGS="<seconds>"'
