# One line a target; `make help` prints them. The environment is made once and again when its pins change.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(abspath $(VENV))/bin
# Passive waiting: two torch processes that spin on the same cores slow each other by far more than two.
export OMP_WAIT_POLICY ?= passive
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY = 1
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --progress-bar off $(PIP_ARGS) -c constraints.txt

.PHONY: help env chat test check format e2e bench bench-train system-packages clean
help:  ## print this
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-16s %s\n", $$1, $$2}'

chat: $(VENV)/.serve  ## fresh machine: environment, default weights, then the chat page in the browser
	$(BIN)/mllm chat

test: $(VENV)/.dev system-packages  ## fresh machine: environment, then the whole default test suite
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

env: $(VENV)/.dev  ## the environment for work on this project, with everything in it

check: $(VENV)/.dev  ## lint, format, types, and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	.ci/rooms
	cd build/rooms && $(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p mllm
	cd build/rooms && PYTHONPATH=. $(BIN)/lint-imports --config ../../pyproject.toml --no-cache

format: $(VENV)/.dev  ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

e2e: $(VENV)/.dev system-packages  ## the slow tests: browser, training, the whole path
	$(BIN)/python -m pytest -m slow $(ARGS)

bench: $(VENV)/.dev  ## measure speed and memory on this machine (accuracy: mllm eval)
	env -u OMP_WAIT_POLICY $(BIN)/python -m mllm.eval.bench $(ARGS)

bench-train: $(VENV)/.dev  ## the same of training, on the rows of runs/data/mini
	$(BIN)/python -m mllm.train.bench speed $(ARGS)
	$(BIN)/python -m mllm.train.bench stream
	$(BIN)/python -m mllm.train.bench large

system-packages:
	@.ci/system_packages

clean:  ## remove what the build made; the environment and the weights' cache stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mllm needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# Pins matter: an unpinned torch pulls a build of several gigabytes.
$(VENV)/.serve: $(VENV)/bin/python pyproject.toml constraints.txt
	@test -e $(VENV)/.dev || { echo "installing mllm and its chat page into $(VENV) (a few minutes)"; $(PIP_INSTALL) -e '.[serve]'; }
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing mllm with everything in it into $(VENV) (a few minutes)"
	@$(PIP_INSTALL) -e '.[dev]'
	@$(PIP_INSTALL) --no-deps tinysoundfont mirdata xgrammar  # why without: pyproject.toml, extras `data` and `grammar`
	@touch $@ $(VENV)/.serve
