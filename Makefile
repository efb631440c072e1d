# `make help` lists what there is. Every target sets up what it needs, once.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := $(or $(DYNATRAIN_VENV),$(CURDIR)/.venv)
OLDEST_VENV := $(or $(DYNATRAIN_OLDEST_VENV),$(CURDIR)/.venv-torch211)
BUILD := build/release
JOBS := $(shell nproc)
BIN := $(VENV)/bin
TIMED := scripts/timed
PYTEST := env OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# Files of short tests are spread over so many processes; each has workers of its own.
TEST_PROCESSES ?= 2
SPREAD := -n $(TEST_PROCESSES) --dist loadfile
PYTEST_FOLDERS = $(wildcard tests/python tests/multiprocess tests/gpu tests/regression tests/lint)

# CMake and Ninja of the environment come before the system's.
export PATH := $(BIN):$(PATH)

LOCKED := $(VENV)/.locked
INSTALLED := $(VENV)/.installed
WITH_TESTS := $(BUILD)/.with-tests

GPU_PYTHON ?= python3
GPU_OUT ?= out/gpu-check

# Of each target of `make fuzz`, which `make test-long` runs, too.
FUZZ_SECONDS ?= 60

.PHONY: help setup build build-tests demo demo-elastic test test-cpp test-python test-bare test-long \
  sanitize fuzz lint bench bench-memory bench-elastic gpu-check gpu-bundle wheel chaos what-travels api \
  lock clean clean-all

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(LOCKED): requirements-dev.lock requirements-titan.txt
	@$(TIMED) "set-up of the environment" scripts/make_venv "$(VENV)" requirements-dev.lock \
	  requirements-titan.txt

$(BUILD)/build.ninja: $(LOCKED)
	@cmake --preset release -DPython_EXECUTABLE="$(BIN)/python" -DDYNATRAIN_BUILD_PYTHON=ON \
	  -DDYNATRAIN_NATIVE_DIR="$(CURDIR)/python/dynatrain" -DDYNATRAIN_BUILD_TESTS=OFF \
	  --log-level=WARNING
	@rm -f $(WITH_TESTS)
	@touch $@

# Where GoogleTest cannot be had, the folder goes on without tests.
$(WITH_TESTS): $(BUILD)/build.ninja
	@$(TIMED) "set-up of the C++ tests" cmake $(BUILD) -DDYNATRAIN_BUILD_TESTS=ON \
	  -DDYNATRAIN_INSTALL_GOOGLETEST=ON --log-level=WARNING || \
	  { cmake $(BUILD) -DDYNATRAIN_BUILD_TESTS=OFF --log-level=ERROR >/dev/null; exit 1; }
	@touch $@

$(INSTALLED): $(LOCKED) pyproject.toml setup.py python/dynatrain/_version.py | $(BUILD)/build.ninja
	@DYNATRAIN_BUILD_DIR="$(CURDIR)/$(BUILD)" $(TIMED) "build and development install" \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --no-deps --editable .
	@touch $@

setup: $(INSTALLED) ## make the environment and the development install

build: $(INSTALLED) $(BUILD)/build.ninja ## build the library and the Python module
	@$(TIMED) "build" cmake --build $(BUILD) --target dynatrain_native -j $(JOBS) -- --quiet

build-tests: build $(WITH_TESTS) ## build the C++ tests as well
	@$(TIMED) "build of the C++ tests" cmake --build $(BUILD) -j $(JOBS) -- --quiet

demo: build ## the main job: train a small GPT on 4 processes and switch its layout while it trains
	@$(TIMED) "demo" $(BIN)/torchrun --standalone --nproc-per-node=4 examples/train_gpt.py --demo

demo-elastic: build ## processes join, leave, die and idle while a small GPT trains, beside a restart each time
	@$(TIMED) "demo-elastic" $(BIN)/python examples/train_elastic.py

test: ## build and pass every test that takes seconds
	@$(TIMED) "make test" $(MAKE) test-cpp test-python

test-cpp: build-tests ## the C++ tests
	@$(TIMED) "C++ tests" ctest --test-dir $(BUILD) -LE long --output-on-failure -j $(JOBS) \
	  --no-tests=error

test-python: build ## the Python tests, multi-process ones too
	@$(TIMED) "Python tests" $(PYTEST) -m "not long" $(SPREAD) $(PYTEST_FOLDERS)

# Of the thread sanitizer's build, the programs whose code starts threads; not what takes minutes
# there and does the same as others, more often.
SANITIZED_asan := all
SANITIZED_tsan := base_test execution_test fingerprint_test kernels_test transport_test \
  cuda_on_host_test
