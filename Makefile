# recgym: `make quickstart` is the main job, `make test` the tests, `make check` what CI runs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# A CPU build where pip finds one on disk; elsewhere set TORCH_INDEX to the index of the build you want.
TORCH_INDEX ?=
LOGS ?=
FORMAT ?= recgym
OUT ?= runs/quickstart
ARGS ?=

.PHONY: help install quickstart test check format lint types imports learn bench sample clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed ## create the environment (torch first, then the rest)

$(VENV)/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (torch first) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[experiments,p5,dev]"
	@touch $@

quickstart: install ## the main job on the sample logs, or on LOGS=folder FORMAT=movielens
	$(BIN)/python -m experiments quickstart --out $(OUT) $(if $(LOGS),--logs $(LOGS) --format $(FORMAT)) $(ARGS)

test: install ## the test suite
	$(BIN)/python -m pytest -n 2 $(ARGS)

check: install format lint types imports test ## everything CI runs

format: install
	$(BIN)/ruff format --check .

lint: install
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

learn: install ## slow learning tests (minutes)
	$(BIN)/python -m pytest -m slow $(ARGS)

bench: install ## speed of the environment beside its floor, and of known worlds
	$(BIN)/python -m experiments bench env
	$(BIN)/python -m experiments bench worlds

sample: install ## generate the embedded sample log again, bit for bit
	$(BIN)/python -m experiments sample

clean: ## remove the environment and caches
	rm -rf $(VENV) .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
