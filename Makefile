# The front door. Each verb does everything from a fresh clone: tools into .venv, the engine in release mode,
# the default guest into the user's cache.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
export PATH := $(HOME)/.cargo/bin:$(PATH)

BIN := .venv/bin
TOOLS := .venv/tools
ENGINE := src/gasang/_engine.abi3.so
AGENT := src/gasang/guest/gasang-agent
AGENT_SOURCES := $(wildcard guests/agent/src/*.rs guests/agent/Cargo.* guests/agent/.cargo/config.toml)
ENGINE_SOURCES := $(shell find engine -name '*.rs' -o -name '*.S' -o -name '*.toml') Cargo.toml $(wildcard Cargo.lock)

# The face of the engine needs a Python to link its tests with; tests/seam tests it from Python.
CRATES := --workspace --exclude gasang-python

.PHONY: help run test nested disks within bench lint lint-rust lint-python fuzz lockstep soak boots races docs clean host test-tools

help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | column -t -s $$'\t'

run: $(ENGINE)  ## a guest: its shell on a terminal; ARGS="-- uname -a" and other options of gasang run
ifneq ($(ARGS),)
	@$(BIN)/gasang run $(ARGS)
else
	@if [ -t 0 ] && [ -t 1 ]; then $(BIN)/gasang run; else $(BIN)/gasang run -- uname -a; fi
endif

test: $(ENGINE) | test-tools  ## every test: the engine's, then Python's; PYTEST="-k name" for some of the latter
	cargo test $(CRATES) --release --quiet
	$(BIN)/pytest $(PYTEST)

nested: $(ENGINE)  ## hypervisors in guests: KVM, QEMU and Xen as Debian packages them; PYTEST="-k name" for some
	$(BIN)/pytest --slow tests/nested $(PYTEST)

disks: $(ENGINE)  ## Debians on disks, with GRUB, debootstrap and cloud-init, booted by SeaBIOS; PYTEST="-k name" for some
	$(BIN)/pytest --slow tests/boot/test_debian_disk.py tests/boot/test_debootstrap.py tests/boot/test_cloud_init.py $(PYTEST)

within: $(ENGINE)  ## gasang in gasang: our accelerator on Debian's KVM in a guest of ours; part of `make test` too
	$(BIN)/pytest tests/nested/test_gasang.py $(PYTEST)

bench: $(ENGINE)  ## the benchmarks beside native and QEMU; ARGS="--picture" and others of benches/run.py
	$(call need,qemu-system-x86_64,qemu-system-x86)
	$(if $(findstring --picture,$(ARGS)),@$(BIN)/pip install -q --group bench)
	@$(BIN)/python -m compileall -q src/gasang  # as pip does; with PYTHONDONTWRITEBYTECODE nobody else would
	$(BIN)/python benches/run.py $(ARGS)

lint: lint-rust lint-python  ## formatting, types, floors

lint-rust: | host
	cargo fmt --all --check
	cd guests/agent && cargo fmt --check && cargo clippy --release --quiet -- -D warnings
	cargo clippy --workspace --all-targets --release --quiet -- -D warnings

lint-python: $(ENGINE)
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest gasang._engine
	$(BIN)/lint-imports
	@! grep -rnE '^ *(import|from) .*_engine' src/gasang --include='*.py' \
		| grep -vE '^src/gasang/(machine/|vmx/|cli/doctor\.py)' || { echo 'only machine/ and vmx/ may use _engine'; false; }

lockstep: $(ENGINE)  ## T0 against T1 over a boot; ARGS="--instructions N"
	$(BIN)/python tests/lockstep/lockstep.py $(ARGS)

fuzz: | host  ## random bytes, and random states of every instruction form beside the host; STATES=30 each
	cargo test $(CRATES) --release --quiet -- --ignored fuzz
	GASANG_SILICON_STATES=$(or $(STATES),30) cargo test -p gasang-silicon --release --quiet

soak: $(ENGINE)  ## machines come and go for half an hour: nothing may grow; ARGS="--minutes N"
	$(BIN)/python tests/boot/soak.py $(ARGS)

boots: $(ENGINE)  ## boots with several processors until one hangs; ARGS="--boots N --cpus N..."
	$(BIN)/python tests/boot/boots.py $(or $(ARGS),--boots 50 --cpus 2)

races: | host  ## ThreadSanitizer on what processors share; needs a nightly Rust with rust-src
	RUSTFLAGS=-Zsanitizer=thread cargo +nightly test -Zbuild-std --target x86_64-unknown-linux-gnu --quiet \
		--target-dir target/races -p gasang-translate -p gasang-vm --lib -- code_pages attention standstill

docs: $(ENGINE)  ## the reference, as HTML: of the package in target/docs, of the engine in target/doc
	cargo doc $(CRATES) --no-deps --document-private-items
	@$(BIN)/pip install -q 'pdoc>=15'
	$(BIN)/pdoc -o target/docs gasang gasang.machine gasang.machine.channel gasang.machine.outcome gasang.guest.agent

clean:  ## remove what was built; the guest stays in the user's cache
	rm -rf .venv target guests/agent/target build dist $(ENGINE) $(AGENT) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benches guests -name __pycache__ -type d -exec rm -rf {} +

# need COMMAND,PACKAGE: install a package of the system's if a command is missing and we may.
define need
@command -v $(1) >/dev/null || { \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		{ apt-get -qq update && apt-get install -qq -y --no-install-recommends $(2); } >&2; \
	else echo '$(1) is missing: install the package $(2)' >&2; exit 1; fi; }
endef

# Without it its tests are skipped, so it is no error where we may not install.
test-tools:
	@{ command -v iasl && command -v qemu-img && command -v passt; } >/dev/null || [ "$$(id -u)" != 0 ] || \
		! command -v apt-get >/dev/null || { apt-get -qq update && apt-get install -qq -y \
		--no-install-recommends acpica-tools qemu-utils passt; } >&2 || true

# What the host must have: a Rust, a C compiler and binutils (the engine's linker; programs for tests), venv.
host:
	$(call need,cc,gcc libc6-dev)
	$(call need,objcopy,binutils)
	$(call need,$(PYTHON),python3)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'gasang needs Python 3.11 or newer: make PYTHON=/path/to/it' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
		then { apt-get -qq update && apt-get install -qq -y python3-venv; } >&2; \
		else echo 'Python has no venv: install the package python3-venv' >&2; exit 1; fi; }
	@version="$$(cargo --version 2>/dev/null | cut -d' ' -f2)"; \
	if [ "$$(printf '%s\n' 1.88 "$${version:-0}" | sort -V | head -n1)" != 1.88 ]; then \
		echo "gasang needs Rust 1.88 or newer (here: $${version:-none}): see https://rustup.rs" >&2; exit 1; fi

$(TOOLS): pyproject.toml | host
	@{ $(PYTHON) -m venv .venv; $(BIN)/pip install -q -U 'pip>=25.1'; $(BIN)/pip install -q --group dev; } >&2
	@touch $@

# The guest's agent: a static program, apart from the engine.
$(AGENT): $(AGENT_SOURCES) | host
	@$(PYTHON) guests/agent/build_backend.py

$(ENGINE): $(ENGINE_SOURCES) $(TOOLS) | $(AGENT)
	@VIRTUAL_ENV='$(CURDIR)/.venv' $(BIN)/maturin develop --release >&2
	@# As pip does for what it installs: else it is done anew by every process where Python may not write it.
	@$(BIN)/python -m compileall -q src/gasang
	@touch $@
