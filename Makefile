# SPDX-License-Identifier: MIT
# The whole interface of the repository; `make` alone lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
SOURCES := setup.py pyproject.toml constraints.txt $(shell find csrc -type f)
EXTRAS := completion,demo,reproduce,test,bench,lint,docs,wheels,transport,transformers,torchmetrics,lightning,tensorboard,jax

.PHONY: help demo test test-newest bench bench-cluster gpu-check lint walk fuzz sanitize emulate docs wheels clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

# torch first and alone: its version decides which build of it is installed.
$(VENV)/installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint $(CONSTRAINTS) torch
	PIP_CONSTRAINT=$(CURDIR)/$(CONSTRAINTS) $(BIN)/python -m pip install --disable-pip-version-check --quiet -e ".[$(EXTRAS)]"
	touch $@

demo: $(VENV)/installed  ## train residual and plain networks on digits, measure LSS and OTS, write a report
	$(BIN)/python -m geodesic_fast demo $(ARGS)

test: $(VENV)/installed  ## run the tests
	$(BIN)/python -m pytest $(ARGS)

test-newest:  ## run the tests against the newest release of every package but torch, in .venv-newest
	mkdir -p build && grep '^torch==' constraints.txt > build/newest.txt
	rm -f .venv-newest/installed
	PIP_UPGRADE=1 PIP_UPGRADE_STRATEGY=eager $(MAKE) test VENV=.venv-newest CONSTRAINTS=build/newest.txt

bench: $(VENV)/installed  ## time every public function beside its rivals: ARGS="--quick", "-k lss", "--benchmark-compare"
	$(BIN)/python -m pytest benchmarks $(ARGS)

bench-cluster: $(VENV)/installed  ## scaling over two gloo processes of this machine: ARGS="--points 20000 --features 256"
	$(BIN)/python -m torch.distributed.run --standalone --nproc-per-node 2 benchmarks/cluster/scaling.py $(ARGS)

gpu-check:  ## build in place against the torch that is installed, run GPU tests and benchmarks; no network
	since=$$(date +%s) && \
	GEODESIC_FAST_CUDA=1 GEODESIC_FAST_CUDA_ARCHS=native $(PYTHON) -m pip install --quiet --no-build-isolation --no-deps -e . && \
	$(PYTHON) benchmarks/gpu_check.py --since $$since $(ARGS)

lint: $(VENV)/installed  ## check format, style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh') \
	  $(shell find tests/cuda_on_cpu -name '*.h' -o -name '*.cpp' -o -name '*.cu')

fuzz: $(VENV)/installed  ## random problems against extended precision, without end: ARGS="--seconds 3600 --seed 1"
	for fuzzer in tests/fuzz_*.py; do $(BIN)/python $$fuzzer $(ARGS) || exit 1; done

walk: $(VENV)/installed  ## watch every family of models of the installed transformers, against plain hooks
	GEODESIC_FAST_WALK=all $(BIN)/python -m pytest tests/test_real_families.py $(ARGS)

sanitize: $(VENV)/installed  ## run the engine's CPU tests under the address and undefined-behaviour sanitizers
	PYTHON=$(BIN)/python bash tests/sanitize.sh

emulate: $(VENV)/installed  ## run the CUDA kernels on an emulated GPU: both sanitizers, four architectures, several orders
	$(BIN)/python tests/cuda_on_cpu/long_set.py $(ARGS)

docs: $(VENV)/installed  ## build the documentation site into docs/build, without a network
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/build $(ARGS)

wheels: $(VENV)/installed  ## build the source distribution and a wheel for each Python at hand, try each; PYTHONS=...
	PYTHON=$(BIN)/python PIP_CONSTRAINT=$(CURDIR)/constraints.txt bash tests/wheels.sh

clean:  ## remove everything that a command here made
	rm -rf $(VENV) .venv-newest build dist geodesic_fast.egg-info geodesic_fast/_C*.so
