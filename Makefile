# make run    the main job: data to verified ARM binary, with a report
# make test   the whole test suite
# make test-gpu   the tests of the CUDA kernels on this machine's GPU; needs only torch, numpy, CuPy
#             and pytest, of .venv or else of PYTHON; UNDER="compute-sanitizer --tool racecheck"
# make lint   format, lint, types, import contracts
# PIP_ARGS reaches pip, e.g. make run PIP_ARGS="--find-links wheels/" (a CPU build of torch,
# a local wheel folder); ARGS reaches bitspin and pytest, e.g. make run ARGS="--data photos/".

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS) -c constraints.txt

GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
UNDER ?=

.PHONY: run test test-gpu lint format clean
.DELETE_ON_ERROR:

run: $(VENV)/.run-ready
	$(BIN)/bitspin run $(ARGS)

test: $(VENV)/.test-ready
	$(BIN)/python -m pytest $(ARGS)

test-gpu:
	@$(GPU_PYTHON) -c 'import sys; from kernels.cuda_launch import missing; \
	  lack = missing(); lack and sys.exit("make test-gpu: " + lack)'
	$(UNDER) $(GPU_PYTHON) -m pytest -c tests/kernels/cuda/gpu.ini tests/kernels/cuda $(ARGS)

lint: $(VENV)/.test-ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test-ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bitspin needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); set PYTHON=" >&2; exit 2; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# torch first: a later resolve of the other packages must not replace the build chosen here.
$(VENV)/.run-ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing bitspin and what it needs into $(VENV) (about 2 GB, some minutes, only once)"
	@$(PIP) torch
	@$(PIP) --editable '.[arm]'
	@touch $@

$(VENV)/.test-ready: $(VENV)/.run-ready
	@echo "installing the test and development tools"
	@$(PIP) --editable '.[arm,test,dev]'
	@touch $@
