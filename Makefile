# make demo    environment, install, training and report on small pictures of objects (minutes on two cores)
# make test    environment, install, all tests
# make check   format, lint, types, tests
# make bench   the benchmarks, results in benchmarks/results; FULL=1 for the losses at all sizes (hours)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test check bench clean

demo: $(VENV)/train
	$(BIN)/nearfar demo

# One thread for each of two processes: on two cores that is twice as fast as two threads for one.
test: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

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

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
