# Saola's commands. `make demo` and `make test` need a Debian 12 with Rust and its linker, git and make;
# `make setup` installs the rest. There is no clean target: the build folder holds a compiled RocksDB.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
.PHONY: setup build demo test nightly lint fmt bench sim power planted live fuzz fuzz-build fuzz-merge fuzz-seeds check-fmt check-seams check-tests
.NOTPARALLEL:

# One build folder for all clones of this repository, so that RocksDB is compiled once per machine.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/saola/target
# Debian's ccache links stand first: a second compilation of RocksDB is read from the cache.
ifeq ($(filter /usr/lib/ccache,$(subst :, ,$(PATH))),)
export PATH := /usr/lib/ccache:$(PATH):$(HOME)/.cargo/bin
endif

BIN := $(CARGO_TARGET_DIR)/debug
# What RocksDB's build and its bindings need beyond Rust's own linker; then what `saola-live` does its faults with.
PACKAGES := clang libclang-dev ccache g++ \
  iproute2 util-linux e2fsprogs xfsprogs strace
section = @printf '\n=== %s ===\n' '$(1)'
# $(1), if it is asked for, tells of what a commit does.
committed = $(if $(1),@git diff --quiet HEAD -- ':!$(1)' || { echo '$(1) tells what commits do: commit your changes first' >&2; exit 1; })

# Installs what is missing; does nothing, and needs no network, when all is there.
setup:
	$(call section,setup)
	@command -v cargo >/dev/null || { echo 'setup: cargo not found. Install Rust 1.88 or later (https://rustup.rs), then run make again.' >&2; exit 1; }
	@missing=(); \
	for package in $(PACKAGES); do \
	  [ "$$(dpkg-query -W -f='$${db:Status-Status}' "$$package" 2>/dev/null)" = installed ] || missing+=("$$package"); \
	done; \
	if [ "$${#missing[@]}" -eq 0 ]; then echo 'all tools are there'; exit 0; fi; \
	echo "installing $${missing[*]}"; \
	as_root=(); [ "$$(id -u)" -eq 0 ] || as_root=(sudo); \
	command -v apt-get >/dev/null || { echo "setup: no apt-get here. Install these with your own package manager: $${missing[*]}" >&2; exit 1; }; \
	"$${as_root[@]}" apt-get update -q && \
	"$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$${missing[@]}"

# The daemon and the command, in the one profile that everything here uses.
build:
	$(call section,build)
	cargo build --workspace --bins

# Five real node processes on loopback: loads data, loses a site, proves that nothing acknowledged was lost.
demo: setup build
	$(call section,demo)
	$(BIN)/saola demo

# Everything that must hold before a change is merged; .ci/run calls it.
test: setup check-fmt lint check-seams build check-tests
	@$(MAKE) --no-print-directory sim
	@$(MAKE) --no-print-directory live MINUTES=4

check-fmt:
	$(call section,format)
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	cargo fmt --all --check

lint:
	$(call section,lints)
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
	cargo clippy --locked --workspace --all-targets -- -D warnings

# The simulation needs these builds: the ordered map as the only engine.
check-seams:
	$(call section,builds without RocksDB)
	cargo check --locked -p saola-client
	cargo check --locked -p saola-ops --no-default-features
	cargo check --locked -p saola-storage --no-default-features
	cargo check --locked -p saola-raft --no-default-features
	cargo check --locked -p saola-node --no-default-features

# Unit, property, integration and doc tests, the simulation, and the live run on the binaries just built. No backtraces:
# a failing test says what it missed, and the frames of async code would bury that.
check-tests:
	$(call section,tests)
	RUST_BACKTRACE=0 cargo test --locked --workspace

# Random lives of simulated clusters (jepsen-tests/README.md). The seeds begin at the commit's own number, so that each commit
# lives new ones.
#   make sim SEEDS=20000
#   make sim SEEDS=20000 LEDGER=jepsen-tests/seeds/ledger.txt
#   make sim SEED=34
SEEDS ?= 1000
LEDGER ?=
SEED ?=
FROM ?= $(shell printf '%d' "0x$$(git rev-parse --short=8 HEAD 2>/dev/null | cut -c1-8)" 2>/dev/null || echo 0)
sim: build
	$(call section,simulation)
	$(call committed,$(LEDGER))
	'$(BIN)/saola-sim' $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --from $(FROM) $(if $(LEDGER),--ledger '$(LEDGER)' --commit "$$(git rev-parse --short=7 HEAD)"))

# Power cuts of real RocksDB and the real log (jepsen-tests/power).
#   make power DISKS=250
DISKS ?= 50
power: build
	$(call section,power cuts)
	'$(BIN)/saola-power' --disks $(DISKS) --from $(FROM)

# What takes a night: lives, some of them twice, power cuts, real processes and known bugs by the thousand; each kind of fault
# must have happened. Then how fast the judges are.
nightly: setup
	$(call section,night)
	cargo build -p saola-jepsen --bin saola-sim --config profile.dev.package.validit.debug-assertions=true
	'$(BIN)/saola-sim' --seeds 20000 --from $(FROM) --complete
	@$(MAKE) --no-print-directory build
	two=$$(mktemp -d); \
	for one in 1 2; do '$(BIN)/saola-sim' --seeds 200 --from $(FROM) --hashes | tee "$$two/said" | grep -E '^[0-9]+ [0-9a-f]+$$' | sort > "$$two/$$one" || { cat "$$two/said"; exit 1; }; done; \
	cmp "$$two/1" "$$two/2" && echo '200 seeds lived twice: equal'
	'$(BIN)/saola-power' --disks 250 --from $(FROM)
	@$(MAKE) --no-print-directory live MINUTES=240 LIVE='--load-s 120 --complete'
	@$(MAKE) --no-print-directory planted
	'$(BIN)/saola-check' --made 1000000
	'$(BIN)/saola-check' --made 20000 --records 1

