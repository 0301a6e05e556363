# make demo    environment, install, training and report on small pictures of objects (minutes on two cores)
# make test    environment, install, the tests: combinations in turns
# make test-all      all tests, with all combinations
# make test-lowest   the tests that take no more than seconds, on the lowest version of each dependency
# make check   format, lint, types, tests
# make bench   the benchmarks, results in benchmarks/results; FULL=1 for the losses at all sizes (hours)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

LOWEST := .venv-lowest
# Of each part of the package what leans on other packages most. CORE runs without any extra, on the lowest torch.
CORE := $(addprefix tests/,losses/test_by_hand.py losses/test_golden.py criterion/test_module.py \
	losses/test_proxies.py losses/test_ranking.py criterion/test_sum.py losses/test_ties.py criterion/test_numbers.py \
	mining/test_definitions.py similarity/test_tiled.py evaluate/test_definitions.py evaluate/test_options.py \
	evaluate/test_golden_ranking.py memory/test_memory.py memory/test_memory_state.py memory/test_memory_golden.py test_pairs.py \
	test_distributed.py offline test_toml.py test_files.py)
EXTRAS := $(addprefix tests/,cli/test_cli.py config/test_config.py models/test_embedder.py models/test_pooling.py \
	data/test_table.py data/test_decode.py data/test_images.py report/test_report_page.py caffe/test_convert.py)

.PHONY: demo test test-all test-lowest check bench clean

demo: $(VENV)/train
	$(BIN)/nearfar demo

# One thread for each of two processes: on two cores that is twice as fast as two threads for one. A file is
# tested in one process, so that what its tests share is made once; tests/conftest.py says which begin first.
PYTEST := -m pytest -q -n 2 --dist loadfile

test: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m 'not exhaustive'

test-all: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) --hypothesis-profile=default

test-lowest: $(LOWEST)-core/dev-core $(LOWEST)/dev
	OMP_NUM_THREADS=1 $(LOWEST)-core/bin/python $(PYTEST) -m 'not slow and not exhaustive' $(CORE)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python $(PYTEST) -m 'not slow and not exhaustive' $(EXTRAS)

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
