# make demo   fits mock stars offline and writes the folder demo/
# make test   runs the tests, those of arithmetic in both precisions
# make test-slow  runs those that take long: calibration, the reference path
# make bench  runs the benchmarks and puts their table into docs/benchmarks.md (an hour; see `BENCH`)
# make lint   checks style, format and types
# make clean  removes what the others made
#
# Everything is installed into .venv, which needs Python 3.11 or later and the network, once.
# `make PYTHON=python3.12 demo` chooses the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# tests of arithmetic, which run in double precision too (others choose the precision themselves)
NUMERICAL := $(patsubst %,tests/test_%.py,math photometry sampling priors sed grid)

# files of tests run on as many cores as this, each in a process of some 5 GB
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

# programs compiled by an earlier run, or by the other test process, are used again
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax-cache
export BRUTAX_CACHE ?= $(CURDIR)/.jax-cache/brutax

# what `make bench` runs: minutes on two cores are about 2, 8, 2, 3, 2, 3, 2, 15, 20, and 2, 2, 2, 6 beside
# brutus, where BRUTAX_PEER_PYTHON has it; `make bench BENCH="stages startup"` runs some
BENCH ?= exactness calibration stages startup misfits orion interruption stress scaling \
  $(if $(BRUTAX_PEER_PYTHON),against_brutus against_brutus_large models dust)

.PHONY: demo test test-slow bench lint clean
.NOTPARALLEL:  # timings mean something only on a machine that does nothing else

demo: $(VENV)/.installed-all
	$(BIN)/brutax demo -o demo

test: $(VENV)/.installed-dev
	JAX_ENABLE_X64=0 $(PYTEST)
	JAX_ENABLE_X64=1 $(PYTEST) $(NUMERICAL)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m slow

bench: $(VENV)/.installed-dev $(BENCH:%=bench-%)
	$(BIN)/python benchmarks/table.py --write
	$(BIN)/python benchmarks/table.py

bench-against_brutus_large:
	$(BIN)/python benchmarks/against_brutus.py --grid mist_large

bench-%:
	$(BIN)/python benchmarks/$*.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

clean:
	rm -rf demo build dist .ruff_cache .pytest_cache .jax-cache
	rm -f $(VENV)/.installed-*
	find brutax tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# the package is installed as a link to this folder, so that only its metadata call for a new one
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "brutax needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
