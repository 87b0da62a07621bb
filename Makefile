# Everything a developer runs. `make` alone lists it; CONTRIBUTING.md says more.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
# Tried before those on PATH, where a version manager's shim may stand that refuses to run.
PYTHON310 ?= $(lastword $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.10.*/bin/python))
SKIP_ONEFLOW ?=
ONEFLOW ?=
PYTEST_ARGS ?=
BENCHMARK ?= start open verify convert save load asynchronous growth
QUICK ?=
MINUTES ?= 20
FUZZ ?=

TORCH := .envs/torch/bin/python
SCALE := $(if $(filter-out 0,$(QUICK)),quick,full)
WITHOUT_ONEFLOW := $(filter-out 0,$(SKIP_ONEFLOW))
TOX := PYTHON=$(PYTHON) .envs/tox/bin/python -m tox run --notest

# Set, it makes a test that misses a published checkpoint fail rather than skip.
export MULTIFRAME_PUBLISHED := $(CURDIR)/.envs/published

.PHONY: help
help: ## this list
	@echo "make TARGET, where TARGET is one of"
	@awk -F ' ## ' '/^[a-z-]+:.* ## / { sub(/:.*/, "", $$1); printf "  %-19s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "PYTHON=…  the default Python (3.10 or newer)      PYTHON310=…     a Python 3.10, for OneFlow"
	@echo "ONEFLOW=1 the demo goes on to real OneFlow        SKIP_ONEFLOW=1  test without OneFlow"
	@echo "STEP=7    make flips takes every 7th bit, in minutes rather than a quarter of an hour"
	@echo "PYTEST_ARGS='-k name'  for make test-bare, test-torch, test-oneflow"

.PHONY: demo
demo: env-torch $(if $(filter-out 0,$(ONEFLOW)),env-oneflow) ## train, convert to OneFlow's layout, verify, read back (ONEFLOW=1: in real OneFlow too, and move a run)
	$(TORCH) examples/demo.py $(if $(filter-out 0,$(ONEFLOW)),--oneflow-python .envs/oneflow/bin/python)
	$(if $(filter-out 0,$(ONEFLOW)),$(TORCH) examples/move_a_run.py --oneflow-python .envs/oneflow/bin/python)

.PHONY: test test-bare test-torch test-oneflow
test: notice environments test-bare test-torch $(if $(WITHOUT_ONEFLOW),,test-oneflow) ## the tests in three environments: bare, new torch, real OneFlow
	@$(SAY_SKIPPED)

test-bare: ## the tests without any framework
test-torch: ## the tests with new torch
test-oneflow: ## the tests with real OneFlow and torch in one process
test-bare test-torch test-oneflow: test-%: env-% published
	@printf '\n=== tests in .envs/$* ===\n'
	.envs/$*/bin/python -m pytest -q $(PYTEST_ARGS)

.PHONY: flips
flips: env-torch ## flip every bit of small checkpoints of every layout (STEP=7: every 7th), and count what is noticed
	MULTIFRAME_FLIP_STEP=$(or $(STEP),1) $(TORCH) -m pytest -q tests/faults/test_flips.py $(PYTEST_ARGS)

.PHONY: check lint
check: lint test-torch ## what must hold before a commit: format, lint, types, floors, tests

lint: env-torch ## the checks that run no test
	$(TORCH) -m ruff format --check .
	$(TORCH) -m ruff check .
	$(TORCH) -m mypy
	$(TORCH) -m mypy tests/published
	.envs/torch/bin/lint-imports

.PHONY: format
format: env-torch ## let ruff rewrite what it can
	$(TORCH) -m ruff check --fix .
	$(TORCH) -m ruff format .

.PHONY: bench
bench: env-torch ## measure against every peer that is here: JSON, PNG, docs/performance.md (BENCHMARK=save one question, QUICK=1)
	@# a minute between them: see put_away in benchmarks/harness.py
	for name in $(BENCHMARK); do $(TORCH) benchmarks/$$name.py --scale $(SCALE) && { test $(SCALE) != full || sleep 60; }; done
	$(TORCH) benchmarks/table.py --scale $(SCALE)

.PHONY: fuzz
fuzz: env-fuzz ## mutate files for each parser (MINUTES=20 each, FUZZ=name for one); findings in fuzz/findings
	.envs/fuzz/bin/python fuzz/run.py --minutes $(MINUTES) $(FUZZ)

.PHONY: environments env-bare env-torch env-oneflow env-fuzz env-peers published
# OneFlow's first, so that a missing Python 3.10 is known before anything is fetched.
environments: $(if $(WITHOUT_ONEFLOW),,env-oneflow) env-bare env-torch published ## set up what the tests need, without running them

env-peers: ## for make bench: Orbax and TensorStore, which bring JAX (0.7 GB)
env-bare env-torch env-fuzz env-peers: env-%: .envs/tox/stamp
	@$(TOX) -e $*

env-oneflow: .envs/tox/stamp
	@$(TOX) -e oneflow $(addprefix --discover ,$(PYTHON310)) || { test -x .envs/oneflow/bin/python || $(NO_PYTHON310); exit 1; }

NO_PYTHON310 := printf '%s\n' >&2 \
	'OneFlow runs on Python 3.10 and no newer one. Say where one is:  make test PYTHON310=/path/to/python3.10' \
	'or go without OneFlow, which then stays untested:                make test SKIP_ONEFLOW=1'

.envs/tox/stamp: constraints/default.txt
	@$(PYTHON) -m venv --clear .envs/tox
	@.envs/tox/bin/python -m pip install --quiet --disable-pip-version-check --constraint $< tox
	@touch $@

published: env-bare
	@.envs/bare/bin/python tests/published/fetch.py

.PHONY: clean clean-environments
clean: ## remove what runs left behind, keep the environments
	rm -rf dist build outputs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.envs/*' -prune -exec rm -rf {} +

clean-environments: ## remove .envs, which takes gigabytes and minutes to make again
	rm -rf .envs

SAY_SKIPPED := $(if $(WITHOUT_ONEFLOW),printf '%s\n' \
	'************************************************************************' \
	'  SKIP_ONEFLOW is set: nothing was tested against real OneFlow.' \
	'************************************************************************' >&2,true)

.PHONY: notice
notice:
	@$(SAY_SKIPPED)
