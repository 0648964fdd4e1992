# Two commands on a fresh machine: `make demo` and `make test`. They need Python 3.11 or newer, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo up down test lint protos load faults mutants clean
.DEFAULT_GOAL := help

help: ## list the ways in
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: $(VENV)/ready ## boot the suite in a temporary folder and play its main job
	$(BIN)/guildhall demo

up: $(VENV)/ready ## keep the suite running until Ctrl-C
	$(BIN)/guildhall up

down: $(VENV)/ready ## stop the suite that runs in this folder
	$(BIN)/guildhall down

test: $(VENV)/ready ## run all tests, on real servers; or some: make test T=tests/unit
	$(BIN)/python -m pytest -n logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder $(T)

lint: $(VENV)/ready ## fix what can be fixed, then check style, types and contracts
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy
	$(BIN)/python build_protos.py --lint

load: $(VENV)/ready ## measure S1 to S8, search and more, or those named: make load S="S1 soak"
	$(BIN)/python -m tests.load $(S)

faults: $(VENV)/ready ## break things, with FAULT_ROUNDS rounds: make faults F="F1 F7"
	$(BIN)/python -m tests.faults $(F)

mutants: $(VENV)/ready ## take decisions out of the code, each must be noticed: make mutants M="sessions membership"
	$(BIN)/python -m tests.mutants $(M)

protos: $(VENV)/ready ## generate the Python code of the contracts
	$(BIN)/python build_protos.py

clean: ## remove what make has made, but not the data in .guildhall
	rm -rf $(VENV) generated dist .mypy_cache .ruff_cache

# The lock first, then the project without its dependencies: what is installed is what is locked.
$(VENV)/ready: requirements.lock pyproject.toml build_protos.py $(shell find protos -name '*.proto')
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "venv is missing: install your system's python3-venv package" >&2; exit 1; }
	@echo "installing into $(VENV) …"
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
