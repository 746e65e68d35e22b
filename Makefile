# `make` alone lists the targets. Nothing here needs cmake or ninja on the system: both come into the environments.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

DEMO := .venv
TEST := .venv-test
# Without a GPU the kernels are not compiled for the demo: they take minutes, and nothing there runs them.
DEMO_CUDA := $(if $(wildcard /proc/driver/nvidia/version),AUTO,OFF)
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
B2M_WERROR ?= OFF
SANITIZERS ?= asan ubsan tsan
PYTEST_ARGS ?=

# The package is installed again when one of these changed (folders too: a file may have been removed).
SOURCES := CMakeLists.txt pyproject.toml constraints.txt LICENSE README.md \
           $(shell find csrc b2m_fast -name __pycache__ -prune -o -name '*.so' -o -print 2>/dev/null)

say = @printf '\n==> %s\n'

.PHONY: help demo quick test nightly test-cpp test-sanitizers test-python test-emulated bench bench-figures lint format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(DEMO)/.installed  ## install into .venv, and show what the package does (some minutes)
	@$(DEMO)/bin/b2m demo

quick: $(TEST)/.installed  ## the Python tests for every change: those marked slow left out (aim: 200 CPU seconds, not reached yet)
	@$(call pytest,-m "not slow and not large and not nightly" -n $(JOBS) $(PYTEST_ARGS))

test: test-cpp test-python test-emulated  ## C++ tests, Python tests, and the CUDA kernels on the host (under 1,000 CPU seconds)

nightly: test-sanitizers  ## all the rest: C++ under sanitizers, every engine and size, long random tests
	$(say) "Running every Python test"
	@HYPOTHESIS_PROFILE=long; export HYPOTHESIS_PROFILE; $(call pytest,-m "not large" -n $(JOBS) $(PYTEST_ARGS))
	@$(MAKE) test-emulated EMULATED="nightly or not nightly"

# From inside the environment's folder: what is tested is the installed package, also in processes that the tests start.
pytest = cd $(TEST) && bin/pytest -c ../pyproject.toml --rootdir .. ../python_tests $(1)

# $(call cpp,PRESET): build the C++ tests of a preset and run them.
define cpp
	printf '\n==> Building and running the C++ tests: %s\n' "$(1)"; \
	cmake --preset "$(1)" -DB2M_WERROR=$(B2M_WERROR) --log-level=WARNING; \
	cmake --build --preset "$(1)" --parallel $(JOBS) -- --quiet; \
	ctest --preset "$(1)"
endef

test-cpp: $(TEST)/.installed
	@export PATH="$(CURDIR)/$(TEST)/bin:$$PATH"; $(call cpp,release)

test-sanitizers: $(TEST)/.installed  ## C++ tests under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer
	@export PATH="$(CURDIR)/$(TEST)/bin:$$PATH"; \
	for preset in $(SANITIZERS); do $(call cpp,$$preset); done; \
	cmake --preset emulated-asan -DB2M_WERROR=$(B2M_WERROR) --log-level=WARNING; \
	cmake --build --preset emulated-asan --parallel $(JOBS) --target cuda_smoke emulation_test -- --quiet; \
	ctest --preset emulated-asan --label-regex cuda

test-python: $(TEST)/.installed
	$(say) "Running the Python tests"
	@$(call pytest,-m "not large and not nightly" -n $(JOBS) $(PYTEST_ARGS))

