# Two commands are all a newcomer needs: `make run` and `make test`. Each makes .venv by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
SEEDS ?= 2000
SEED ?= 1

.PHONY: run chaos test prove unit check format bench bench-peers bench-backlog bench-hotpath bench-ids bench-recovery clean
.DEFAULT_GOAL := help

help:
	@echo "make run      the whole road on this machine: usage becomes invoices (Ctrl-C ends it)"
	@echo "make chaos    the same while workers and servers are killed, and every number checked; a minute (SEED=7 for other moments)"
	@echo "make test     every test that this machine can run; a skip says what it wants"
	@echo "make prove    SEEDS=2000 simulated stories, every crash point of small worlds, and production broken rule by rule"
	@echo "make check    lint, types, the floors of the house, the Dockerfile"
	@echo "make format   format the code"
	@echo "make bench    the field on one core each, totals checked; writes bench/RESULTS.md (Linux, two cores, Java, Maven; an hour)"
	@echo "              QUICK=1: some of it in two minutes. TRACE=<directory>: the Azure LLM inference trace, too"
	@echo "              KEEP=<directory>: keep the runs there; said again, only what is missing is measured"
	@echo "make bench-backlog    what five million waiting events cost in memory; writes bench/RESULTS.md (Linux, Java, Maven; minutes)"
	@echo "make bench-hotpath    where the time of an event goes; writes bench/RESULTS.md (two minutes)"
	@echo "make bench-ids        what the ids take that are remembered; writes bench/RESULTS.md (a minute)"
	@echo "make bench-recovery   a million keys restored, measured; writes bench/RESULTS.md (Linux, Java, Maven; minutes)"

run: $(VENV)/.installed
	@$(BIN)/python app.py local

chaos: $(VENV)/.installed
	@$(BIN)/python app.py local --chaos --seed $(SEED)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

prove: $(VENV)/.installed-test
	$(BIN)/python -m simulation --seeds $(SEEDS) --exhaustive --mutants

unit: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/schemas tests/tables tests/streams tests/stories tests/web -q $(PYTEST_ARGS)

check: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed-test bench-peers
	$(BIN)/python -m bench.field $(if $(QUICK),--quick) $(if $(TRACE),--trace $(TRACE)) $(if $(KEEP),--directory $(KEEP))

# A peer that cannot be installed is left out of the field, and named there.
bench-peers: $(VENV)/.installed-test
	-$(BIN)/python -m bench.field.install

bench-backlog: $(VENV)/.installed-test
	$(BIN)/python -m bench.backlog

bench-hotpath: $(VENV)/.installed-test
	$(BIN)/python -m bench.hotpath

bench-ids: $(VENV)/.installed-test
	$(BIN)/python -m bench.ids

bench-recovery: $(VENV)/.installed-test
	$(BIN)/python -m bench.recovery

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "meterline needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make run PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[local]"
	@$(BIN)/python -m streams.warming
	@touch $@

$(VENV)/.installed-test: pyproject.toml client/pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[local,test]" -e "./client[amqp,examples]"
	@$(BIN)/python -m streams.warming
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
