# Every target that needs the environment makes it first; once it is there, that costs a second.
# Another interpreter: make PYTHON=python3.12 demo
PYTHON ?= python3
VENV_PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-openmmlab test-gpu bench campaigns lint types format docs wheel release-check clean

help:
	@echo "make demo      train Mask R-CNN with HCGNet-B on generated shapes, test it, save images"
	@echo "make test      run the tests but for the slow ones (all of them where CI=true)"
	@echo "make test-all  run all tests"
	@echo "make test-openmmlab  run all tests with the upstream MM packages (.venv-openmmlab)"
	@echo "make test-gpu  run the tests that want CUDA devices"
	@echo "make bench     measure speed and memory against their targets (15 minutes on 2 cores)"
	@echo "make campaigns kill, damage, attack and mislead runs some 1,000 times, and try all configs of the toolboxes (more than two hours on 2 cores)"
	@echo "make lint      check the code's style; make format fixes most of it"
	@echo "make types     check the types that users of the package see"
	@echo "make docs      build the documentation site, in build/site"
	@echo "make wheel     build the package, and train one step with it in a new environment"
	@echo "make release-check  all that a release needs: the above but for demo, bench and campaigns (an hour or two)"
	@echo "make setup     only make the environment (.venv); the targets above do it by themselves"
	@echo "make clean     delete what builds and tests leave behind; .venv stays"

setup:
	@command -v $(PYTHON) >/dev/null || { echo "[set-up] There is no $(PYTHON) here." \
	  "On Debian or Ubuntu: sudo apt-get install -y git make g++ python3-venv python3-dev" \
	  "libgl1 libglib2.0-0"; exit 1; }
	@$(PYTHON) tools/misc/setup_env.py

demo: setup
	@$(VENV_PYTHON) demo/run_demo.py

# As many tests at once as there are cores, each with one thread.
PYTEST := $(VENV_PYTHON) -m pytest --numprocesses=logical --maxprocesses=8 --dist=worksteal --durations=10

ifeq ($(CI),true)
test: test-all
else
test: setup
	@echo "Running the tests: 5 to 10 minutes on 2 cores."
	@$(PYTEST) -m "not gpu and not slow" $(PYTEST_ARGS)
endif

test-all: setup
	@echo "Running all tests: 7 to 15 minutes on 2 cores."
	@$(PYTEST) -m "not gpu" $(PYTEST_ARGS)

# The upstream line of the MM packages, in an environment of its own.
OPENMMLAB ?= .venv-openmmlab
test-openmmlab:
	@$(PYTHON) -m venv $(OPENMMLAB)
	@$(OPENMMLAB)/bin/pip install -r requirements/build.txt -r requirements/torch-openmmlab.txt
	@MAX_JOBS=$${MAX_JOBS:-2} $(OPENMMLAB)/bin/pip install --no-build-isolation \
	  -e ".[openmmlab,tests]" -r requirements/torch-openmmlab.txt
	@$(OPENMMLAB)/bin/pip install --no-deps -r requirements/tests-no-deps.txt
	@$(OPENMMLAB)/bin/python -m pytest --numprocesses=logical --maxprocesses=8 \
	  --dist=worksteal --durations=10 -m "not gpu" $(PYTEST_ARGS)

test-gpu: setup
	@$(VENV_PYTHON) -m pytest tests -m gpu $(PYTEST_ARGS)

bench: setup
	@$(VENV_PYTHON) benchmarks/run.py $(BENCH_ARGS)

# Each ends with a line that says what it has found, and with an error if anything got through.
campaigns: setup
	@for name in kills signals damage payloads data_faults properties methods sweep; do \
	  echo "== $$name"; $(VENV_PYTHON) -m campaigns.$$name || exit 1; done

# Linters and builders need no PyTorch: an environment of seconds.
.venv-tools/done: requirements/tools.txt
	@$(PYTHON) -m venv .venv-tools
	@.venv-tools/bin/pip install -q --disable-pip-version-check -r requirements/tools.txt
	@touch $@

lint: .venv-tools/done
	@.venv-tools/bin/ruff check .
	@.venv-tools/bin/ruff format --check .
	@.venv-tools/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: .venv-tools/done
	@.venv-tools/bin/ruff check --fix .
	@.venv-tools/bin/ruff format .

# What users of the package see, with PyTorch's own types.
types: setup .venv-tools/done
	@.venv-tools/bin/mypy --strict --allow-any-generics --ignore-missing-imports \
	  --follow-imports=silent --python-executable $(VENV_PYTHON) tests/data/public_api.py

docs: .venv-tools/done
	@NO_MKDOCS_2_WARNING=1 .venv-tools/bin/mkdocs build
	@echo "The site is in build/site."

wheel: .venv-tools/done
	@rm -rf dist
	@.venv-tools/bin/python -m build -o dist .
	@.venv-tools/bin/twine check --strict dist/*
	@$(PYTHON) tools/misc/try_wheel.py dist/*.whl

# What is quick first.
release-check: setup
	@$(VENV_PYTHON) tools/misc/check_release.py
	@$(MAKE) lint types docs
	@CI=true $(MAKE) test
	@$(MAKE) test-openmmlab
	@$(MAKE) wheel
	@echo "Everything that a release needs has passed."

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
