# Everything that a newcomer types. Needs Python 3.11 or later and nothing else; what is installed goes to .venv.
VENV := .venv
BIN := $(VENV)/bin
# Where `make image` leaves images.
IMAGES := $(CURDIR)/build/images
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$python && break; done)
# Compiling everything that is installed takes longer than what is used of it takes at the first start.
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-compile

# With it every process would compile everything anew, and the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check pytest simulate image bench soak format schema clean

help: ## What there is to make.
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Run a stand-in vendor and the gateway in front of it; Ctrl-C ends both.
	@$(BIN)/pixxel-gateway demo

test: check pytest ## Check format, lint and types, and run the tests.

pytest: $(VENV)/.development ## Run the tests alone (VENV=.venv-3.13 PYTHON=python3.13: on another Python).
	@$(BIN)/python -m pytest -n 4

image: $(VENV)/.development ## Build the image, and run it as the deployment files do (Linux, as root; see .ci/run).
	@.ci/image $(IMAGES)
	@IMAGES=$(IMAGES) $(BIN)/python -m pytest -m image tests/deploy

check: $(VENV)/.development ## Format, lint and types.
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --num-workers 2

SEEDS ?= 0-1999
simulate: $(VENV)/.development ## Run schedules of faults on virtual time: replicas, Redis and vendor (SEEDS=0-1999).
	@cd tests && ../$(BIN)/python -m simulation --seeds $(SEEDS)

bench: $(VENV)/.development ## Measure: vendor calls, faults, freshness, memory, costs beside nginx's, consistency (some 20 minutes).
	@for name in stampede windows faults freshness eviction memory hits distance growth starting scraping consistency; do \
		echo; echo "== $$name"; $(BIN)/python tests/bench/$$name.py || exit 1; done

soak: $(VENV)/.development ## Minutes of random faults: wrong bodies, unexplained errors, memory (SOAK_SECONDS=180).
	@$(BIN)/python tests/bench/soak.py

format: $(VENV)/.development ## Put the code into shape.
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

schema: $(VENV)/.runtime ## Write config/gateway.schema.json anew.
	@$(BIN)/pixxel-gateway schema > config/gateway.schema.json

clean: ## Remove what was installed and made.
	rm -rf $(VENV) .venv-* build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later, with venv, is needed; name one with make PYTHON=..."; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV)"
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.development: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV)"
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $(VENV)/.runtime $@