# Real processes on machines whose network, disks and clocks fail (jepsen-tests/live). Root alone can make such machines.
#   make live MINUTES=60
#   make live MINUTES=0 LIVE='--seed 7 --topology 3+2l'
MINUTES ?= 4
LIVE ?=
live: setup build
	$(call section,live)
	@if [ "$$(id -u)" -eq 0 ]; then set -x; '$(BIN)/saola-live' --minutes $(MINUTES) $(LIVE); \
	else echo 'live: SKIPPED: only root can make network namespaces and mount disks; run `sudo make live`'; fi

# Puts each of the bugs of storage/src/planted.rs in, and counts the lives until it is found.
#   make planted BUGS='local-read sync-skipped'
#   make planted BUGS='--sample 3 --searches 1'
#   make planted TABLE=jepsen-tests/seeds/planted.txt
BUGS ?=
TABLE ?=
planted: setup
	$(call section,planted bugs)
	$(call committed,$(TABLE))
	cargo run --locked -p saola-jepsen --features planted --bin saola-planted -- $(BUGS) $(if $(TABLE),--table '$(TABLE)' --commit "$$(git rev-parse --short=7 HEAD)")

fmt:
	cargo fmt --all

# Figures are for optimised code, so this builds once more; RocksDB's objects come from ccache.
bench: setup
	$(call section,benches)
	cargo build --release --workspace --bins
	cargo bench -p saola-benches

# Arbitrary bytes for every decoder, led by coverage: jepsen-tests/fuzz/README.md.
#   make fuzz SECONDS_PER_TARGET=600 TARGETS='log export'
#   make fuzz TARGETS=log INPUT=jepsen-tests/fuzz/corpus/log/crash-0123
SECONDS_PER_TARGET ?= 60
INPUT ?=
CORPUS := jepsen-tests/fuzz/corpus
TARGETS ?= $(notdir $(wildcard $(CORPUS)/*))
# What libFuzzer has learned on this machine; `make fuzz-merge` brings what adds coverage into the corpus.
FUZZ := $(CARGO_TARGET_DIR)/fuzz
FUZZ_HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
FUZZ_BIN := $(FUZZ)/$(FUZZ_HOST)/debug/saola-fuzz
FUZZ_FLAGS := --cfg tokio_unstable --cfg saola_fuzz -Cpasses=sancov-module -Ccodegen-units=1 \
  -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
# Inputs stay small, and a second for one of them is too much.
FUZZ_LIMITS := -max_len=8192 -timeout=10 -rss_limit_mb=1024

# Stable Rust: the compiler's own coverage pass and libFuzzer, built for this host in a folder of their own.
fuzz-build:
	RUSTFLAGS='$(FUZZ_FLAGS)' cargo build --locked -p saola-fuzz --target '$(FUZZ_HOST)' --target-dir '$(FUZZ)'

# An input that makes a target fail is kept in the corpus, where `make test` replays it until it is mended.
fuzz: fuzz-build
	$(call section,fuzz)
	@for target in $(TARGETS); do \
	  export SAOLA_FUZZ_TARGET="$$target"; \
	  if [ -n '$(INPUT)' ]; then '$(FUZZ_BIN)' $(FUZZ_LIMITS) '$(INPUT)'; continue; fi; \
	  mkdir -p "$(FUZZ)/corpus/$$target"; log="$(FUZZ)/$$target.log"; \
	  if '$(FUZZ_BIN)' $(FUZZ_LIMITS) -max_total_time=$(SECONDS_PER_TARGET) -print_final_stats=1 -verbosity=1 \
	    -artifact_prefix="$(CORPUS)/$$target/" "$(FUZZ)/corpus/$$target" "$(CORPUS)/$$target" >"$$log" 2>&1; then \
	    printf '%-14s ok, %s, %s runs/s\n' "$$target" "$$(grep -o 'cov: [0-9]*' "$$log" | tail -1)" \
	      "$$(sed -n 's/^stat::average_exec_per_sec: *//p' "$$log")"; \
	  else \
	    tail -n 30 "$$log" >&2; input=$$(sed -n 's/.*Test unit written to //p' "$$log" | tail -1); \
	    printf '%s FAILED: replay with: make fuzz TARGETS=%s INPUT=%s\n' "$$target" "$$target" "$$input" >&2; exit 1; \
	  fi; \
	done

# Brings into the corpus what was learned here and adds coverage, as few inputs as do so.
fuzz-merge: fuzz-build
	@for target in $(TARGETS); do \
	  SAOLA_FUZZ_TARGET="$$target" '$(FUZZ_BIN)' $(FUZZ_LIMITS) -merge=1 "$(CORPUS)/$$target" "$(FUZZ)/corpus/$$target" \
	    2>&1 | tail -n 1; \
	done

# Writes the seeds, which the product's own encoders make, into the corpus.
fuzz-seeds: build
	'$(BIN)/saola-fuzz'