UNTRIED_tsan := |^Fuzz[.]|EveryPairOfLayouts|GpuCopier.RandomBatches
# Sanitizers of g++ 12 end where the system scatters memory as widely as later ones do.
UNSCATTERED := $(shell setarch -R true 2>/dev/null && echo setarch -R)
sanitize-%: $(LOCKED)
	@cmake --preset $* -DDYNATRAIN_INSTALL_GOOGLETEST=ON --log-level=WARNING
	@$(TIMED) "build with $*" cmake --build build/$* -j $(JOBS) --target $(SANITIZED_$*) -- --quiet
	@TSAN_OPTIONS="die_after_fork=0 suppressions='$(CURDIR)/tests/thread_sanitizer.txt'" \
	  $(TIMED) "C++ tests with $*" $(UNSCATTERED) ctest --test-dir build/$* \
	  -LE 'long|gpu' -E '_NOT_BUILT$(UNTRIED_$*)' --output-on-failure -j $(JOBS) --no-tests=error

sanitize: sanitize-asan sanitize-tsan ## the C++ tests under the sanitizers: addresses, undefined behaviour, threads

$(OLDEST_VENV)/.locked: requirements-oldest.txt
	@$(TIMED) "set-up of the oldest torch" scripts/make_venv "$(OLDEST_VENV)" requirements-oldest.txt

test-bare: ## demo, tests and pip's install where CUDA, GoogleTest, CMake, Ninja and ccache are hidden
	@$(TIMED) "make test-bare" scripts/bare.py

chaos: build ## disturb elastic jobs a thousand times: kills, stops, a coordinator that goes and comes
	@$(TIMED) "chaos" $(PYTEST) --timeout=7200 tests/multiprocess/test_chaos.py

what-travels: build ## try what travels over a switch and write docs/reference/what-travels.md
	@env OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m what_travels

api: build ## write docs/reference/api.md from the docstrings
	@env OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m api_page

test-long: build-tests $(OLDEST_VENV)/.locked ## the tests that take minutes, and the deeper linter
	@$(TIMED) "make lint, deep" scripts/lint $(BUILD) --deep
	@$(TIMED) "long C++ tests" ctest --test-dir $(BUILD) -L long --output-on-failure
	@$(MAKE) sanitize-tsan fuzz
	@DYNATRAIN_OLDEST_VENV="$(OLDEST_VENV)" $(TIMED) "long Python tests" $(PYTEST) -m long --timeout=1800 $(PYTEST_FOLDERS)
	@$(TIMED) "Python tests under the oldest torch" env OMP_NUM_THREADS=1 PYTHONPATH=python \
	  $(OLDEST_VENV)/bin/python -m pytest -m "not long" $(SPREAD) tests/python tests/multiprocess \
	  --ignore=tests/python/package
	@$(TIMED) "bare machine" scripts/bare.py --skip-where-impossible

fuzz: $(LOCKED) ## search for inputs that break what is read from outside, FUZZ_SECONDS a target
	@$(TIMED) "fuzz" scripts/fuzz build/fuzz "$(FUZZ_SECONDS)"

lint: build ## every formatter, linter and type checker
	@$(TIMED) "make lint" scripts/lint $(BUILD)

bench: build ## time a switch beside torch's checkpoint and a measured ceiling
	@$(TIMED) "bench" $(BIN)/python benchmarks/switch.py --json

bench-memory: build ## what a switch takes of memory, predicted and measured, with a picture
	@$(TIMED) "bench-memory" $(BIN)/python benchmarks/memory.py --picture out/memory.png

bench-elastic: build ## time joins, leaves, deaths and resizes beside restarts, and replay a trace of preemptions
	@$(TIMED) "bench-elastic" $(BIN)/python benchmarks/elastic.py $(if $(TRACE),--trace "$(TRACE)")

gpu-check: ## build, test and measure everything that needs a GPU, with the torch of GPU_PYTHON, offline
	@$(TIMED) "gpu-check" $(GPU_PYTHON) benchmarks/gpu_check.py --out "$(GPU_OUT)"

gpu-bundle: ## put GoogleTest's sources into out/googletest, for gpu-check on a machine without it
	@test -d /usr/src/googletest || scripts/debian_package googletest
	@rm -rf out/googletest && mkdir -p out && cp -r /usr/src/googletest out/googletest

wheel: $(INSTALLED) ## build dist/*.whl
	@$(TIMED) "wheel" $(BIN)/python -m pip wheel --quiet --disable-pip-version-check \
	  --no-build-isolation --no-deps --wheel-dir dist .

lock: ## resolve requirements-dev.in again, under each Python that is named in PYTHONS
	@python3 scripts/lock.py $(or $(PYTHONS),python3.10 python3.11 python3.12 python3.13) \
	  > requirements-dev.lock.new
	@mv requirements-dev.lock.new requirements-dev.lock

clean: ## remove what was built (the environment too: make clean-all)
	@rm -rf build dist out python/*.egg-info python/dynatrain/_native*.so .mypy_cache .ruff_cache \
	  .pytest_cache .hypothesis
	@rm -f "$(INSTALLED)"

clean-all: clean ## remove the environments as well
	@rm -rf .venv .venv-torch211
