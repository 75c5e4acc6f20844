# make demo    a search on real digits, its controls and report, and a picked sub-network (first command for a newcomer)
# make test    all tests; those whose tools are missing here skip with the reason
# make cluster the tests that own the machine: three hosts with Ray are killed and cut off, a search is killed 30 times
# make check   the quick one for every edit: format, lint, types, import layers, fast tests
# make fix     format and repair what a machine can repair
# make pictures  those of README and docs, from the demo's run (needs Chromium and its driver)
# make help    this list

PYTHON ?= python3.11
JOBS ?= 2
# searches on Ray mostly wait, so three workers fill two cores
TEST_JOBS ?= 3
DEMO_TRIALS ?= 16
DEMO_FOLDER ?= runs
DEMO_NAME ?= demo
DEMO_BUDGET ?= 10uJ

VENV := .venv
BIN := $(VENV)/bin
# uv installs by hard links from its cache: seconds and no second copy, where pip takes minutes and 6 GB each time
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
INSTALL = $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable
# one thread per worker: the workers already fill the cores
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo pictures test cluster check fix install dev format lint types layers fast static constraints clean

help:
	@sed -n 's/^# make /make /p' Makefile

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

.uv/bin/uv:
	@echo "uv is not on the PATH: putting it into .uv"
	@$(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv

$(BIN)/python: | $(filter .uv/bin/uv,$(UV))
	@$(UV) venv --quiet --python $(PYTHON) $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (about 6 GB the first time on a machine)"
	@$(INSTALL) . && touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) with the tools of developers"
	@$(INSTALL) '.[dev]' && touch $@ $(VENV)/.installed

demo: install
	@rm -rf '$(DEMO_FOLDER)/$(DEMO_NAME)' '$(DEMO_FOLDER)/$(DEMO_NAME)-picked'
	$(BIN)/python hpsearch/run.py --space digits --trials $(DEMO_TRIALS) --name $(DEMO_NAME) --storage-path $(DEMO_FOLDER) --cpus-per-trial 1
	$(BIN)/hpsearch controls $(DEMO_FOLDER)/$(DEMO_NAME) --uniform 3
	$(BIN)/hpsearch report $(DEMO_FOLDER)/$(DEMO_NAME)
	$(BIN)/hpsearch pick $(DEMO_FOLDER)/$(DEMO_NAME) --max-energy $(DEMO_BUDGET) --export $(DEMO_FOLDER)/$(DEMO_NAME)-picked

pictures: dev
	$(BIN)/python docs/make_pictures.py $(DEMO_FOLDER)/$(DEMO_NAME) docs/img

test: dev
	$(PYTEST) -n $(TEST_JOBS)

# one after the other: hosts are killed and seconds are reported
cluster: dev
	$(PYTEST) -m cluster

static: dev
	@$(MAKE) --no-print-directory -j$(JOBS) --output-sync=target format lint types layers

check: dev
	@$(MAKE) --no-print-directory -j$(JOBS) --output-sync=target format lint types layers fast

format:
	@$(BIN)/ruff format --check --quiet . || { echo "run: make fix"; exit 1; }
lint:
	@$(BIN)/ruff check --quiet .
types:
	@$(BIN)/mypy
layers:
	@$(BIN)/lint-imports --no-logo
fast:
	@$(PYTEST) -q -n $(JOBS) -m 'not slow and not cluster and not browser and not gpu'

fix: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Lock what the tests ran with. No index and no local path is written, so the file serves whoever installs from wherever.
constraints: | $(filter .uv/bin/uv,$(UV))
	$(UV) pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --no-emit-index-url \
		--no-annotate --custom-compile-command "make constraints" --quiet --output-file constraints.txt

clean:
	rm -rf $(VENV) .uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
