# `make demo` and `make test` need Python 3.11, 3.12 or 3.13 with pip, make and bash; they set up the rest in .venv.
#
#   PYTHON=python3.12       the interpreter to make .venv with
#   PYTEST_ARGS="-n 2 -x"   words for pytest instead of "-n 2 --dist loadfile" (two workers, a file on one of them)

VENV := .venv
PYTEST_ARGS ?= -n 2 --dist loadfile
BIN := $(VENV)/bin
SETUP := VENV="$(VENV)" PYTHON="$(PYTHON)" scripts/setup.sh
PINS := pyproject.toml constraints.txt scripts/setup.sh

.PHONY: help demo test test-all check lint types imports data zoo matrix bench bench-full bench-check bench-record clean

help:
	@echo "make demo      set up and run the main job on real data; the report lands in demo-out/"
	@echo "make test      set up and run the checks and the fast tests"
	@echo "make test-all  the same with the slow tests (run make data first)"
	@echo "make zoo       prune all 161 networks of tests/architectures and prove, train, save and export each; five of timm"
	@echo "make matrix    seven kinds of networks on every runtime, float and low precision: right, or refused and why"
	@echo "make data      fetch the real data set that the slow tests use into .data/"
	@echo "make bench     measure the quick benchmarks (minutes) and print the tables; docs/benchmarks.md has the rest"
	@echo "make clean     remove .venv, caches and what was built"

$(VENV)/.run-ready: $(PINS)
	@$(SETUP) onnxruntime
	@touch $@

$(VENV)/.test-ready: $(VENV)/.run-ready
	@$(SETUP) onnxruntime,openvino,executorch,ncnn,mnn,coreml,dev
	@$(BIN)/packlight targets install litert || echo "packlight: the tests of litert will be skipped"
	@$(BIN)/python -m pip install -q --no-deps --upgrade --target $(VENV)/apart -c $(VENV)/constraints.txt timm torchvision || \
		echo "packlight: the tests of timm will be skipped"
	@$(BIN)/packlight targets install tensorflow || echo "packlight: the tests of TensorFlow's files will be skipped"
	@touch $@

demo: $(VENV)/.run-ready
	@$(BIN)/packlight demo --out demo-out

lint: $(VENV)/.test-ready
	@$(BIN)/ruff check --quiet && echo "ruff: no findings"

types: $(VENV)/.test-ready
	@$(BIN)/mypy --no-error-summary && echo "mypy: no findings"

imports: $(VENV)/.test-ready
	@$(BIN)/lint-imports --no-logo

check: lint types imports

test: check
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-all: check
	@$(BIN)/python -m pytest -m "not zoo" $(PYTEST_ARGS)

zoo: $(VENV)/.test-ready
	@$(BIN)/python -m pytest -m "" tests/passes/test_prune_zoo.py tests/sources/test_timm.py $(PYTEST_ARGS)

matrix: $(VENV)/.test-ready
	@$(BIN)/python -m pytest -m "" -s tests/targets/test_matrix.py $(PYTEST_ARGS)

data:
	@scripts/get_data.sh

BENCH := $(BIN)/python -m benchmarks

bench: $(VENV)/.run-ready
	@$(BENCH) run --quick
	@$(BENCH) tables --quick --ledger .bench/ledger.jsonl

# Fails on what got really worse than the committed ledger.
bench-check: $(VENV)/.run-ready
	@$(BENCH) run --quick
	@$(BENCH) check

# These two add to the committed ledger; the second also fills the tables and plots of README and docs.
bench-record: $(VENV)/.run-ready
	@$(BENCH) run --quick --ledger benchmarks/results/ledger.jsonl

bench-full: $(VENV)/.test-ready data
	@$(BENCH) run --ledger benchmarks/results/ledger.jsonl
	@$(BENCH) tables --write

clean:
	rm -rf $(VENV) build dist demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find packlight tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
