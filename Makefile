# Everything is done by `make <target>` in a virtual environment of its own; nothing but Python 3.11 and make is needed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
MODEL  := build/digits
REPORT := build/digits-race.html

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test test-device lint types layers unit bench docs format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing into $(VENV) (once; about a minute, more on a slow line)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## race the digits model here, predict with the winner, explain the choice
	@mkdir -p build && rm -rf $(MODEL) && cp -R examples/digits $(MODEL)
	@echo '$$ runoff env' && $(BIN)/runoff env
	@echo '$$ runoff race $(MODEL) --precisions fp32,bf16,int8 --report $(REPORT)' \
	  && $(BIN)/runoff race $(MODEL) --precisions fp32,bf16,int8 --report $(REPORT)
	@echo '$$ runoff run $(MODEL) $(MODEL)/images/7.png' && $(BIN)/runoff run $(MODEL) $(MODEL)/images/7.png
	@echo '$$ runoff explain $(MODEL)' && $(BIN)/runoff explain $(MODEL)
	@echo && echo "the report with every figure: $(CURDIR)/$(REPORT)"

test: lint types layers unit  ## everything that CI checks

test-device: $(STAMP)  ## what needs a GPU: skipped, in words, where there is none
	@$(BIN)/pytest -q tests/device

lint: $(STAMP)  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, strict
	@$(BIN)/mypy

layers: $(STAMP)  ## import-linter: imports go down only
	@$(BIN)/lint-imports

unit: $(STAMP)  ## pytest: all tests, documentation included, two files at a time
	@$(BIN)/pytest -q -n 2 --dist loadfile

docs: $(STAMP)  ## run the code blocks of README and docs/, check links, refresh docs/structure.md
	@$(BIN)/python tests/meta/structure.py
	@$(BIN)/pytest -q tests/meta/test_docs.py tests/meta/test_structure.py

bench: $(STAMP)  ## the benchmarks behind each claim of speed
	@for script in overhead choice runtimes; do \
	  echo "$$ python benchmarks/$$script.py"; $(BIN)/python benchmarks/$$script.py || exit 1; done

format: $(STAMP)  ## rewrite the code as ruff wants it
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove what make made
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
