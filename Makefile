# `make train` trains a team, `make test` tests the suite. Both make their own environment in .venv first.
#
#   make train ARGS="seed=1 env=battle/2s3z"    overrides go to `marl train`
#   make train TORCH_INDEX=<address>            take torch from another package index (a CPU build, say)
#   make train PYTHON=python3.12                the Python to use, 3.11 or newer

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# One process per core with one thread each: two libraries' threads on the same cores would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile
SOURCES := pyproject.toml setup.py constraints.txt

.DEFAULT_GOAL := help
.PHONY: help train test test-all lint claims

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

train: $(VENV)/.core ## train QMIX on battle/3m to 95 % wins
	$(BIN)/marl train agent=qmix env=battle/3m $(ARGS)

test: $(VENV)/.dev ## the core tests
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/.all ## every test, with every extra
	$(PYTEST) $(ARGS)

# mypy sees the tree as the wheel has it: the top-level code folders below marl.
lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	@rm -rf build/types && mkdir -p build/types/marl
	@ln -s $(foreach name,$(wildcard marl/*) agents envs conf,$(CURDIR)/$(name)) build/types/marl/
	@ln -s $(CURDIR)/experiments build/types/
	cd build/types && $(abspath $(BIN))/python -m mypy --config-file $(CURDIR)/pyproject.toml -p marl -p experiments

claims: $(VENV)/.dev ## check every published number against its raw file and write the tables
	$(BIN)/python -m experiments.claims

# torch comes first and without its dependencies, so that the index given for it serves nothing else.
$(VENV)/.torch: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: give a newer one, for instance make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

# Each stands for those before it, so that one call of pip is enough.
$(VENV)/.core: $(VENV)/.torch
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch
	$(PIP) --editable '.[dev,video,tensorboard]'
	@touch $(VENV)/.core $@

$(VENV)/.all: $(VENV)/.torch
	$(PIP) --editable '.[all,dev]'
	@touch $(VENV)/.core $(VENV)/.dev $@
