# Two commands are enough: `make run` and `make test`. Both install what they need and say so.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
ACCEPT_SUITE ?= ../shared/accept
BUILD_DEBUG ?= $(CARGO) build --locked -p sandbar
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: build run test check unit clients images docs egress webapp preview apps ssh scripts accept bench clean help

help: ## Say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

build: ## Build target/release/sandbar
	$(CARGO) build --release --locked -p sandbar

run: ## Start the server, show what it does, go on serving until Ctrl-C
	@packaging/prerequisites.sh run
	$(CARGO) build --release --locked -p sandbar
	$(TARGET)/release/sandbar demo

test: ## Everything: format, lints, unit and integration tests, public clients end to end
	@packaging/prerequisites.sh test
	$(MAKE) check unit
	@# The tests of crates have built target/debug/sandbar. To build it by itself would compile tokio, swc and all that uses
	@# them once more, since their features are fewer without the tests.
	$(MAKE) BUILD_DEBUG=: clients images docs egress webapp preview apps ssh scripts

check: ## Format and lints
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path bench/native-quickjs/Cargo.toml
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit: ## Tests of every crate
	$(CARGO) test --workspace --locked

clients: ## Public Python and npm clients and the command line against a server of their own
	$(BUILD_DEBUG)
	tests/clients.sh

images: ## Images of Debian packages, and pip, npm and apt-get inside them
	$(BUILD_DEBUG)
	tests/images.sh

docs: ## The examples of the documentation
	$(BUILD_DEBUG)
	tests/docs.sh

egress: ## Real programs through network policies, and around them
	$(BUILD_DEBUG)
	tests/egress.sh

webapp: ## A web application of some size, published, replaced and taken back under load
	$(BUILD_DEBUG)
	tests/webapp.sh

preview: ## A Vite application in a browser, through private previews
	$(BUILD_DEBUG)
	tests/preview.sh

apps: ## Apps with Vite, FastAPI and Bun, deployed, run and seen in a browser
	$(BUILD_DEBUG)
	tests/apps.sh

ssh: ## A gibibyte through ssh and sftp
	$(BUILD_DEBUG)
	tests/ssh.sh

scripts: ## Script functions with every provider, executors of others, and the examples
	$(BUILD_DEBUG)
	tests/scripts.sh

accept: ## An acceptance suite (ACCEPT_SUITE) with three releases of the public client
	@packaging/prerequisites.sh test
	$(CARGO) build --release --locked -p sandbar
	tests/accept.sh $(ACCEPT_SUITE)

bench: build ## Measure against the floors of this machine
	$(CARGO) build --release --locked --manifest-path bench/native-quickjs/Cargo.toml --target-dir $(TARGET)/native-quickjs
	SANDBAR_BENCH_RQUICKJS=$(TARGET)/native-quickjs/release/native-quickjs $(TARGET)/release/sandbar bench

clean: ## Remove what was built
	$(CARGO) clean
