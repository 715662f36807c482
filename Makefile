# Everything runs from .venv, which is made here; nothing else on the machine is changed but a cache outside the checkout.

PYTHON ?= python3
BENCH ?=
UPGRADE ?=
BIN := .venv/bin
STAMP := .venv/.installed
LOCK := $(BIN)/pip-compile --quiet --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-header $(UPGRADE)

.DEFAULT_GOAL := help
.PHONY: help demo test bench lint cluster lock

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

demo: $(STAMP) ## Play the first story end to end on a real control plane
	$(BIN)/python deploy/examples/demo.py

test: $(STAMP) ## Run all tests; the first time builds the control plane, virt-api and virtctl, some 15 minutes
	$(BIN)/python -m localcluster build --virt
	$(BIN)/python -m pytest

bench: $(STAMP) ## Measure the operator against a bare client, some 20 minutes; BENCH=--quick takes two, BENCH=--help shows more
	$(BIN)/python -m localcluster build
	$(BIN)/python -m tests.bench $(BENCH)

lint: $(STAMP) ## Check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

cluster: $(STAMP) ## Run a control plane with KubeVirt's kinds in the foreground, until Ctrl-C
	$(BIN)/python -m localcluster up

lock: $(STAMP) ## Write the locked requirements anew; UPGRADE=--upgrade takes newer versions
	$(LOCK) --output-file=requirements/operator.txt pyproject.toml
	$(LOCK) --allow-unsafe --output-file=requirements/dev.txt requirements/dev.in
	$(LOCK) --output-file=requirements/go.txt requirements/go.in

$(STAMP): pyproject.toml requirements/operator.txt requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@echo "installing the locked dependencies into .venv; this takes about a minute"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/operator.txt -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
