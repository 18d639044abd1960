# Every target sets up its own virtual environment on first use and again when the pins change.
# Needs Python >= 3.10 and a C compiler.
#   make PYTHON=python3.12      another Python
#   make VENV=/tmp/venv         another place for the environment
#   make test ARGS="-k target"  arguments for the command behind the target
#   make PIP_ARGS="--no-index"  arguments for pip install

VENV     ?= .venv
PIP_ARGS ?=
ARGS     ?=
# Of the tests, at most the number of cores. Each loads TVM and PyTorch anew: two of them take 16 %
# more CPU time than one.
WORKERS  ?= 2

BIN     := $(VENV)/bin
INPUTS  := pyproject.toml constraints.txt
SOURCES := xnortvm schedules models tools tests examples
# mypy cannot see that schedules/, models/ and tools/ are sub-packages of xnortvm (pyproject.toml
# says how that works), so it is shown a folder of links in which they lie where they are imported.
TYPES   := build/types

.PHONY: help demo test test-avx512 test-cuda test-arm test-arm-deploy fuzz fuzz-ci coverage lint format bench bench-check bench-record gpu-bundle gpu-records figures clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    compile binary ResNet-18 for this machine, check it, compare its speed"
	@echo "make test    run the tests"
	@echo "make test-avx512  run AVX-512 kernels in an emulator (tests/emulated/README.md)"
	@echo "make test-cuda    CUDA kernels over the whole grid of shapes, in an emulator; no GPU"
	@echo "make test-arm     run ARM kernels and networks in an emulator (the same page)"
	@echo "make test-arm-deploy  deploy to an emulated arm64 board (apt, qemu-user; no root)"
	@echo "make fuzz    compare 1000 random networks with PyTorch (ARGS=5000: as many)"
	@echo "make coverage  write docs/coverage.md: what is binary, by idiom and way of import"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff rewrite what it can"
	@echo "make bench   per-layer speed of the packed kernels on this machine"
	@echo "make bench-check   compare the instruction counts of the kernels with the record"
	@echo "make bench-record  record them, when a change is meant"
	@echo "make gpu-bundle  a folder that a machine with a GPU runs: checks, ceilings, times (docs/cuda.md)"
	@echo "make gpu-records RESULT=result.json   tuning records of what it measured there"
	@echo "make figures measure the figures in README and docs again"
	@echo "make clean   remove everything that make made"

demo: $(VENV)/.ready-demo
	$(BIN)/python examples/demo.py $(ARGS)

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-avx512: $(VENV)/.ready-dev
	$(BIN)/python -m tests.emulated.run $(ARGS)

test-cuda: $(VENV)/.ready-dev
	XNORTVM_CUDA_GRID=1 $(BIN)/python -m pytest -n $(WORKERS) tests/cuda tests/schedules/cuda tests/runtime/test_cuda_build.py $(ARGS)

test-arm: $(VENV)/.ready-dev
	$(BIN)/python -m tests.emulated.arm $(ARGS)

test-arm-deploy: $(VENV)/.ready-dev
	root=$$($(BIN)/python -m tests.arm.root) && XNORTVM_ARM64_ROOT=$$root $(BIN)/python -m pytest tests/arm $(ARGS)

# Random networks against PyTorch; what fails is shrunk and saved in build/fuzz. Replay it with
# ARGS=build/fuzz/…/SPEC.json, and keep it in tests/fuzz/regressions.
fuzz: $(VENV)/.ready-dev
	$(BIN)/python -m tests.fuzz.run --workers $(WORKERS) --keep-going $(ARGS)

# The same 300 networks every time.
fuzz-ci: $(VENV)/.ready-dev
	$(BIN)/python -m tests.fuzz.run 300 --seed 1 --workers $(WORKERS) $(ARGS)

coverage: $(VENV)/.ready-dev
	$(BIN)/python -m tests.coverage.page

bench: $(VENV)/.ready-demo
	$(BIN)/xnortvm bench --layers $(ARGS)

bench-check: $(VENV)/.ready-dev
	$(BIN)/python -m xnortvm.tools.bench_check $(ARGS)

bench-record: $(VENV)/.ready-dev
	$(BIN)/python -m xnortvm.tools.bench_check --record $(ARGS)

# Needs nvcc, and no GPU; the folder is build/gpu-bundle, to be run there with: bash run.sh
gpu-bundle: $(VENV)/.ready-dev
	$(BIN)/python -m xnortvm.tools.gpu_bundle $(ARGS)

# RESULT=gpu-result/result.json, of a run there; the records are to be committed.
gpu-records: $(VENV)/.ready-dev
	$(BIN)/python -m xnortvm.tools.gpu_bundle.records $(RESULT) -o schedules/records

figures: $(VENV)/.ready-dev
	$(BIN)/python -m xnortvm.tools.figures $(ARGS)

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(TYPES) && mkdir -p $(TYPES)/xnortvm
	ln -s $(CURDIR)/xnortvm/* $(CURDIR)/schedules $(CURDIR)/models $(CURDIR)/tools $(TYPES)/xnortvm
	MYPYPATH=$(TYPES) $(BIN)/mypy -p xnortvm

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
	if [ -f $(VENV)/.ready-demo ] || [ -f $(VENV)/.ready-dev ]; then rm -rf $(VENV); fi

$(VENV)/.ready-demo: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e ".[torch,onnx,train]" onnxruntime
	touch $@

$(VENV)/.ready-dev: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e ".[all,dev]"
	touch $@ $(VENV)/.ready-demo

$(BIN)/python:
	@set -e; \
	ok='import sys; sys.exit(sys.version_info < (3, 10))'; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10 python; do \
	  if "$$python" -c "$$ok" 2>/dev/null; then \
	    echo "$$python -m venv $(VENV)"; \
	    "$$python" -m venv $(VENV) && exit 0; \
	    rm -rf $(VENV); \
	    echo "$$python cannot make a virtual environment: install its venv module (python3-venv)." >&2; \
	    exit 1; \
	  fi; \
	  if [ -n "$(PYTHON)" ]; then echo "PYTHON=$(PYTHON) is not Python 3.10 or newer." >&2; exit 1; fi; \
	done; \
	echo "No Python >= 3.10 was found; name one with: make PYTHON=/path/to/python3" >&2; exit 1
