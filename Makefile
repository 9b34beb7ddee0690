# The two commands are `make quickstart` and `make test`. Each sets itself up; a second call installs nothing.
# `make help` lists all of them.
PYTHON ?= python3
VENV ?= .venv
# A lock file of requirements/; empty for the newest versions that pip finds.
LOCK ?=
NEWEST ?= python3.13
BIN := $(VENV)/bin
# Compiled programs are kept between test runs: nearly all test time is compile time.
CACHE := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.jax_cache JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

# As many processes as there are cores, up to four; a file stays in one, for its fixtures.
WORKERS := -n auto --maxprocesses 4 --dist loadfile

REPRODUCTIONS := influence_balancing variance table_1 toy_regression swimmer acrobot l2_tuning evolution implicit lorenz lr_schedule lstm_variance recurrent many_hyperparameters pbt_toy short_horizon_trap noisy_valley lasting_damage schedule_population fire_numbers control_population meta_population which_estimator

.PHONY: help docs tutorials quickstart general general_v1 test test-slow test-torch test-newest lint bench reproduce clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9_-]+:.*## / {printf "make %-10s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(VENV)/.train  ## meta-train, evaluate and export an optimizer: under 6 minutes on 2 cores
	$(BIN)/meta-train run configs/quickstart.yaml --out runs/quickstart --resume
	$(BIN)/meta-train evaluate runs/quickstart
	$(BIN)/meta-train export runs/quickstart --out runs/quickstart/optimizer

general: $(VENV)/.train  ## write `pretrained:general` again, from the 22 numbers that were found for it
	$(BIN)/python -m benchmarks.general runs/pretrained_general

# A second call continues where the first one stopped.
general_v1: $(VENV)/.train  ## meta-train `pretrained:general_v1` again: about an hour on 2 cores
	$(BIN)/meta-train run configs/general.yaml --resume && $(BIN)/meta-train export runs/general --last
	for phase in general_2 general_3 general_4; do \
	  $(BIN)/meta-train run configs/$$phase.yaml --resume && $(BIN)/meta-train export runs/$$phase || exit 1; done
	$(BIN)/meta-train evaluate runs/general_4 --tasks A+B

test: $(VENV)/.dev  ## run the test suite
	$(CACHE) $(BIN)/python -m pytest -q $(WORKERS)

test-slow: $(VENV)/.dev  ## run the tests that take long
	$(CACHE) $(BIN)/python -m pytest -q $(WORKERS) -m slow $(ARGS)

# One version, so that the tests see the same PyTorch everywhere.
test-torch: $(VENV)/.dev  ## install PyTorch and run the tests that need it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pyright --pythonpath $(BIN)/python learned_opt/torch
	$(CACHE) $(BIN)/python -m pytest -q $(WORKERS) -m torch tests/learned_opt

test-newest:  ## run the test suite on Python 3.13 with the newest JAX, in an environment of its own
	$(MAKE) test VENV=.venv-newest PYTHON=$(NEWEST) LOCK=requirements/python3.13-newest.txt

lint: $(VENV)/.dev  ## run ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.dev  ## write the tables of docs/ and the drawing of its first page, and build the site into site/
	$(BIN)/python -m docs.make_tables
	$(BIN)/python docs/make_windows_drawing.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

tutorials: $(VENV)/.dev  ## run the tutorials of docs/tutorials, and write their pages with what they print and draw
	$(BIN)/python docs/run_tutorials.py

bench: $(VENV)/.dev  ## compare an outer step with one written by hand
	$(BIN)/python benchmarks/overhead.py

$(VENV)/.created:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.train: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(LOCK:%=-r %) -e '.[train]'
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.train
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(LOCK:%=-r %) -e '.[train,dev,docs]'
	touch $@

# A second call continues where the first one stopped: what has its numbers is not run again.
reproduce: $(REPRODUCTIONS:%=runs/reproductions/%.json)  ## run all reproductions and draw their pictures: about two hours

runs/reproductions/%.json: | $(VENV)/.dev
	$(BIN)/python -m reproductions.$* --json $@ --out docs/reproductions/$*.png

.DELETE_ON_ERROR:

clean:  ## remove the environment, the caches and the runs
	rm -rf $(VENV) .venv-newest .jax_cache .pytest_cache .ruff_cache runs site
