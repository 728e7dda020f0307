# repart: what a developer and CI run. The work is done by the scripts in tests/bin.
#
# Settings:  PG_CONFIG=…  the server `make install` installs in (default: the pg_config in PATH)
#            TESTS=…      single tests, for in-backend, installcheck, client and bench
#            DATA=…       folder with traces, and OPTIONS=…, for backtest
#            XDG_CACHE_HOME, where builds are kept (default: ~/.cache, in the folder repart)

SHELL := bash
PG_CONFIG ?= pg_config
TESTS ?=
DATA ?=
OPTIONS ?=
BIN := tests/bin

.DEFAULT_GOAL := help
.PHONY: help prepare lint test core in-backend installcheck client test-all bench backtest demo install clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

prepare: ## install what building and testing needs (Debian packages, cargo-pgrx), pinned
	@$(BIN)/prepare

lint: prepare ## check formatting, and clippy with warnings as errors
	@$(BIN)/lint

test: ## everything CI runs, in stages
	@$(BIN)/test

core: prepare ## only the unit tests of crates/core
	@. $(BIN)/env && cargo test -p repart-core $(TESTS)

in-backend: prepare ## only the tests inside a backend (pg_test/)
	@$(BIN)/throwaway $(BIN)/in-backend $(TESTS)

installcheck: prepare ## only the SQL tests (tests/pg_regress, tests/isolation)
	@$(BIN)/throwaway --install $(BIN)/regress $(TESTS)

client: prepare ## only the client-side tests (tests/tests)
	@$(BIN)/throwaway --install $(BIN)/client $(TESTS)

test-all: test ## make test, and PostgreSQL 16, 17 and 18
	@$(BIN)/versions

bench: prepare ## side-by-side benchmarks (benches/README.md); TESTS=rebuild runs one
	@$(BIN)/throwaway --install-release $(BIN)/bench $(TESTS)

backtest: ## evaluate the forecasting models on traces: DATA=folder with CSV files, OPTIONS=… (crates/backtest)
	@$(BIN)/backtest "$(DATA)" $(OPTIONS)

demo: prepare ## a demonstration on throwaway servers; PART=2 plays the second of its two parts only
	@$(BIN)/throwaway --install $(BIN)/demo $(PART)

install: ## build a release and install it in the server of PG_CONFIG (15 to 18)
	@$(BIN)/install-release "$(PG_CONFIG)"

clean: ## remove what was built; installed tools stay
	@. $(BIN)/env && rm -rf "$$CARGO_TARGET_DIR" "$$REPART_CACHE/regress" && echo "removed $$CARGO_TARGET_DIR"
