# Carrel's commands. `make demo` and `make test` set up everything they need; see README.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROXY := .cache/node/node_modules/.bin/configurable-http-proxy
NATIVE := remote_gpu/native
TORCH := .venv-torch
JOBS ?= $(shell nproc)

.DEFAULT_GOAL := help
.PHONY: help demo test test-torch torch-wheel test-native fuzz lint format bench gpu conformance build chromium postgresql screenshots wheel clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

# --- setting up ---------------------------------------------------------------------------------

$(VENV)/.installed: pyproject.toml setup.py
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Carrel needs Python 3.11 or newer"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip setuptools wheel pyyaml cmake ninja grpcio-tools mypy-protobuf
	$(BIN)/python -m pip install -q --no-build-isolation -e '.[demo,test,lint]'
	touch $@

build: $(VENV)/.installed ## build the native parts in place
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python setup.py -q build_ext --inplace

$(PROXY):
	mkdir -p .cache/node
	npm install --silent --no-fund --no-audit --prefix .cache/node configurable-http-proxy@5

chromium: $(VENV)/.installed
	@tests/support/install.sh $(BIN) chromium

postgresql: $(VENV)/.installed
	@tests/support/install.sh $(BIN) postgresql

# --- using --------------------------------------------------------------------------------------

demo: build $(PROXY) ## hub, proxy, broker and a node with two software GPUs on http://127.0.0.1:8000
	$(BIN)/carrel-demo $(ARGS)

screenshots: build $(PROXY) chromium ## take the README's pictures from a running demo
	$(BIN)/python docs/screenshots.py

# --- checking -----------------------------------------------------------------------------------

test: build $(PROXY) chromium postgresql ## the default test suite; no GPU needed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

# Stock PyTorch for CUDA without NVIDIA's libraries, which Carrel's stand for; NVRTC needs no GPU.
$(TORCH)/.installed:
	test -x $(TORCH)/bin/python || $(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/python -m pip install -q --no-deps 'torch>=2.15,<2.16' 'triton>=3.9,<3.10' 'nvidia-cuda-nvrtc>=13,<14'
	$(TORCH)/bin/python -m pip install -q filelock fsspec jinja2 networkx numpy setuptools sympy typing_extensions
	touch $@

torch-wheel: $(TORCH)/.installed

test-torch: build torch-wheel ## stock PyTorch on the software GPU; installs its CUDA wheel (large)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -o addopts="-ra --import-mode=importlib" tests/torch $(ARGS)

test-native: $(VENV)/.installed ## native tests under ASan and UBSan, then under TSan
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/native/run.sh address,undefined
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/native/run.sh thread

fuzz: $(VENV)/.installed ## fuzz the wire decoder, the PTX engine and containers of code for a minute (needs clang)
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/native/fuzz.sh 60

conformance: build ## numba-cuda's own tests on the software GPU; writes docs/conformance.md
	$(BIN)/python tests/conformance/run.py $(ARGS)

bench: build ## every benchmark that runs here; writes bench/latest.json
	$(BIN)/python -m bench $(ARGS)

gpu: ## on a host with an NVIDIA GPU, no network: build, conformance, native against remote
	bench/gpu.sh $(ARGS)

lint: build ## ruff, mypy, clang-format, and generated pages that must be current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files 'remote_gpu/native/**.[ch]pp' 'tests/native/**.[ch]pp' 'bench/native/*.[ch]pp' | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/python -m remote_gpu.codegen.coverage --check

format: $(VENV)/.installed ## format Python and C++
	$(BIN)/ruff check --fix -q .
	$(BIN)/ruff format -q .
	git ls-files 'remote_gpu/native/**.[ch]pp' 'tests/native/**.[ch]pp' 'bench/native/*.[ch]pp' | xargs $(BIN)/clang-format -i

wheel: $(VENV)/.installed ## build the wheel into dist/
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist .

clean: ## remove what was built; keep .venv
	rm -rf build dist remote_gpu/lib .demo bench/latest.json
