# A target installs the environments that it needs on first use:
#
#   .venv         the service, and the tools of `make test` and `make check`
#   .venv-proto   the protobuf compiler and its plugins
#   .venv-oldest  the oldest grpcio and protobuf that the generated code supports
#   .venv-lock    the tool that writes the lock files
#
# Each is installed from its lock file in requirements/, and again when that file changes.
#
#   make run ARGS="--listen 127.0.0.1:50052"    passes arguments to the program of the target
#   make setup PYTHON=/path/to/python3          creates the environments with that Python

ARGS ?=
# Exported, so that the scripts see a PYTHON that was passed to make.
export PYTHON

BIN := .venv/bin
# The shell runs while make waits for it, so its parent is make.
MAKE_PID = $(shell echo $$PPID)
RUNTIME := .venv/.installed .venv/.installed-project
DEV := $(RUNTIME) .venv/.installed-dev
ALL := $(DEV) .venv-proto/.installed .venv-oldest/.installed
COMPILE := .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-annotate --custom-compile-command "make lock" $(ARGS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup run test mutants chaos failover cluster standby fuzz bench costs guarding timing importing soak check format migrate seed proto settings docs proto-release lock wheel release clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(ALL) ## Install the environments of all other targets.
	@echo "The environments are ready."

run: $(RUNTIME) ## Run the service on an embedded PostgreSQL with sample users.
	@exec $(BIN)/tamatar-auth serve --dev --exit-with-parent $(MAKE_PID) $(ARGS)

test: $(DEV) ## Run the tests: make test ARGS="-k sessions"
	@PATH="$(CURDIR)/$(BIN):$(CURDIR)/.tools/bin:$$PATH" $(BIN)/python -m pytest -n auto $(ARGS)

mutants: $(DEV) ## Break the source line by line and run the tests: make mutants ARGS="-k sessions"
	@$(BIN)/python -m tests.mutants $(ARGS)

chaos: $(DEV) ## Inject faults under load: make chaos SEEDS=20 SECONDS=30, or SEED=123 to repeat
	@$(BIN)/python -m tests.chaos $(addprefix --seed ,$(SEED)) $(addprefix --seeds ,$(SEEDS)) \
		$(addprefix --seconds ,$(SECONDS)) $(addprefix --writes ,$(WRITES)) $(if $(MUTANTS),--mutants $(filter-out 1,$(MUTANTS)),$(if $(SEED),,--promises)) $(ARGS)

failover: $(DEV) ## Kill the primary repeatedly while clients write: make failover SEEDS=20
	@$(BIN)/python -m tests.chaos.failover $(addprefix --seeds ,$(SEEDS)) \
		$(if $(SILENT),--silent) $(ARGS)

cluster: $(DEV) ## Inject faults into a cluster of Patroni: make cluster FAULTS=kill-patroni,link-down RUNS=3
	@$(BIN)/python -m tests.cluster $(addprefix --faults ,$(FAULTS)) $(addprefix --runs ,$(RUNS)) \
		$(addprefix --seconds ,$(SECONDS)) $(ARGS)

standby: $(DEV) ## Revoke and validate sessions while standbys are read and fail: make standby PAIRS=50000
	@$(BIN)/python -m tests.chaos.standby_reads $(addprefix --pairs ,$(PAIRS)) $(ARGS)

fuzz: $(DEV) ## Send random and malformed calls: make fuzz CALLS=1000000, or SEED=123 to repeat
	@$(BIN)/python -m tests.chaos.fuzz $(addprefix --calls ,$(CALLS)) $(addprefix --seed ,$(SEED))

bench: $(RUNTIME) ## Measure the service and an empty handler: make bench QUICK=1, or lists of users: SCALE=10m
	@$(BIN)/python -m benchmarks

costs: $(RUNTIME) ## Measure the bytes of a row, and the CPU and log of a call: make costs USERS=1000000
	@$(BIN)/python -m benchmarks.costs $(USERS)

guarding: $(RUNTIME) ## Measure the delay of the client's guards, and the calls that they save.
	@$(BIN)/python -m benchmarks.guards

timing: $(RUNTIME) ## Check that no answer reveals by its time whether an account exists.
	@$(BIN)/python -m benchmarks.refusal_timing

importing: $(RUNTIME) ## Time an import of 100,000 users beside a COPY: make importing USERS=10000
	@$(BIN)/python -m benchmarks.import_speed $(USERS)

soak: $(DEV) ## Check that nothing leaks while calls are cancelled: make soak MINUTES=30
	@$(BIN)/python -m tests.chaos.soak $(or $(MINUTES),30)

check: $(ALL) ## Run every check but the tests: make check ARGS="mypy buf"
	@$(BIN)/python tools/check.py $(ARGS)

format: $(DEV) ## Format the Python code and the protos.
	@$(BIN)/python -m ruff check --quiet --fix-only .
	@$(BIN)/python -m ruff format .
	@$(BIN)/buf format --write protos

migrate: $(RUNTIME) ## Apply the pending migrations to the database.
	@$(BIN)/tamatar-auth migrate up $(ARGS)

seed: $(RUNTIME) ## Add the sample users to the database.
	@$(BIN)/tamatar-auth seed $(ARGS)

proto: $(RUNTIME) .venv-proto/.installed ## Generate generated/ and docs/reference/api.md from protos/.
	@.venv-proto/bin/python tools/protos.py generate
	@$(BIN)/python -m tools.api_docs generate

settings: $(RUNTIME) ## Generate docs/reference/settings.md and .env.example.
	@$(BIN)/python -m tools.settings_page

proto-release: .venv-proto/.installed ## Record protos/ as released: later checks compare with it.
	@.venv-proto/bin/python tools/protos.py image protos/released.binpb

docs: $(DEV) ## Build the site of docs into build/site: make docs ARGS=serve shows it.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build)

wheel: $(RUNTIME) ## Build the wheel into dist/.
	@$(BIN)/python -m hatchling build --target wheel

release: $(DEV) ## Build a release into dist/, and install it with each Python of this machine.
	@$(BIN)/python tools/release.py

lock: .venv-lock/.installed ## Write requirements/ from pyproject.toml: make lock ARGS=--upgrade
	@$(COMPILE) pyproject.toml --output-file requirements/runtime.txt --extra server
	@$(COMPILE) pyproject.toml --output-file requirements/local.txt \
		--extra embedded --group build --group sources --constraints requirements/runtime.txt
	@$(COMPILE) pyproject.toml --output-file requirements/dev.txt --emit-build-options \
		--no-binary python-etcd --no-binary ydiff --extra embedded --group dev --constraints requirements/local.txt
	@$(COMPILE) --group build --output-file requirements/build.txt \
		--constraints requirements/local.txt
	@$(COMPILE) --group proto --output-file requirements/proto.txt
	@$(COMPILE) --group oldest --output-file requirements/oldest.txt
	@$(COMPILE) --group lock --output-file requirements/lock.txt

CLEANED = $(wildcard .venv .venv-proto .venv-oldest .venv-lock .tamatar .tools build dist \
	examples/*/auth.binpb examples/*/gen examples/*/build examples/*/node_modules \
	.coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache)

clean: ## Remove the environments, the caches and the data of `make run`.
	@echo "Removing $(if $(CLEANED),$(CLEANED) and )compiled Python files."
	@rm -rf $(CLEANED)
	@find src tests tools migrations generated benchmarks -name __pycache__ -type d -prune \
		-exec rm -rf {} + 2>/dev/null || true

# An environment breaks when its interpreter is removed or replaced, so it depends on bin/python. That
# is a symbolic link, so its time is that of the interpreter.

.venv/.installed: requirements/local.txt $(BIN)/python
	@tools/environment.sh .venv requirements/local.txt
	@touch $@

.venv/.installed-dev: requirements/dev.txt .venv/.installed
	@tools/environment.sh .venv requirements/dev.txt
	@touch $@

# Editable: the code in src/ and generated/ runs in place.
.venv/.installed-project: pyproject.toml .venv/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-index --no-build-isolation --editable .
	@touch $@

.venv-%/.installed: requirements/%.txt .venv-%/bin/python
	@tools/environment.sh .venv-$* requirements/$*.txt
	@touch $@

# tools/environment.sh creates them; every installation calls it.
$(BIN)/python $(addsuffix /bin/python,.venv-proto .venv-oldest .venv-lock): ;
