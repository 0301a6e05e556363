# make demo    environment, install, training and report on small pictures of objects (minutes on two cores)
# make test    environment, install, all tests
# make test-lowest   the tests that take no more than seconds, on the lowest version of each dependency
# make check   format, lint, types, tests
# make bench   the benchmarks, results in benchmarks/results; FULL=1 for the losses at all sizes (hours)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

LOWEST := .venv-lowest
# What runs without any extra: the library on the lowest torch of all.
CORE := tests/losses tests/mining tests/similarity tests/evaluate tests/offline tests/test_distributed.py \
	tests/test_memory.py tests/test_memory_golden.py tests/test_memory_laws.py tests/test_memory_peers.py \
	tests/test_memory_state.py tests/test_pairs.py tests/test_files.py tests/test_toml.py

.PHONY: demo test test-lowest check bench clean

demo: $(VENV)/train
	$(BIN)/nearfar demo

# One thread for each of two processes: on two cores that is twice as fast as two threads for one.
test: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

test-lowest: $(LOWEST)-core/dev-core $(LOWEST)/dev
	OMP_NUM_THREADS=1 $(LOWEST)-core/bin/python -m pytest -q -n 2 -m 'not slow' $(CORE)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q -n 2 -m 'not slow' $(CORE:%=--ignore=%)

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(MAKE) test

bench: $(VENV)/bench
	$(BIN)/python benchmarks/retrieval.py
	$(BIN)/python benchmarks/losses.py $(if $(FULL),--full)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || (rm -rf $(VENV); exit 1)

$(VENV)/train $(VENV)/dev $(VENV)/bench: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e '.[$(@F)]'
	touch $@

$(LOWEST)-core/dev-core $(LOWEST)/dev: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv --clear $(@D)
	$(PYTHON) tests/lowest.py $(if $(findstring core,$(@F)),core) > $(@D)/lowest.txt
	$(@D)/bin/python -m pip --disable-pip-version-check install -e '.[$(@F)]' -c $(@D)/lowest.txt
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(LOWEST)-core .pytest_cache .ruff_cache .hypothesis
