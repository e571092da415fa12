# What is done more than once. `make demo` and `make test` need a Debian 12 with Rust; they install the rest.

PREFIX  ?= /usr/local
DESTDIR ?=
BIN_DIR ?= target/release
CARGO   ?= cargo
# What `version` names; nothing where there is no git checkout.
COMMIT  ?= $(shell [ ! -e .git ] || git rev-parse --short HEAD 2>/dev/null)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin

# Containers need root. What cargo runs (tests) and what drives containers goes through sudo for other users.
ifneq ($(shell id -u),0)
SUDO := sudo -E env PATH=$(PATH)
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export CARGO_TARGET_$(HOST)_RUNNER := $(SUDO)
endif

# The same for all that build with the release profile, so that none builds anew what another built.
demo bench build install test-vm: export BAYPLAN_COMMIT := $(COMMIT)

.PHONY: help demo test test-vm fuzz lint deny bench build install uninstall schema clean
.DEFAULT_GOAL := help

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

# The shim is linked statically where the toolchain has what that takes (libc.a; the GNU target is Linux on glibc): each of its
# starts is half as long, and its pages are shared by all shims alone. Only the binary is linked anew, the library is not.
define RELEASE
$(CARGO) build --locked --release --bins && \
{ $(CARGO) rustc --locked --quiet --release --bin bayplan-shim -- -C target-feature=+crt-static 2>/dev/null || \
  { echo "the shim is linked dynamically: no static C library here" >&2; $(CARGO) build --locked --release --bins; }; }
endef

demo: ## Shows and proves the main job in under a minute (after the build)
	@tests/prerequisites.sh build demo
	@$(RELEASE)
	@$(SUDO) tests/demo/demo.sh target/release

test: ## Formatting, lints, unit, property and end-to-end tests, supply chain
	@tests/prerequisites.sh build test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) test --locked --no-fail-fast
	@$(MAKE) --no-print-directory deny

lint: ## Formatting and lints only
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

deny: ## Licences, banned crates, sources; advisories where their database can be reached
	$(CARGO) deny --log-level error check --hide-inclusion-graph licenses bans sources
	@if timeout 60 $(CARGO) deny fetch db >/dev/null 2>&1; \
	then $(CARGO) deny --log-level error check --disable-fetch advisories; \
	else echo "advisories NOT checked: the database at github.com/RustSec/advisory-db cannot be reached from here"; fi

test-vm: ## The core tests in a booted Debian 12: cgroup v2, cgroup v1, systemd with a reboot
	@tests/prerequisites.sh build vm
	@$(RELEASE)
	@built=$$($(CARGO) test --locked --no-run --test e2e --test shim 2>&1 | tee >(cat >&2) | sed -n 's/.*Executable .*(\(.*\)).*/\1/p'); \
	$(SUDO) tests/vm/all "$$(grep /e2e- <<<"$$built")" "$$(grep /shim- <<<"$$built")" $(VM)

fuzz: export FUZZ_SECONDS ?= 60
fuzz: export FUZZ_SEED ?=
fuzz: export FUZZ_TARGET ?=
fuzz: export FUZZ_INPUT ?=
fuzz: ## Random references, settings, manifests, layers and archives [FUZZ_SECONDS=60 FUZZ_SEED= FUZZ_TARGET= FUZZ_INPUT=]
	@tests/prerequisites.sh build
	@$(CARGO) test --locked --quiet --bench fuzz

bench: ## Measures side by side with runc and tar, and prints the tables of docs/SPECIFICATION.md
	@tests/prerequisites.sh build bench
	@$(RELEASE)
	@$(CARGO) bench --locked --bench planner
	@$(SUDO) benches/run.sh target/release
	@$(SUDO) benches/pull.sh target/release target/bench-images

build: ## Release binaries in target/release
	@tests/prerequisites.sh build
	@$(RELEASE)

schema: ## Writes schema/*.json anew from the manifest types
	UPDATE_SCHEMA=1 $(CARGO) test --locked --test manifests

# Builds where cargo is at hand and no other BIN_DIR is given; else the binaries must be there.
ifeq ($(BIN_DIR),target/release)
ifneq ($(shell command -v $(CARGO)),)
install: build
endif
endif
bindir := $(DESTDIR)$(PREFIX)/bin
share := $(DESTDIR)$(PREFIX)/share
lib := $(DESTDIR)$(PREFIX)/lib
etc := $(DESTDIR)/etc/bayplan
install: ## Binaries, unit, schema and a default configuration [DESTDIR= PREFIX=/usr/local BIN_DIR=target/release]
	@for binary in bayplan bayplan-shim; do \
	  [ -x "$(BIN_DIR)/$$binary" ] || { echo "$(BIN_DIR)/$$binary is not there: run make build first" >&2; exit 1; }; done
	install -d "$(bindir)" "$(share)/bayplan/schema" "$(share)/doc/bayplan" "$(lib)/systemd/system" "$(lib)/tmpfiles.d" "$(lib)/modules-load.d"
	install -d -m 0755 "$(etc)" "$(etc)/manifests" "$(etc)/conf.d"
	install -m 0755 "$(BIN_DIR)/bayplan" "$(BIN_DIR)/bayplan-shim" "$(bindir)/"
	ln -sf bayplan-shim "$(bindir)/containerd-shim-bayplan-v1"
	install -m 0644 schema/*.json "$(share)/bayplan/schema/"
	install -m 0644 README.md CHANGELOG.md LICENSE docs/*.md "$(share)/doc/bayplan/"
	umask 022; sed 's|@PREFIX@|$(PREFIX)|g' deploy/bayplan.service >"$(lib)/systemd/system/bayplan.service"
	install -m 0644 deploy/tmpfiles.conf "$(lib)/tmpfiles.d/bayplan.conf"
	install -m 0644 deploy/modules-load.conf "$(lib)/modules-load.d/bayplan.conf"
	install -d "$(share)/bash-completion/completions" "$(share)/zsh/site-functions" "$(share)/fish/vendor_completions.d"
	umask 022; "$(BIN_DIR)/bayplan" completion bash >"$(share)/bash-completion/completions/bayplan"
	umask 022; "$(BIN_DIR)/bayplan" completion zsh >"$(share)/zsh/site-functions/_bayplan"
	umask 022; "$(BIN_DIR)/bayplan" completion fish >"$(share)/fish/vendor_completions.d/bayplan.fish"
	umask 022; [ -e "$(etc)/config.toml" ] || "$(BIN_DIR)/bayplan" config default >"$(etc)/config.toml"
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; \
	  echo "installed; next: systemctl enable --now bayplan"; fi

uninstall: ## Takes away what install put in place; leaves /etc/bayplan, /var/lib/bayplan and what runs
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl disable --now --quiet bayplan || true; fi
	rm -f "$(bindir)/bayplan" "$(bindir)/bayplan-shim" "$(bindir)/containerd-shim-bayplan-v1"
	rm -rf "$(share)/bayplan" "$(share)/doc/bayplan"
	rm -f "$(lib)/systemd/system/bayplan.service" "$(lib)/tmpfiles.d/bayplan.conf" "$(lib)/modules-load.d/bayplan.conf"
	rm -f "$(share)/bash-completion/completions/bayplan" "$(share)/zsh/site-functions/_bayplan" "$(share)/fish/vendor_completions.d/bayplan.fish"
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

clean: ## Removes what was built
	$(CARGO) clean
