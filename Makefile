# barkeep: `make demo` and `make test` are all a new machine needs, apart from Rust.
.DEFAULT_GOAL := help
.PHONY: help build build-static dist test test-deps demo lint docs fmt bench fuzz unsafe clean

# What the tests may not skip on a machine that installs its own dependencies. Set it empty to allow skips.
REQUIRE_PG ?= 13,14,15,17,18
export REQUIRE_PG

# musl where rustc has it, else glibc, linked statically: both run on any Linux of the same CPU. Names of users and hosts are
# looked up without glibc's plug-ins then: files, DNS, and the program getent.
STATIC_TARGET ?= $(shell scripts/static-target.sh)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## the release binary, target/release/barkeep
	cargo build --release --locked -p barkeep

dist: ## a tarball and a Debian package, with manual pages, completions and the systemd unit
	scripts/dist.sh

build-static: ## the same without shared libraries, for agents on hosts of any Linux: target/$(STATIC_TARGET)/release/barkeep
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked -p barkeep --target $(STATIC_TARGET)

demo: ## back up a throw-away server, drop a table, go back to the moment before
	scripts/demo.sh

test: test-deps ## everything the tests need, then all tests
	scripts/run-tests.sh

test-deps: ## PostgreSQL 13-18, Barman and an SSH server for the tests
	scripts/install-test-deps.sh

fmt: ## format the sources
	cargo fmt --all

lint: ## formatting and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

docs: ## the crates' documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --locked

bench: ## paired runs against Barman and PostgreSQL's own tools (see benches/README.md)
	benches/run.sh

fuzz: ## each fuzz target for TIME=60 seconds: libFuzzer on nightly, random changes on stable
	TIME=$(TIME) fuzz/run.sh

unsafe: ## the three modules with unsafe code, under Miri and AddressSanitizer where a nightly compiler has them
	scripts/check-unsafe.sh

clean: ## remove what was built
	cargo clean
