# `make install`, `make demo` and `make test` need Python 3.11 or newer and make, nothing else: they build .venv from the lock file.
PYTHON ?= python3
BIN := .venv/bin
# The baseline, then every other mechanism that has a config for the demo.
DEMO := softmax $(filter-out base pico softmax,$(basename $(notdir $(wildcard configs/demo/*.yaml))))

MINUTES ?= 10

.PHONY: help install demo check test test-all search lint site bench lock clean

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /	/' | expand -t 10

.venv/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; run make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

install: .venv/installed ## Build .venv from the lock file

SINKS := configs/studies/demo.yaml
SINKS_RUNS := runs/studies/demo

demo: .venv/installed ## Train five mechanisms on a task with sinks and on language, evaluate, write two pages
	@$(BIN)/python -m study run $(SINKS) && $(BIN)/python -m study report $(SINKS)
	@$(BIN)/python -m eval heatmaps $(SINKS_RUNS)/softmax-seed-1 $(SINKS_RUNS)/softpick-seed-1 --prompt 'abbaabababbab!' --out $(SINKS_RUNS)/heatmaps
	@for name in $(DEMO); do $(BIN)/python train.py configs/demo/$$name.yaml --resume || exit $$?; done
	@$(BIN)/python -m eval all $(DEMO:%=runs/demo/%)

# Triton's kernels are interpreted and compiled in the tests, without a GPU; there is no Triton outside of Linux.
.venv/triton: .venv/installed
	@[ "$$(uname)" != Linux ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check triton==3.7.1
	@touch $@

# Triton's interpreter must be chosen before a kernel is defined, hence a pytest of its own.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: .venv/triton ## Run the tests that start no process and train nothing, in a minute
	$(PYTEST) --tier check

test: .venv/triton ## Run the tests: all that a change can break
	$(PYTEST)
	TRITON_INTERPRET=1 $(PYTEST) tests/interpreter

test-all: .venv/triton ## Run the tests of every variant of every mechanism, too
	$(PYTEST) --tier all
	TRITON_INTERPRET=1 $(PYTEST) --tier all tests/interpreter

search: .venv/triton ## Try new random examples in the tests for MINUTES=10
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.search --minutes $(MINUTES)

lint: .venv/installed ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: .venv/installed ## Build the site from docs/ into build/site; a dead link ends it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "open build/site/index.html"

bench: .venv/installed ## Time and memory of every mechanism, and of training steps
	$(BIN)/python -m benchmarks.bench_attention --write .
	$(BIN)/python -m benchmarks.bench_train --write .

lock: ## Pin what pyproject.toml resolves to
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet 'torch==2.13.0' '.[eval,data,study,dev]'
	.venv-lock/bin/python -m pip freeze --exclude attention-zoo | sed 's/+cpu$$//' > requirements.lock
	rm -rf .venv-lock build attention_zoo.egg-info

clean: ## Remove the environment and the demo's runs
	rm -rf .venv runs/demo $(SINKS_RUNS)