# The CUDA engine's own sources, executed on the host, and with them the Python tests of that engine: what a machine without a GPU
# can test. The same build has AMX's tile instructions in plain C++, and runs the tests of the ops on them. It is not installed; its
# tests find it through PYTHONPATH.
EMULATED ?= not nightly
test-emulated: $(TEST)/.installed
	$(say) "Building and running the CUDA kernels on the host"
	@export PATH="$(CURDIR)/$(TEST)/bin:$$PATH"; \
	cmake --preset emulated -DB2M_WERROR=$(B2M_WERROR) -DB2M_BUILD_PYTHON=ON --log-level=WARNING \
	  -DPython_EXECUTABLE="$(CURDIR)/$(TEST)/bin/python" -Dpybind11_DIR="$$(python -m pybind11 --cmakedir)"; \
	cmake --build --preset emulated --parallel $(JOBS) -- --quiet; \
	ctest --preset emulated --label-regex cuda; \
	.ci/stage build/emulated build/emulated/stage; \
	cd build/emulated; \
	export PYTHONPATH="$$PWD/stage"; \
	run() { python -m pytest -c ../../pyproject.toml --rootdir ../.. ../../python_tests -m "$(EMULATED)" -n $(JOBS) "$$@"; }; \
	run -k emulated $(PYTEST_ARGS); \
	if python -c 'import sys; from b2m_fast import _C; sys.exit("amx-emulated" not in _C.isa_available())'; then \
	  printf '\n==> Running the tests of the ops on emulated AMX tiles\n'; \
	  B2M_ISA=amx-emulated run -k 'test_ops and (cpu or precision or edges)' $(PYTEST_ARGS); \
	fi

bench: $(TEST)/.installed  ## time the ops and judge the figures to reach (about 20 minutes; B2M_BENCH=short: one)
	$(say) "Running the benchmarks"
	@$(TEST)/bin/pytest benches -q --benchmark-quiet $(PYTEST_ARGS)

bench-figures: $(TEST)/.installed  ## draw the newest whole run of `make bench` into docs/figures
	@$(TEST)/bin/python benches/plots.py

lint: $(TEST)/.installed  ## ruff, mypy, clang-format: report, change nothing
	$(say) "Checking the Python style: ruff"
	@$(TEST)/bin/ruff check .
	@$(TEST)/bin/ruff format --check .
	$(say) "Checking the Python types: mypy"
	@$(TEST)/bin/mypy
	$(say) "Checking the C++ style: clang-format"
	@find csrc -regex '.*\.\(h\|cpp\|cu\)' -print0 | xargs -0r $(TEST)/bin/clang-format --dry-run -Werror

format: $(TEST)/.installed  ## let ruff and clang-format rewrite what they can
	$(say) "Formatting the sources"
	@$(TEST)/bin/ruff check --fix .
	@$(TEST)/bin/ruff format .
	@find csrc -regex '.*\.\(h\|cpp\|cu\)' -print0 | xargs -0r $(TEST)/bin/clang-format -i

clean:  ## remove the environments and everything built (results stay)
	$(say) "Removing .venv, .venv-test, build and caches"
	@rm -rf $(DEMO) $(TEST) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	@find b2m_fast python_tests benches -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# ----------------------------------------------------------------------------------------------------------------------
# Environments
# ----------------------------------------------------------------------------------------------------------------------
$(DEMO)/.installed: EXTRAS := experiments
$(DEMO)/.installed: export B2M_CUDA ?= $(DEMO_CUDA)
$(TEST)/.installed: EXTRAS := experiments,driving,cnn,encoding,test,bench,lint

$(DEMO)/.installed $(TEST)/.installed: %/.installed: %/.created $(SOURCES)
	$(say) "Installing b2m_fast with [$(EXTRAS)] into $* (the first time this fetches PyTorch: some minutes)"
	@$*/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ".[$(EXTRAS)]"
	@touch $@

# The first Python of at least 3.11 that can make an environment; PYTHON=... chooses another.
$(DEMO)/.created $(TEST)/.created: %/.created:
	@for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    printf '\n==> Creating the environment %s with %s\n' "$*" "$$("$$candidate" --version)"; \
	    "$$candidate" -m venv --clear "$*"; touch "$@"; exit 0; \
	  fi; \
	done; \
	printf 'No Python of at least 3.11 with its venv module was found.\n' >&2; \
	printf 'Install one (on Debian and Ubuntu: apt install python3-venv), or name it: make PYTHON=/path/to/python3 ...\n' >&2; \
	exit 1
